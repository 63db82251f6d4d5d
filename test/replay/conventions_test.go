package replay

import (
	"encoding/binary"
	"fmt"
	"math/rand/v2"
	"net/http"
	"net/netip"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"weft/correlate"
	"weft/internal/event"
	"weft/test/conventions"
)

// checkConventions holds all spans of a replay to the conventions; other are
// attributes of the user's own.
func checkConventions(t *testing.T, r Result, other ...string) {
	t.Helper()
	registries := map[string]*conventions.Registry{}
	checked := 0
	for _, resource := range r.Received(t).ResourceSpans {
		for _, scope := range resource.ScopeSpans {
			registry := registries[scope.SchemaUrl]
			if registry == nil {
				var err error
				if registry, err = conventions.Read(t.Context(), scope.SchemaUrl); err != nil {
					t.Fatal(err)
				}
				registries[scope.SchemaUrl] = registry
			}
			for _, span := range scope.Spans {
				checked++
				if wrong := registry.Check(span, other...); len(wrong) > 0 {
					t.Errorf("%x %s %q: %s\n%v", span.SpanId, span.Kind, span.Name, strings.Join(wrong, "; "), span.Attributes)
				}
			}
		}
	}
	if checked != len(r.Spans) {
		t.Errorf("%d spans checked, %d made", checked, len(r.Spans))
	}
}

// TestGoldenSpansKeepConventions: what the golden files hold is right, not only
// what it was.
func TestGoldenSpansKeepConventions(t *testing.T) {
	files, err := filepath.Glob("testdata/*.events")
	if err != nil {
		t.Fatal(err)
	}
	for _, file := range files {
		t.Run(filepath.Base(file), func(t *testing.T) {
			checkConventions(t, Run(t, correlate.Options{}, Feed(t, file)), "tenant", "user.id", "user_id", "seen")
		})
	}
	for _, r := range recordings {
		t.Run(filepath.Base(r.file), func(t *testing.T) {
			checkConventions(t, Run(t, correlate.Options{}, FeedRecording(t, r.file, r.services)), "tenant", "user_id")
		})
	}
}

// TestAnySpanKeepsConventions makes up exchanges of every kind: whatever a program
// sends, its span keeps to the conventions.
func TestAnySpanKeepsConventions(t *testing.T) {
	random := rand.New(rand.NewPCG(7, 8))
	checkConventions(t, Run(t, correlate.Options{}, func(c *correlate.Correlator) {
		for n := range uint64(5000) {
			made(c, n+1, random)
		}
	}))
}

// made is an exchange that a kernel may report, in all its records.
func made(c *correlate.Correlator, n uint64, random *rand.Rand) {
	pick := func(of ...string) string { return of[random.IntN(len(of))] }
	r := event.Request{
		Start: Epoch.Add(time.Duration(n)), Role: event.Role(1 + random.IntN(2)), Rule: event.ParentRule(random.IntN(event.ParentRules)),
		Propagation: event.Propagation(random.IntN(6)), Protocol: event.Protocol(random.IntN(8)),
		Method: pick("GET", "POST", "BREW", "get", "CONNECT", "OPTIONS"), Host: pick("shop", "shop:8080", "", "[::1]:2"),
		Local: netip.MustParseAddrPort("10.0.0.1:8080"), Remote: netip.MustParseAddrPort("[2001:db8::1]:40000"),
	}
	binary.BigEndian.PutUint64(r.SpanID[:], n)
	switch r.Method {
	case http.MethodConnect:
		r.Target = "proxy.example:443"
	case http.MethodOptions:
		r.Target = "*"
	default:
		r.Target = pick("/", "/a?b=c&sig=1", "http://u:p@h:1/x", fmt.Sprintf("/item/%d", n))
	}
	if random.IntN(2) == 0 {
		r.Protocol |= event.ProtocolGRPC | event.ProtocolHTTP2
		r.Method, r.Target = "POST", pick("/stock.v1.Stock/Reserve", "/Stock/Reserve", "/", "/nothing")
	}
	r.TargetTotal = len(r.Target) + 100*(random.IntN(8)/7)
	c.Request(r)
	if random.IntN(2) == 0 {
		c.Route(event.Route{SpanID: r.SpanID, Text: pick("/items/{id}", "GET /items/{id}", "POST shop.example/", "{rest...}", "")})
	}
	answer := event.Response{SpanID: r.SpanID, Role: r.Role, End: r.Start.Add(1), Reason: event.End(random.IntN(7)),
		RequestBody: uint64(random.IntN(2)), ResponseBody: uint64(random.IntN(2))}
	answer.Status = []int{0, 101, 200, 304, 404, 500, 503}[random.IntN(7)]
	if r.Protocol.Has(event.ProtocolGRPC) {
		answer.Status, answer.GRPC = 200, event.GRPCStatus(random.IntN(20))
		if answer.GRPC == event.GRPCNone { // else it would be over
			answer.Reason = []event.End{event.EndClosed, event.EndReset, event.EndLost, event.EndCancelled, event.EndTimeout}[random.IntN(5)]
		}
	}
	c.Response(answer)
}
