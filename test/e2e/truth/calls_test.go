package truth

import (
	"fmt"
	"slices"
	"strings"
	"testing"
)

const (
	sentTrace = "11111111111111111111111111111111"
	ownTrace  = "99999999999999999999999999999999"
)

// callScene is three requests whose calls went right: one with a sampled
// traceparent, one with none, one unsampled; and one with a header of its own.
func callScene() Calls {
	span := func(kind, trace, id, parent, rule, name, call string) Span {
		query := "id=" + name
		path := "/do/same"
		if call != "" {
			query += "&call=" + call
			path = "/leaf"
		}
		s := Span{TraceID: trace, SpanID: id, ParentID: parent, Kind: kind, Rule: rule, Start: 10, End: 20}
		if kind == Client {
			s.Attributes = map[string]any{"url.full": "http://127.0.0.1:1" + path + "?" + query}
		} else {
			s.Attributes = map[string]any{"url.path": path, "url.query": query}
		}
		return s
	}
	root := strings.Repeat("2", 32)
	tp := func(trace, span, flags string) []string {
		return []string{fmt.Sprintf("00-%s-%s-%s", trace, span, flags)}
	}
	return Calls{
		Requests: []Relayed{
			{ID: "s", Traceparents: tp(sentTrace, "aaaaaaaaaaaaaaaa", "01"), Calls: []Call{{Name: "x", Rules: []string{"context"}}}},
			{ID: "n", Calls: []Call{{Name: "x", Rules: []string{"context", "goroutine"}}, {Name: "y", Expect: Root}}},
			{ID: "u", Traceparents: tp(strings.Repeat("3", 32), "bbbbbbbbbbbbbbbb", "00"), Calls: []Call{{Name: "x"}}},
			{ID: "o", Own: tp(ownTrace, "cccccccccccccccc", "01")[0], Calls: []Call{{Name: "x", Expect: Own}}},
		},
		Arrivals: []CallArrival{
			{ID: "s", Call: "x", Traceparents: tp(sentTrace, "5000000000000002", "01")},
			{ID: "n", Call: "x", Traceparents: tp(root, "6000000000000002", "01")},
			{ID: "n", Call: "y", Traceparents: tp(strings.Repeat("4", 32), "6000000000000005", "01")},
			{ID: "u", Call: "x", Traceparents: tp(strings.Repeat("3", 32), "7000000000000002", "00")},
			{ID: "o", Call: "x", Traceparents: tp(ownTrace, "cccccccccccccccc", "01")},
		},
		Spans: []Span{
			span(Server, sentTrace, "5000000000000001", "aaaaaaaaaaaaaaaa", "wire", "s", ""),
			span(Client, sentTrace, "5000000000000002", "5000000000000001", "context", "s", "x"),
			span(Server, sentTrace, "5000000000000003", "5000000000000002", "wire", "s", "x"),
			span(Server, root, "6000000000000001", "", "none", "n", ""),
			span(Client, root, "6000000000000002", "6000000000000001", "goroutine", "n", "x"),
			span(Server, root, "6000000000000003", "6000000000000002", "wire", "n", "x"),
			span(Client, strings.Repeat("4", 32), "6000000000000005", "", "none", "n", "y"),
			span(Server, strings.Repeat("4", 32), "6000000000000006", "6000000000000005", "wire", "n", "y"),
			span(Server, root[:31]+"5", "8000000000000001", "", "none", "o", ""),
			span(Client, ownTrace, "8000000000000002", "cccccccccccccccc", "adopted", "o", "x"),
			span(Server, ownTrace, "8000000000000003", "cccccccccccccccc", "wire", "o", "x"),
		},
	}
}

func TestCallsRight(t *testing.T) {
	for _, key := range []struct {
		name string
		key  func(*Span) (string, string)
	}{{"url", nil}, {"wire", func(s *Span) (string, string) {
		// As in gRPC, where no attribute names the request; roots are found by the
		// test's own means.
		if id, call := SpanKey(s); (id == "n" || id == "o") && call == "" {
			return id, call
		}
		return "", ""
	}}} {
		t.Run(key.name, func(t *testing.T) {
			e := callScene()
			e.Key = key.key
			got := CheckCalls(e)
			if err := got.Err(); err != nil {
				t.Error(err)
			}
			if got.Calls != 5 || got.Right != 4 || got.Rooted != 1 || got.Missing != 0 || got.Unsampled != 1 {
				t.Errorf("%v", got)
			}
		})
	}
}

// TestCallsWrong feeds the judge each mistake it must find.
func TestCallsWrong(t *testing.T) {
	tests := []struct {
		name string
		do   func(e *Calls)
		want []string // kinds of problems, all of them
	}{
		{"missing child", func(e *Calls) { e.Spans[4].ParentID, e.Spans[4].Rule = "", "none" }, []string{"missing"}},
		{"other parent", func(e *Calls) { e.Spans[4].ParentID = "5000000000000001" }, []string{"wrong-edge"}},
		{"parent in another trace", func(e *Calls) { e.Spans[3].TraceID = sentTrace }, []string{"wrong-edge"}},
		{"guess", func(e *Calls) { e.Spans[6].ParentID, e.Spans[3].TraceID = "6000000000000001", strings.Repeat("4", 32) },
			[]string{"guess", "wrong-edge"}},
		{"other rule", func(e *Calls) { e.Spans[1].Rule = "creator" }, []string{"rule"}},
		{"rule of a root", func(e *Calls) { e.Spans[6].Rule = "context" }, []string{"rule"}},
		{"server span lost", func(e *Calls) { e.Spans = e.Spans[1:] }, []string{"lost", "wrong-edge"}},
		{"client span lost", func(e *Calls) { e.Spans = slices.Delete(e.Spans, 1, 2) }, []string{"lost", "strange"}},
		{"back end's span lost", func(e *Calls) { e.Spans = slices.Delete(e.Spans, 2, 3) }, []string{"lost"}},
		{"back end's span twice", func(e *Calls) {
			s := e.Spans[2]
			s.SpanID = "5000000000000009"
			e.Spans = append(e.Spans, s)
		}, []string{"duplicate"}},
		{"same id twice", func(e *Calls) { e.Spans = append(e.Spans, e.Spans[6]) }, []string{"duplicate-span-id", "strange"}},
		{"no header", func(e *Calls) { e.Arrivals[0].Traceparents = nil }, []string{"header", "strange"}},
		{"two headers", func(e *Calls) {
			e.Arrivals[1].Traceparents = append(e.Arrivals[1].Traceparents, e.Arrivals[0].Traceparents...)
		}, []string{"header", "strange"}},
		{"header of another call", func(e *Calls) { e.Arrivals[0].Traceparents = e.Arrivals[1].Traceparents }, []string{"strange", "wire-span"}},
		{"unsampled trace of another request", func(e *Calls) { e.Arrivals[1].Traceparents = e.Arrivals[3].Traceparents }, []string{"strange", "wrong-trace"}},
		{"flags", func(e *Calls) {
			e.Arrivals[0].Traceparents = []string{"00-" + sentTrace + "-5000000000000002-00"}
		}, []string{"wire-flags"}},
		{"sampled under unsampled", func(e *Calls) {
			e.Arrivals[3].Traceparents = []string{strings.TrimSuffix(e.Arrivals[3].Traceparents[0], "00") + "01"}
		}, []string{"wire-flags"}},
		{"own header replaced", func(e *Calls) {
			e.Arrivals[4].Traceparents = []string{"00-" + ownTrace + "-8000000000000002-01"}
		}, []string{"strange", "wire-span"}},
		{"own header not adopted", func(e *Calls) { e.Spans[9].Rule = "context" }, []string{"wrong-edge"}},
		{"call not arrived", func(e *Calls) { e.Arrivals = e.Arrivals[1:] }, []string{"arrival", "strange"}},
		{"call arrived twice", func(e *Calls) { e.Arrivals = append(e.Arrivals, e.Arrivals[0]) }, []string{"arrival"}},
		{"content", func(e *Calls) { e.Arrivals[0].Bad = "body" }, []string{"content"}},
		{"call of nobody", func(e *Calls) { e.Requests[0].Calls = nil }, []string{"harness", "strange"}},
		{"too late", func(e *Calls) { e.Spans[1].Start = e.Spans[0].End + 2*slack }, []string{"time"}},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			e := callScene()
			tt.do(&e)
			if got := CheckCalls(e).Kinds(); !slices.Equal(got, tt.want) {
				t.Errorf("found %q, want %q", got, tt.want)
			}
		})
	}
}

func TestCallsInexact(t *testing.T) {
	e := callScene()
	e.Inexact = true
	e.Spans[4].ParentID, e.Spans[4].Rule = "", "ambiguous"
	e.Spans[1].Rule = "sole"
	got := CheckCalls(e)
	if err := got.Err(); err != nil || got.Missing != 1 || got.Right != 3 {
		t.Errorf("%v: %v", got, err)
	}
	e.Spans[1].ParentID = "6000000000000001"
	if got := CheckCalls(e); got.Wrong() != 1 {
		t.Errorf("a wrong edge is wrong all the same: %v", got.Err())
	}
}

// TestCallsGivenUp: what was given up need not arrive, and has the right parent.
func TestCallsGivenUp(t *testing.T) {
	for _, key := range []func(*Span) (string, string){SpanKey, func(*Span) (string, string) { return "", "" }} {
		e := callScene()
		e.Requests, e.Spans, e.Arrivals = e.Requests[:1], e.Spans[:3], nil
		e.Key = key
		e.Requests[0].Calls[0].Optional = true
		if got := CheckCalls(e); got.Err() != nil || got.Right != 1 {
			t.Errorf("%v: %v", got, got.Err())
		}
		e.Spans[1].ParentID = "5000000000000009"
		if got := CheckCalls(e); got.Err() == nil || got.Right != 0 {
			t.Errorf("another parent: %v", got)
		}
	}
}

// TestCallsUnwritten: edges inside of a program hold without any header.
func TestCallsUnwritten(t *testing.T) {
	scene := func() Calls {
		e := callScene()
		e.Unwritten = true
		for i := range e.Arrivals[:4] {
			e.Arrivals[i].Traceparents = nil
		}
		for _, i := range []int{2, 5, 7} {
			e.Spans[i].ParentID, e.Spans[i].Rule = "", "none"
		}
		return e
	}
	if got := CheckCalls(scene()); got.Err() != nil || got.Right != 2 || got.Rooted != 1 {
		t.Errorf("%v: %v", got, got.Err())
	}
	for _, tt := range []struct {
		name string
		do   func(e *Calls)
		want string
	}{
		{"written", func(e *Calls) { e.Arrivals[0].Traceparents = callScene().Arrivals[0].Traceparents }, "header"},
		{"wrong", func(e *Calls) { e.Spans[1].ParentID = "6000000000000001" }, "wrong-edge"},
		{"lost", func(e *Calls) { e.Spans = slices.Delete(e.Spans, 1, 2) }, "lost"},
		{"edge between programs", func(e *Calls) { e.Spans[2].ParentID = "5000000000000002" }, "wrong-edge"},
	} {
		e := scene()
		tt.do(&e)
		if got := CheckCalls(e).Kinds(); !slices.Equal(got, []string{tt.want}) {
			t.Errorf("%s: found %q, want %q", tt.name, got, tt.want)
		}
	}
}
