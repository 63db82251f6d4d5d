package main

import (
	"strings"
	"testing"
)

// Each kind must be hit: emulated ones cost more than a call and less than what is
// single-stepped does, and a process beside pays nothing. The bounds are wide, for
// machines at work.
func TestTraps(t *testing.T) {
	s := short()
	s.rounds = 2
	b := startBench(t, s)
	res, err := measureTraps(t.Context(), b)
	if err != nil {
		t.Fatal(err)
	}
	if len(res.traps) != len(trapKinds()) {
		t.Fatalf("%d kinds measured", len(res.traps))
	}
	for _, k := range res.traps {
		if len(k.perf) != s.rounds {
			t.Errorf("%s: %d rounds", k.kind.name, len(k.perf))
		}
		for way, hits := range map[string][]float64{"perf": k.perf, "multi": k.multi} {
			for _, ns := range hits {
				if ns < 50 || ns > 1e6 {
					t.Errorf("%s by %s: %.0f ns a hit", k.kind.name, way, ns)
				}
			}
		}
		if len(k.multi) > 0 && median(k.outside) > median(k.multi)/2 {
			t.Errorf("%s: a process that is not probed pays %.0f ns, one that is %.0f", k.kind.name, median(k.outside), median(k.multi))
		}
		t.Logf("%s: multi %.0f, perf %.0f, beside %.0f", k.kind.name, k.multi, k.perf, k.outside)
	}
	text := res.markdown()
	if got := strings.Count(text, "| emulated"); got != len(trapKinds())-1 || !strings.Contains(text, "single-stepped") {
		t.Errorf("the page:\n%s", text)
	}
	res.traps[0].multi, res.traps[0].outside = nil, nil
	if text := res.markdown(); strings.Count(text, "| not on this kernel |") != 2 {
		t.Errorf("without uprobe_multi:\n%s", text)
	}
}
