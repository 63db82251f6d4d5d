package truth

import (
	"fmt"
	"strings"
	"testing"
)

// world is a flawless run: driver → mid → leaf, ten requests, every fourth
// with an inbound context, one of them unsampled, one malformed.
func world() Evidence {
	e := Evidence{Hops: []Hop{{Path: "/call", Selected: true}, {Path: "/leaf", Selected: true}}}
	for i := range 10 {
		id := fmt.Sprintf("r%d", i)
		r := Request{ID: id}
		trace, parent, rule, sampled := fmt.Sprintf("%032x", 0x100+i), "", "none", true
		switch i {
		case 4:
			parent, rule = fmt.Sprintf("%016x", 0xd00+i), "wire"
			r.Traceparents = []string{"00-" + trace + "-" + parent + "-01"}
		case 6:
			parent, rule, sampled = fmt.Sprintf("%016x", 0xd00+i), "wire", false
			r.Traceparents = []string{"00-" + trace + "-" + parent + "-00"}
		case 8:
			rule = "invalid"
			r.Traceparents = []string{"00-BAD"}
		}
		server, client, leaf := fmt.Sprintf("%016x", 0xa00+i), fmt.Sprintf("%016x", 0xb00+i), fmt.Sprintf("%016x", 0xc00+i)
		flags := "00"
		if sampled {
			flags = "01"
			start := int64(i+1) * 1e9
			query := "id=" + id
			e.Spans = append(e.Spans,
				Span{TraceID: trace, SpanID: server, ParentID: parent, Kind: Server, Rule: rule, Start: start, End: start + 9e6,
					Attributes: map[string]any{"url.path": "/call", "url.query": query}},
				Span{TraceID: trace, SpanID: client, ParentID: server, Kind: Client, Rule: "thread", Start: start + 1e6, End: start + 8e6,
					Attributes: map[string]any{"url.full": "http://127.0.0.1:9/leaf?" + query}},
				Span{TraceID: trace, SpanID: leaf, ParentID: client, Kind: Server, Rule: "wire", Start: start + 2e6, End: start + 7e6,
					Attributes: map[string]any{"url.path": "/leaf", "url.query": query}})
		}
		e.Requests = append(e.Requests, r)
		e.Arrivals = append(e.Arrivals, Arrival{ID: id, Traceparents: []string{"00-" + trace + "-" + client + "-" + flags}})
	}
	return e
}

func (e *Evidence) span(kind, path, id string) *Span {
	for i := range e.Spans {
		if s := &e.Spans[i]; s.Kind == kind && s.Path() == path && s.ID() == id {
			return s
		}
	}
	panic("no such span: " + kind + path + id)
}

func (e *Evidence) drop(gone *Span) {
	for i := range e.Spans {
		if &e.Spans[i] == gone {
			e.Spans = append(e.Spans[:i:i], e.Spans[i+1:]...)
			return
		}
	}
}

func TestFlawlessWorldPasses(t *testing.T) {
	r := Check(world())
	if err := r.Err(); err != nil {
		t.Fatal(err)
	}
	if r.Linked != 10 || r.Roots != 0 || r.Unsampled != 2 || r.Wrong() != 0 {
		t.Fatalf("%+v", r)
	}
}

func TestEveryMistakeIsFound(t *testing.T) {
	const client, server = Client, Server
	tests := []struct {
		name   string
		kind   string
		mutate func(*Evidence)
	}{
		{"two requests swap parents", "wrong-edge", func(e *Evidence) {
			a, b := e.span(client, "/leaf", "r1"), e.span(client, "/leaf", "r2")
			a.ParentID, b.ParentID = b.ParentID, a.ParentID
			a.TraceID, b.TraceID = b.TraceID, a.TraceID
		}},
		{"parent of another request, same trace", "wrong-edge", func(e *Evidence) {
			e.span(client, "/leaf", "r1").ParentID = e.span(server, "/call", "r2").SpanID
		}},
		{"parent never exported", "wrong-edge", func(e *Evidence) {
			e.span(client, "/leaf", "r1").ParentID = "00000000deadbeef"
		}},
		{"call in another trace than its request", "wrong-trace", func(e *Evidence) {
			e.span(client, "/leaf", "r1").TraceID = strings.Repeat("7", 32)
		}},
		{"leaf under the mid server", "wrong-edge", func(e *Evidence) {
			e.span(server, "/leaf", "r1").ParentID = e.span(server, "/call", "r1").SpanID
		}},
		{"leaf is a root", "wrong-edge", func(e *Evidence) { e.span(server, "/leaf", "r1").ParentID = "" }},
		{"call of a synchronous server is a root", "unlinked", func(e *Evidence) {
			s := e.span(client, "/leaf", "r1")
			s.ParentID, s.Rule = "", "none"
		}},
		{"inbound parent ignored", "wrong-edge", func(e *Evidence) { e.span(server, "/call", "r4").ParentID = "" }},
		{"inbound trace ignored", "wrong-trace", func(e *Evidence) {
			e.span(server, "/call", "r4").TraceID = strings.Repeat("7", 32)
		}},
		{"malformed context followed", "invalid-context", func(e *Evidence) {
			e.span(server, "/call", "r8").ParentID = "00000000deadbeef"
		}},
		{"malformed context not marked", "invalid-context", func(e *Evidence) { e.span(server, "/call", "r8").Rule = "none" }},
		{"parent out of nothing", "invented-parent", func(e *Evidence) {
			e.span(server, "/call", "r1").ParentID = "00000000deadbeef"
		}},
		{"rule is a guess", "rule", func(e *Evidence) { e.span(client, "/leaf", "r1").Rule = "ambiguous" }},
		{"server span lost", "lost", func(e *Evidence) { e.drop(e.span(server, "/call", "r1")) }},
		{"client span lost", "lost", func(e *Evidence) { e.drop(e.span(client, "/leaf", "r1")) }},
		{"leaf span lost", "lost", func(e *Evidence) { e.drop(e.span(server, "/leaf", "r1")) }},
		{"span exported twice", "duplicate", func(e *Evidence) { e.Spans = append(e.Spans, *e.span(server, "/call", "r1")) }},
		{"span id used twice", "duplicate-span-id", func(e *Evidence) {
			e.span(server, "/call", "r1").SpanID = e.span(server, "/call", "r2").SpanID
		}},
		{"span of no request", "strange", func(e *Evidence) {
			s := *e.span(server, "/call", "r1")
			s.SpanID, s.Attributes = "00000000deadbeef", map[string]any{"url.path": "/call", "url.query": "id=other"}
			e.Spans = append(e.Spans, s)
		}},
		{"unsampled request exported", "unsampled-span", func(e *Evidence) {
			s := *e.span(server, "/call", "r4")
			s.SpanID, s.Attributes = "00000000deadbeef", map[string]any{"url.path": "/call", "url.query": "id=r6"}
			e.Spans = append(e.Spans, s)
		}},
		{"unsampled turned into sampled", "wire-flags", func(e *Evidence) {
			tp := &e.Arrivals[6].Traceparents[0]
			*tp = strings.TrimSuffix(*tp, "00") + "01"
		}},
		{"sampled turned into unsampled", "wire-flags", func(e *Evidence) {
			tp := &e.Arrivals[1].Traceparents[0]
			*tp = strings.TrimSuffix(*tp, "01") + "00"
		}},
		{"unsampled request in a new trace", "wire-trace", func(e *Evidence) {
			e.Arrivals[6].Traceparents[0] = "00-" + strings.Repeat("7", 32) + "-00000000deadbeef-00"
		}},
		{"wire differs in span", "wire-span", func(e *Evidence) { e.span(client, "/leaf", "r1").SpanID = "00000000deadbeef" }},
		{"wire differs in trace", "wire-trace", func(e *Evidence) {
			e.Arrivals[1].Traceparents[0] = strings.Replace(e.Arrivals[1].Traceparents[0], "101", "999", 1)
		}},
		{"no header", "header", func(e *Evidence) { e.Arrivals[1].Traceparents = nil }},
		{"header twice", "header", func(e *Evidence) {
			e.Arrivals[1].Traceparents = append(e.Arrivals[1].Traceparents, e.Arrivals[1].Traceparents[0])
		}},
		{"headers joined by a comma", "header", func(e *Evidence) {
			tp := e.Arrivals[1].Traceparents[0]
			e.Arrivals[1].Traceparents[0] = tp + "," + tp
		}},
		{"header malformed", "header", func(e *Evidence) {
			e.Arrivals[1].Traceparents[0] = strings.ToUpper(e.Arrivals[1].Traceparents[0])
		}},
		{"request never arrived", "arrival", func(e *Evidence) { e.Arrivals = e.Arrivals[1:] }},
		{"request arrived twice", "arrival", func(e *Evidence) { e.Arrivals = append(e.Arrivals, e.Arrivals[0]) }},
		{"call outlives its request", "time", func(e *Evidence) { e.span(client, "/leaf", "r1").End += 1e9 }},
		{"call starts before its request", "time", func(e *Evidence) { e.span(client, "/leaf", "r1").Start -= 1e9 }},
		{"ends before it starts", "time", func(e *Evidence) { e.span(server, "/leaf", "r1").End = 0 }},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			e := world()
			tt.mutate(&e)
			r := Check(e)
			if r.Count(tt.kind) == 0 {
				t.Fatalf("want a problem %q, got %v: %v", tt.kind, r.Kinds(), r.Err())
			}
		})
	}
}

// Without weft there is nothing but arrivals: every request must be reported.
func TestNothingTracedFails(t *testing.T) {
	e := world()
	e.Spans = nil
	for i := range e.Arrivals {
		e.Arrivals[i].Traceparents = nil
	}
	r := Check(e)
	if r.Count("header") != 10 || r.Count("lost") == 0 {
		t.Fatal(r.Err())
	}
}

func TestRootsOnlyWhereAllowed(t *testing.T) {
	e := world()
	e.Hops[0].Roots = true
	// r1's call was ambiguous: a new trace from there on.
	trace := strings.Repeat("7", 32)
	c := e.span(Client, "/leaf", "r1")
	c.TraceID, c.ParentID, c.Rule = trace, "", "ambiguous"
	e.span(Server, "/leaf", "r1").TraceID = trace
	e.Arrivals[1].Traceparents[0] = "00-" + trace + "-" + c.SpanID + "-01"
	r := Check(e)
	if err := r.Err(); err != nil {
		t.Fatal(err)
	}
	if r.Linked != 9 || r.Roots != 1 {
		t.Fatalf("linked %d, roots %d", r.Linked, r.Roots)
	}
	c.Rule = "thread"
	if r := Check(e); r.Count("rule") != 1 {
		t.Fatal("a root by rule thread passed")
	}
}

// An ambiguous call of an unsampled request becomes a sampled root.
func TestRootOfUnsampledRequest(t *testing.T) {
	e := world()
	e.Hops[0].Roots = true
	trace := strings.Repeat("7", 32)
	e.Spans = append(e.Spans,
		Span{TraceID: trace, SpanID: "00000000000000f1", Kind: Client, Rule: "ambiguous", Start: 1, End: 4,
			Attributes: map[string]any{"url.full": "http://127.0.0.1:9/leaf?id=r6"}},
		Span{TraceID: trace, SpanID: "00000000000000f2", ParentID: "00000000000000f1", Kind: Server, Rule: "wire", Start: 2, End: 3,
			Attributes: map[string]any{"url.path": "/leaf", "url.query": "id=r6"}})
	e.Arrivals[6].Traceparents[0] = "00-" + trace + "-00000000000000f1-01"
	if err := Check(e).Err(); err != nil {
		t.Fatal(err)
	}
}

func TestProxyForwards(t *testing.T) {
	e := world()
	e.Hops[0].Forwards = true
	e.Requests = e.Requests[4:5]
	e.Arrivals = e.Arrivals[4:5]
	in := e.Requests[0].Traceparents[0]
	spans := e.Spans[12:15]
	spans[1].Rule, spans[1].ParentID = "adopted", spans[0].ParentID
	spans[2].ParentID = spans[0].ParentID
	e.Arrivals[0].Traceparents[0] = in
	e.Spans = spans
	if err := Check(e).Err(); err != nil {
		t.Fatal(err)
	}
	spans[1].Rule = "thread"
	if Check(e).Count("wrong-edge") == 0 {
		t.Fatal("a forwarded header that was not adopted passed")
	}
}

func TestCaller(t *testing.T) {
	e := world()
	e.Caller = true
	e.Requests = e.Requests[1:2]
	e.Arrivals = e.Arrivals[1:2]
	e.Spans = e.Spans[3:6]
	s := e.Spans[0]
	e.Spans[0].ParentID, e.Spans[0].Rule = "00000000000000ca", "wire"
	e.Spans = append(e.Spans, Span{TraceID: s.TraceID, SpanID: "00000000000000ca", Kind: Client, Rule: "none",
		Attributes: map[string]any{"url.full": "http://127.0.0.1:9/call?id=r1"}})
	if err := Check(e).Err(); err != nil {
		t.Fatal(err)
	}
	e.Spans[0].ParentID = ""
	if Check(e).Count("wrong-edge") == 0 {
		t.Fatal("a first hop that lost its caller passed")
	}
}

func TestParseTraceparent(t *testing.T) {
	const good = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"
	for _, v := range []string{good, strings.TrimSuffix(good, "1") + "0", "01" + good[2:] + "-more", "cc" + good[2:]} {
		if _, err := ParseTraceparent(v); err != nil {
			t.Error(err)
		}
	}
	for _, v := range []string{"", "00", good[:54], good + "-", good + "0", "ff" + good[2:], strings.ToUpper(good),
		"00-" + strings.Repeat("0", 32) + good[35:], good[:36] + strings.Repeat("0", 16) + "-01",
		strings.Replace(good, "-01", "-0g", 1), strings.Replace(good, "-", "_", 1), "01" + good[2:] + "more", " " + good} {
		if tp, err := ParseTraceparent(v); err == nil {
			t.Errorf("%q passed as %+v", v, tp)
		}
	}
}
