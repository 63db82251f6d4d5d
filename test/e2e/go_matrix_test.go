package e2e

import (
	"os"
	"testing"

	"weft/test/e2e/truth"
	"weft/test/e2e/variant"
)

// TestGoMatrix judges every call of a Go program that is called by 64 clients at
// a time, pattern by pattern.
func TestGoMatrix(t *testing.T) {
	r := startGoRig(t, newGoHost(t), buildGo(t, goLocal), "http1", parseGo(t, ""))
	r.trace(t)
	r.attached(t)
	r.warm()
	sum := result{Name: goLocal.Name() + "/http1"}
	for _, p := range goPatterns {
		n := scaled(t, 5000)
		if len(p.calls) == len(aToJ) && os.Getenv("WEFT_E2E_GO") != "full" {
			n = scaled(t, 1000) // of ten calls each
		}
		tally := r.measure("m", n, truth.Calls{}, p)
		t.Logf("%-16s %v", p.name, tally)
		if err := tally.Err(); err != nil {
			t.Errorf("%s:\n%v", p.name, err)
		}
		sum.add(tally)
	}
	r.leave(t, sum)
	r.end(t)
}

// goProtocols are those of test/apps/gomatrix but for plain HTTP/1.
var goProtocols = []string{"https", "h2", "h2x", "h2c", "h2c-std"}

// TestGoMixed does the same with all patterns at once: for what other toolchains
// built, and over TLS and HTTP/2 by both of their implementations.
func TestGoMixed(t *testing.T) {
	h := newGoHost(t)
	var rigs []*goRig
	var names []string
	start := func(v variant.Variant, protocol string) {
		bin, err := findGo(t, v)
		if err != nil {
			names, rigs = append(names, err.Error()), append(rigs, nil)
			return
		}
		names = append(names, v.Name()+"/"+protocol)
		rigs = append(rigs, startGoRig(t, h, bin, protocol, parseGo(t, v.Toolchain)))
	}
	for _, v := range goVariants(t) {
		start(v, "http1")
	}
	for _, protocol := range goProtocols {
		start(goLocal, protocol)
	}
	h.trace(t)
	for i, r := range rigs {
		t.Run(names[i], func(t *testing.T) {
			if r == nil {
				t.Skip("no Go here to build it, and deps.sh does not bring it: it runs on the host")
			}
			r.mixed(t, names[i], scaled(t, 160)) // of each pattern: 5,120 in all
		})
	}
	h.end(t)
}

// mixed sends n requests of each pattern, mixed.
func (r *goRig) mixed(t *testing.T, name string, n int) {
	t.Helper()
	r.attached(t)
	r.warm()
	tally := r.measure("m", n, truth.Calls{}, goPatterns...)
	t.Logf("%s: %v", name, tally)
	if err := tally.Err(); err != nil {
		t.Errorf("%s:\n%v", name, err)
	}
	sum := result{Name: name}
	sum.add(tally)
	r.leave(t, sum)
}

func (r *result) add(tally *truth.Tally) {
	r.Requests += tally.Requests
	r.Linked += tally.Right
	r.Roots += tally.Missing + tally.Rooted
	r.Wrong += tally.Wrong()
}

// TestGoJudgesUntraced is the harness's own proof: the same without weft must be
// answered in full, and must be found untraced.
func TestGoJudgesUntraced(t *testing.T) {
	h := &goHost{g: newGroup(t)}
	for _, protocol := range append([]string{"http1"}, goProtocols...) {
		t.Run(protocol, func(t *testing.T) {
			r := startGoRig(t, h, buildGo(t, goLocal), protocol, parseGo(t, ""))
			r.warm()
			for _, p := range goPatterns {
				tally := r.measure("off", 8, truth.Calls{}, p)
				carried := 0 // headers that the program itself carries
				if p.own || p.forwards {
					carried = tally.Calls - tally.Count("header")
				}
				if tally.Count("header") != tally.Calls-carried || tally.Count("lost") < 7 || tally.Wrong() > 0 {
					t.Errorf("%s: nothing was traced, but: %v\n%v", p.name, tally, tally.Err())
				}
			}
		})
	}
}
