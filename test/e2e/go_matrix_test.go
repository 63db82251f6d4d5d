package e2e

import (
	"fmt"
	"strings"
	"testing"

	"weft/test/e2e/truth"
	"weft/test/e2e/variant"
)

// TestGoMatrix judges every call of a Go program that is called by 64 clients at
// a time, pattern by pattern.
func TestGoMatrix(t *testing.T) {
	r := startGoRig(t, buildGo(t, goLocal), "http1", parseGo(t, ""), &agentOptions{})
	r.warm()
	sum := result{Name: goLocal.Name() + "/http1"}
	for _, p := range goPatterns {
		tally := r.measure("m", scaled(t, 5000), truth.Calls{}, p)
		t.Logf("%-16s %v", p.name, tally)
		if err := tally.Err(); err != nil {
			t.Errorf("%s:\n%v", p.name, err)
		}
		sum.add(tally)
	}
	r.finish(t, sum)
}

// TestGoToolchains does the same with what other toolchains built, all patterns
// at once.
func TestGoToolchains(t *testing.T) {
	for _, v := range goVariants(t) {
		t.Run(v.Name(), func(t *testing.T) { goMixed(t, v, "http1", scaled(t, 400)) })
	}
}

// goMixed sends n requests of each pattern, mixed.
func goMixed(t *testing.T, v variant.Variant, protocol string, n int, env ...string) {
	t.Helper()
	still := unwritten(t, protocol)
	r := startGoRig(t, buildGo(t, v), protocol, parseGo(t, v.Toolchain), &agentOptions{}, env...)
	r.warm()
	tally := r.measure("m", n, truth.Calls{Unwritten: still}, goPatterns...)
	t.Logf("%s over %s: %v", v.Name(), protocol, tally)
	if err := tally.Err(); err != nil {
		t.Errorf("%s over %s:\n%v", v.Name(), protocol, err)
	}
	sum := result{Name: fmt.Sprintf("%s/%s", v.Name(), protocol)}
	sum.add(tally)
	r.finish(t, sum)
}

func (r *result) add(tally *truth.Tally) {
	r.Requests += tally.Requests
	r.Linked += tally.Right
	r.Roots += tally.Missing + tally.Rooted
	r.Wrong += tally.Wrong()
}

// finish ends the agent and writes the result. The programs must have nothing to
// complain of.
func (r *goRig) finish(t *testing.T, sum result) {
	t.Helper()
	if lost := r.agent.losses(); len(lost) > 0 {
		t.Errorf("lost: %v", lost)
	}
	r.agent.stop()
	for _, p := range []*program{r.back, r.relay} {
		for _, bad := range []string{"DATA RACE", "fatal error", "panic"} {
			if strings.Contains(p.out.String(), bad) {
				t.Errorf("%s printed %q:\n%s", p.name, bad, p.out.tail())
			}
		}
	}
	sum.Passed = !t.Failed()
	if err := writeResult(sum); err != nil {
		t.Error(err)
	}
}

// TestGoJudgesUntraced is the harness's own proof: the same without weft must be
// answered in full, and must be found untraced.
func TestGoJudgesUntraced(t *testing.T) {
	for _, protocol := range []string{"http1", "https", "h2", "h2x", "h2c", "h2c-std"} {
		t.Run(protocol, func(t *testing.T) {
			r := startGoRig(t, buildGo(t, goLocal), protocol, parseGo(t, ""), nil)
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

// goProtocols are those of test/apps/gomatrix but for plain HTTP/1.
var goProtocols = []string{"h2", "h2x", "h2c", "h2c-std"}

// TestGoProtocols does it over TLS and HTTP/2, by both of their implementations.
func TestGoProtocols(t *testing.T) {
	for _, protocol := range goProtocols {
		t.Run(protocol, func(t *testing.T) { goMixed(t, goLocal, protocol, scaled(t, 200)) })
	}
}
