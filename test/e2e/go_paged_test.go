package e2e

import (
	"slices"
	"testing"

	"weft/test/e2e/truth"
	"weft/test/e2e/variant"
)

// TestGoPagedOut takes the constants of traced programs out of memory again and again
// while they work: whose child a call is must not depend on them.
func TestGoPagedOut(t *testing.T) {
	h := newGoHost(t)
	h.apart = true // pages that two processes have mapped stay
	bin := buildGo(t, goLocal)
	var rigs []*goRig
	protocols := []string{"http1", "h2c", "h2x"}
	for _, protocol := range protocols {
		rigs = append(rigs, startGoRig(t, h, bin, protocol, parseGo(t, "")))
	}
	rpc := startGRPCRig(t, h, buildGo(t, variant.GRPC()[0]), parseGo(t, ""), grpcOptions{relays: 1})
	h.trace(t)
	for i, protocol := range protocols {
		t.Run(protocol, func(t *testing.T) {
			r := rigs[i]
			r.attached(t)
			r.warm()
			// A traceparent of the program's own is told by where its name is, once that
			// could be read.
			if err := r.measure("read", 4, truth.Calls{}, somePatterns("own")...).Err(); err != nil {
				t.Error(err)
			}
			defer keepOut(t, r.back, r.relay)()
			patterns := somePatterns("same", "noctx", "go", "pool", "errgroup", "pool-background", "own")
			tally := r.measure("paged", scaled(t, 100), truth.Calls{}, patterns...)
			t.Log(tally)
			if err := tally.Err(); err != nil {
				t.Error(err)
			}
		})
	}
	t.Run("grpc", func(t *testing.T) {
		rpc.attached(t)
		own := grpcPatterns[slices.IndexFunc(grpcPatterns, func(p grpcPattern) bool { return p.own })]
		if err := rpc.measure(own, "read", 4).Err(); err != nil {
			t.Error(err)
		}
		defer keepOut(t, rpc.back, rpc.relay)()
		for _, p := range grpcPatterns {
			if p.inbound != "" || !slices.Contains([]string{"unary", "bidi", "background", "go", "pool-background", "errgroup", "own"}, p.name) {
				continue // in the full matrix
			}
			tally := rpc.measure(p, "paged", scaled(t, 60))
			t.Logf("%s: %v", p.title(), tally)
			if err := tally.Err(); err != nil {
				t.Errorf("%s:\n%v", p.title(), err)
			}
		}
	})
	h.end(t)
}
