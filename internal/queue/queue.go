// Package queue keeps items in order of arrival and lets any of them leave, all in
// O(1) and without an allocation: an item carries its own links. It is what the
// bounds by age and by number stand on: the oldest is at hand.
package queue

// Links is embedded by what stands in a queue. An item stands in one at a time.
type Links[T any] struct{ older, newer *T }

func (l *Links[T]) links() *Links[T] { return l }

type linked[T any] interface {
	*T
	links() *Links[T]
}

// Queue is empty when it is zero, and not safe for concurrent use.
type Queue[T any, P linked[T]] struct{ oldest, newest P }

// Oldest is the item that has waited longest; nil: there is none.
func (q *Queue[T, P]) Oldest() P { return q.oldest }

// Newer is the item that came after x; nil: x is the newest.
func (q *Queue[T, P]) Newer(x P) P { return x.links().newer }

// Push makes x the newest. It must not stand in a queue.
func (q *Queue[T, P]) Push(x P) {
	x.links().older = q.newest
	if q.newest != nil {
		q.newest.links().newer = x
	} else {
		q.oldest = x
	}
	q.newest = x
}

// Remove takes x out, which must stand in this queue. Its links are cleared: who
// keeps x does not keep its former neighbours alive.
func (q *Queue[T, P]) Remove(x P) {
	l := x.links()
	if l.older != nil {
		P(l.older).links().newer = l.newer
	} else {
		q.oldest = l.newer
	}
	if l.newer != nil {
		P(l.newer).links().older = l.older
	} else {
		q.newest = l.older
	}
	l.older, l.newer = nil, nil
}
