package e2e

import (
	"fmt"
	"testing"

	"weft/test/e2e/truth"
	"weft/test/e2e/variant"
)

// goExact says that Go programs have parents of their own rules.
const goExact = false

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
	r := startGoRig(t, buildGo(t, v), protocol, parseGo(t, v.Toolchain), agentOptions{})
	r.send(goPattern{name: "hire", calls: []string{}}, "warm", 4*goConcurrency, goConcurrency)
	r.spans(truth.Calls{Requests: make([]truth.Relayed, 4*goConcurrency)})
	sum := result{Name: fmt.Sprintf("%s/%s", v.Name(), protocol)}
	for _, p := range goPatterns {
		if p.ended && !goExact {
			continue // the socket tier gives such a call to the one request in flight
		}
		tally := r.measure(p, "m", n/max(len(p.calls), 1), truth.Calls{Inexact: !goExact})
		t.Logf("%-16s %v", p.name, tally)
		if err := tally.Err(); err != nil {
			t.Errorf("%s %s:\n%v", v.Name(), p.name, err)
		}
		sum.Requests += tally.Requests
		sum.Linked += tally.Right
		sum.Roots += tally.Missing + tally.Rooted
		sum.Wrong += tally.Wrong()
	}
	if lost := r.agent.losses(); len(lost) > 0 {
		t.Errorf("lost: %v", lost)
	}
	r.agent.stop()
	sum.Passed = !t.Failed()
	if err := writeResult(sum); err != nil {
		t.Error(err)
	}
}
