package loader

import "testing"

// TestReadyOnceTold: a process counts as attached when the kernel knows it as one, not
// when its probes are there: until then its calls have no parent.
func TestReadyOnceTold(t *testing.T) {
	g := &golang{pending: map[uint32]uint64{7: 1}}
	ready := func(when string, want bool) {
		t.Helper()
		if why := g.unready(); (why == "") != want {
			t.Errorf("%s: %q", when, why)
		}
	}
	ready("asked for", false)
	g.tell(goAttached{pid: 7})
	g.settle(7, 1)
	ready("attached", false)
	if got := g.take(); len(got) != 1 || got[0].pid != 7 {
		t.Fatalf("took %+v", got)
	}
	ready("about to be told", false)
	if got := g.take(); len(got) != 0 {
		t.Fatalf("took %+v", got)
	}
	ready("told", true)
}
