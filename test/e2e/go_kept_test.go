package e2e

import (
	"testing"

	"weft/test/e2e/variant"
)

// TestGoKeepsConnections: weft comes when programs have spoken HTTP/2 to each other
// for a while, each over one connection that they keep. From then on calls over these
// connections are traced like any others, and carry their context.
func TestGoKeepsConnections(t *testing.T) {
	h := newGoHost(t)
	rigs := map[string]*goRig{}
	for _, protocol := range []string{"h2c", "h2c-std"} {
		r := startGoRig(t, h, buildGo(t, goLocal), protocol, parseGo(t, ""))
		r.send("before", 8, somePatterns("same")...)
		r.settled(8, true)
		rigs[protocol] = r
	}
	calls := map[string]*grpcRig{}
	for _, v := range variant.GRPC() {
		r := startGRPCRig(t, h, buildGo(t, v), parseGo(t, v.Toolchain), grpcOptions{relays: 1})
		r.send(grpcPattern{name: "goctx"}, "before", 8)
		r.settled(8, true)
		r.mids[0].arrivals()
		calls[v.Name()] = r
	}
	h.trace(t)
	for protocol, r := range rigs {
		t.Run(protocol, func(t *testing.T) { r.mixed(t, "kept/"+protocol, scaled(t, 50)) })
	}
	for name, r := range calls {
		t.Run(name, func(t *testing.T) {
			r.attached(t)
			sum := result{Name: "kept/" + name}
			for _, p := range []grpcPattern{{name: "goctx", rules: byContext}, {name: "background", rules: []string{"goroutine"}}} {
				tally := r.measure(p, "kept", scaled(t, 500))
				t.Logf("%s: %v", p.name, tally)
				if err := tally.Err(); err != nil {
					t.Errorf("%s:\n%v", p.name, err)
				}
				sum.add(tally)
			}
			r.leave(t, sum)
		})
	}
	joined := h.agent.kernelCounts()["http2/joined"]
	if want := float64(len(rigs) + len(calls)); h.unwritten(t) && joined < want {
		t.Errorf("%v connections were joined midway, want %v: those that were there before are not in use", joined, want)
	}
	h.end(t)
}
