package export

import "weft/internal/event"

// ring is a queue of spans that grows as it needs to and forgets what left it.
// Its bound is its owner's business. The zero ring is empty.
type ring struct {
	slots []*event.Span // length a power of two, or 0
	head  int
	n     int
}

func (r *ring) len() int { return r.n }

func (r *ring) push(s *event.Span) {
	if r.n == len(r.slots) {
		grown := make([]*event.Span, max(64, 2*len(r.slots)))
		k := copy(grown, r.slots[r.head:])
		copy(grown[k:], r.slots[:r.head])
		r.slots, r.head = grown, 0
	}
	r.slots[(r.head+r.n)&(len(r.slots)-1)] = s
	r.n++
}

// pop takes up to limit spans, oldest first.
func (r *ring) pop(limit int) []*event.Span {
	k := min(limit, r.n)
	if k == 0 {
		return nil
	}
	out := make([]*event.Span, k)
	for i := range out {
		at := (r.head + i) & (len(r.slots) - 1)
		out[i], r.slots[at] = r.slots[at], nil
	}
	r.head = (r.head + k) & (len(r.slots) - 1)
	r.n -= k
	return out
}
