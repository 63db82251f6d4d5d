package e2e

import (
	"strings"
	"testing"

	"weft/test/e2e/truth"
)

// TestGoLent: nothing tells a worker that a request made, and that works for another
// one meanwhile, from what the first has running on its own behalf. Its calls are
// children of its maker, or roots, but never of a third request; and roots once its maker
// has been answered.
func TestGoLent(t *testing.T) {
	r := startGoRig(t, newGoHost(t), buildGo(t, goLocal), "http1", parseGo(t, ""))
	r.trace(t)
	r.attached(t)
	lend, borrow := goPattern{name: "lend", calls: []string{}, bare: true}, goPattern{name: "borrow", bare: true}
	n := scaled(t, 1000)
	e := truth.Calls{Unwritten: r.still, Requests: r.send("m", n, lend, borrow)}
	e.Arrivals = r.settled(n, true)
	e.Spans = r.spans(e)
	servers := map[string]truth.Span{}
	for _, s := range e.Spans {
		if s.Kind == "SERVER" {
			servers[s.SpanID] = s
		}
	}
	calls, children := 0, 0
	for i := range e.Spans {
		s := &e.Spans[i]
		id, call := truth.SpanKey(s)
		if s.Kind != "CLIENT" || call != "borrow" {
			continue
		}
		calls++
		if s.ParentID == "" {
			continue
		}
		maker := servers[s.ParentID]
		if of, _ := truth.SpanKey(&maker); !strings.HasPrefix(of, "m-lend-") || s.Rule != "creator" {
			t.Errorf("the call of %s: its parent is %s, by %s", id, maker.String(), s.Rule)
		}
		children++
	}
	t.Logf("%d of %d calls are children of the request that made the worker", children, calls)
	if calls != n {
		t.Errorf("%d calls have a span, want %d", calls, n)
	}
	tally := r.measure("after", n, truth.Calls{}, goPattern{name: "inherit", expect: truth.Root})
	t.Logf("after its end: %v", tally)
	if err := tally.Err(); err != nil {
		t.Error(err)
	}
	r.leave(t, result{Name: "lent"})
	r.end(t)
}
