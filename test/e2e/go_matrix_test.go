package e2e

import (
	"fmt"
	"testing"

	"weft/test/e2e/truth"
	"weft/test/e2e/variant"
)

// TestGoMatrix judges every call of a Go program that is called by 64 clients at
// a time, pattern by pattern.
func TestGoMatrix(t *testing.T) {
	t.Run("local", func(t *testing.T) { goMatrix(t, goLocal, "http1", scaled(t, 5000)) })
}

// TestGoToolchains does the same with what other toolchains built.
func TestGoToolchains(t *testing.T) {
	for _, v := range goVariants(t) {
		t.Run(v.Name(), func(t *testing.T) { goMatrix(t, v, "http1", scaled(t, 400)) })
	}
}

func goMatrix(t *testing.T, v variant.Variant, protocol string, n int) {
	t.Helper()
	r := startGoRig(t, buildGo(t, v), protocol, parseGo(t, v.Toolchain), &agentOptions{})
	r.send(goPattern{name: "hire", calls: []string{}}, "warm", 4*goConcurrency, goConcurrency)
	r.spans(truth.Calls{Requests: make([]truth.Relayed, 4*goConcurrency)})
	sum := result{Name: fmt.Sprintf("%s/%s", v.Name(), protocol)}
	for _, p := range goPatterns {
		tally := r.measure(p, "m", n/max(len(p.calls), 1), truth.Calls{})
		t.Logf("%-16s %v", p.name, tally)
		if err := tally.Err(); err != nil {
			t.Errorf("%s %s:\n%v", v.Name(), p.name, err)
		}
		sum.add(tally)
	}
	r.finish(t, sum)
}

func (r *result) add(tally *truth.Tally) {
	r.Requests += tally.Requests
	r.Linked += tally.Right
	r.Roots += tally.Missing + tally.Rooted
	r.Wrong += tally.Wrong()
}

// finish ends the agent and writes the result.
func (r *goRig) finish(t *testing.T, sum result) {
	t.Helper()
	if lost := r.agent.losses(); len(lost) > 0 {
		t.Errorf("lost: %v", lost)
	}
	r.agent.stop()
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
			r.send(goPattern{name: "hire", calls: []string{}}, "warm", goConcurrency, goConcurrency)
			for _, p := range goPatterns {
				tally := r.measure(p, "off", 8, truth.Calls{})
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
