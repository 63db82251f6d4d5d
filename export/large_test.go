package export

import (
	"strings"
	"testing"
	"time"

	"weft/internal/event"
)

// A full batch of spans that carry much is more than a gRPC receiver takes at once.
func TestOTLPLargeBatchGoesInParts(t *testing.T) {
	for _, protocol := range protocols {
		t.Run(protocol, func(t *testing.T) {
			clearEnv(t)
			r := &receiver{}
			exp, stats, log := startOTLP(t, OTLPOptions{Endpoint: r.serve(t, protocol, nil), Protocol: protocol, BatchSize: 512, Delay: time.Hour})
			text := strings.Repeat("x", 16<<10)
			for i := range 512 {
				s := hop{id: uint64(i + 1), role: server, method: "GET", target: "/"}.span(1)
				s.Baggage = []event.Member{{Key: "carried", Value: text}}
				exp.Span(s)
			}
			eventually(t, "all spans", func() bool { return len(r.spans()) == 512 })
			closeOTLP(t, exp)
			if n := lost(t, stats, "otlp", "rejected") + lost(t, stats, "otlp", "shutdown"); n != 0 {
				t.Errorf("%v spans lost", n)
			}
			if n := r.attempts(); n < 3 {
				t.Errorf("8 MiB of spans in %d requests", n)
			}
			if log.count("level=ERROR") != 0 {
				t.Errorf("%q", log.lines())
			}
		})
	}
}
