package e2e

import (
	"encoding/json"
	"fmt"
	"strings"
	"testing"

	"weft/internal/w3c"
	"weft/test/e2e/otlpsink"
	"weft/test/e2e/truth"
)

// spread is a chain of three languages, Python → Node → Go, and what its third
// service may be told.
type spread struct {
	name string
	keys []string // of baggage, that reach the third
	addr string   // of the first
	last int      // port of the third
}

func (s *spread) start(t *testing.T, g *group) {
	t.Helper()
	s.last = freePort(t)
	goService(t, g, place{port: s.last})
	second, first := freePort(t), freePort(t)
	express(t, g, place{port: second, downstream: fmt.Sprintf("http://127.0.0.1:%d/leaf", s.last), keepAlive: true})
	gunicorn(t, g, place{port: first, downstream: fmt.Sprintf("http://127.0.0.1:%d/call", second), keepAlive: true})
	s.addr = fmt.Sprintf("127.0.0.1:%d", first)
}

// TestContextChain gives a user id to the first of three services, in a header
// that none of them knows of. It must be on every span, and on the wire as far
// as the policy lets it.
func TestContextChain(t *testing.T) {
	g := newGroup(t)
	sink := startSink(t)
	chains := []*spread{
		{name: "all", keys: []string{"tenant_id", "user_id"}},
		{name: "stopped", keys: nil},
		{name: "one key", keys: []string{"tenant_id"}},
	}
	for _, s := range chains {
		s.start(t, g)
	}
	a := startAgent(t, g, sink, agentOptions{extra: fmt.Sprintf(`
baggage: {set: {user_id: {header: X-User-Id}, tenant_id: {header: X-Tenant}}, attributes: [user_id, tenant_id]}
propagation:
  egress:
    - {cidr: "127.0.0.0/8", ports: "%d", inject: [traceparent, tracestate]}
    - {cidr: "127.0.0.0/8", ports: "%d", baggage_keys: [tenant_id, other]}
`, chains[1].last, chains[2].last)})
	for _, s := range chains {
		t.Run(s.name, func(t *testing.T) { s.judge(t, a, sink) })
	}
	if lost := a.losses(); len(lost) > 0 {
		t.Errorf("lost: %v", lost)
	}
	a.stop()
}

func (s *spread) judge(t *testing.T, a *agent, sink *otlpsink.Sink) {
	users := []string{
		"42", "Zo\xc3\xab", "a b, c;d=e%41\"\\", "100%", "\xe6\x97\xa5\xe6\x9c\xac", "caf\xe9", "tab\tinside",
		strings.Repeat("x", 256), strings.Repeat("\xc3\xbc", 40),
	}
	before := a.kernelCounts()
	arrived := map[string]traceContext{}
	id := func(i int) string { return fmt.Sprintf("%s-%d", strings.ReplaceAll(s.name, " ", "-"), i) }
	for i, user := range users {
		conn := dialRaw(t, s.addr, "")
		body := conn.ask(t, headOf("GET /call?id="+id(i), "X-User-Id: "+user, "X-Tenant: t"+fmt.Sprint(i), "tracestate: gone=1"))
		_ = conn.Close() // answered
		var rep leafReport
		if err := json.Unmarshal(body, &rep); err != nil || rep.ID != id(i) {
			t.Fatalf("answer %.200q: %v", body, err)
		}
		head := "first line\r\n"
		for _, h := range rep.Headers {
			head += h[0] + ": " + h[1] + "\r\n"
		}
		arrived[id(i)] = contextOf(t, []byte(head))
	}
	exported := byID(spansOf(t, sink, 5*len(users)))
	for i, user := range users {
		all := map[string]string{"user_id": w3c.Escape(user), "tenant_id": fmt.Sprintf("t%d", i)}
		var members []string
		left := map[string]string{}
		for _, key := range s.keys {
			members = append(members, key+"="+all[key])
			left[key] = all[key]
		}
		got := arrived[id(i)]
		if want := strings.Join(members, ","); got.baggage != want || got.tracestate != "" {
			t.Errorf("user %q: the third service received baggage %q, tracestate %q; want %q", user, got.baggage, got.tracestate, want)
		}
		s.spans(t, got.parent, exported[id(i)], all, left)
	}
	withheld := 0
	if len(s.keys) < 2 {
		withheld = len(users)
	}
	a.counted(before, map[string]float64{"baggage/set": float64(2 * len(users)), "withheld/baggage": float64(withheld), "withheld/traceparent": 0})
}

// spans judges the five spans of a request: one trace, each the parent of the
// next, all attributes before the third service and what was left in it.
func (s *spread) spans(t *testing.T, last truth.Traceparent, spans []truth.Span, all, left map[string]string) {
	t.Helper()
	hops := []struct {
		kind, path string
		members    map[string]string
	}{
		{truth.Server, "/call", all}, {truth.Client, "/call", all}, {truth.Server, "/call", all}, {truth.Client, "/leaf", all}, {truth.Server, "/leaf", left},
	}
	parent := ""
	for i, hop := range hops {
		var found *truth.Span
		for j := range spans {
			if x := &spans[j]; x.ParentID == parent && x.Kind == hop.kind && x.Path() == hop.path {
				found = x
			}
		}
		if found == nil {
			t.Errorf("no %s span of %s under %q:%s", hop.kind, hop.path, parent, list(spans))
			return
		}
		for _, key := range []string{"user_id", "tenant_id"} {
			if got, want := found.Attr(key), w3c.Unescape(hop.members[key]); got != want {
				t.Errorf("hop %d: %s is %q, want %q: %s", i, key, got, want, found)
			}
		}
		if found.TraceID != last.TraceID || i == 3 && found.SpanID != last.SpanID {
			t.Errorf("trace %s span %s reached the third service: %s", last.TraceID, last.SpanID, found)
		}
		parent = found.SpanID
	}
}
