package queue

import (
	"math/rand/v2"
	"slices"
	"testing"
)

type item struct {
	n int
	Links[item]
}

// Whatever comes and leaves, the order is that of a slice treated likewise, read
// from either end, and what has left holds nothing.
func TestQueue(t *testing.T) {
	random := rand.New(rand.NewPCG(1, 2))
	var q Queue[item, *item]
	var want []*item
	for n := range 10_000 {
		if len(want) == 0 || random.IntN(2) == 0 {
			x := &item{n: n}
			q.Push(x)
			want = append(want, x)
		} else {
			i := random.IntN(len(want))
			x := want[i]
			q.Remove(x)
			want = slices.Delete(want, i, i+1)
			if x.older != nil || x.newer != nil {
				t.Fatal("what has left still holds its neighbours")
			}
		}
		if n%10 != 0 {
			continue
		}
		var forth, back []*item
		for x := q.Oldest(); x != nil; x = q.Newer(x) {
			forth = append(forth, x)
		}
		for x := q.newest; x != nil; x = x.older {
			back = append(back, x)
		}
		slices.Reverse(back)
		if !slices.Equal(forth, want) || !slices.Equal(back, want) {
			t.Fatalf("after %d steps: %d forth, %d back, want %d", n, len(forth), len(back), len(want))
		}
	}
	for q.Oldest() != nil {
		q.Remove(q.Oldest())
	}
	if q.newest != nil {
		t.Error("empty, and has a newest")
	}
}
