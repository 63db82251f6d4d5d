package e2e

import (
	"bytes"
	"fmt"
	"strings"
	"testing"

	"weft/test/e2e/otlpsink"
	"weft/test/e2e/truth"
)

// roomyGunicorn takes header blocks as long as weft reads them.
func roomyGunicorn(t *testing.T, g *group, p place) *program {
	t.Helper()
	bin, env := python(t, p)
	prog := g.start("gunicorn", launch{env: env, argv: []string{bin, "-m", "gunicorn", "--workers", "2", "--worker-class", "sync",
		"--limit-request-field_size", "0", "--chdir", appsDir(t) + "/flask", "--bind", fmt.Sprintf("127.0.0.1:%d", p.port), "app:app"}}, nil)
	prog.ready(p.port)
	return prog
}

// ownRow is a request whose calls have some of the headers already.
type ownRow struct {
	name  string
	own   []string
	added string // by weft, initials
}

// ownHeaders has the program send some of the headers by itself: they stand as
// they are, nothing is doubled, and weft adds what it may.
func ownHeaders(t *testing.T, sink *otlpsink.Sink, f *fanout) {
	p := &parents{n: 1 << 24}
	inbound := []string{p.line("01"), "tracestate: in=1,dd=s:2", "baggage: user_id=42"}
	tests := []ownRow{
		{"nothing", nil, "tp ts b"},
		{"another header", []string{"x-long: " + strings.Repeat("x", 6000)}, "tp ts b"},
		{"traceparent", []string{p.line("01")}, ""},
		{"traceparent and tracestate", []string{p.line("03"), "tracestate: app=1"}, ""},
		{"traceparent and baggage", []string{p.line("01"), "baggage: app=1"}, ""},
		{"traceparent, not sampled", []string{p.line("00")}, ""},
		{"a malformed traceparent", []string{"traceparent: 00-x"}, ""},
		{"tracestate", []string{"tracestate: app=1"}, "tp b"},
		{"a malformed tracestate", []string{"tracestate: App"}, "tp b"},
		{"baggage", []string{"baggage: app=1;p"}, "tp ts"},
		{"a malformed baggage", []string{"baggage: app"}, "tp ts"},
		{"tracestate and baggage", []string{"tracestate: app=1", "baggage: app=1"}, "tp"},
	}
	const first = 10000 // ids of their own
	var heads [][fans][]byte
	spans := 0
	for i, tt := range tests {
		heads = append(heads, f.ask(t, first+i, row{lines: inbound, own: tt.own}))
		spans += 1 + fans
		if tp, _ := truth.Single(tt.values("traceparent")); tp.TraceID != "" && !tp.Sampled() {
			spans -= fans
		}
	}
	f.conn = nil
	exported := byID(spansOf(t, sink, spans))
	for i, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			id := f.id(first + i)
			if len(exported[id]) != 1 {
				t.Fatalf("%d server spans", len(exported[id]))
			}
			for n := range fans {
				calls := exported[fmt.Sprintf("%s.%d", id, n)]
				tt.judge(t, heads[i][n], exported[id][0], calls, judgeLines(inbound))
			}
		})
	}
}

// values are those of the own lines of that name, trimmed.
func (r ownRow) values(name string) []string {
	var out []string
	for _, v := range fieldsOf(r.own)[name] {
		out = append(out, strings.TrimSpace(v))
	}
	return out
}

// judge judges one call: its header block and its client spans.
func (r ownRow) judge(t *testing.T, head []byte, server truth.Span, calls []truth.Span, v verdict) {
	t.Helper()
	got := contextOf(t, head)
	var added traceContext
	for _, what := range strings.Fields(r.added) {
		switch what {
		case "tp":
			added.parent = truth.Traceparent{TraceID: server.TraceID, SpanID: got.parent.SpanID, Flags: server.Flags}
		case "ts":
			added.tracestate = v.tracestate
		case "b":
			added.baggage = v.baggage
		}
	}
	if want := added.lines() + "\r\n"; !bytes.HasSuffix(head, []byte("\r\n"+want)) {
		t.Errorf("want %q at the end of %q", want, head)
	}
	for _, name := range []string{"traceparent", "tracestate", "baggage"} {
		own := r.values(name)
		if n := strings.Count(added.lines(), name+": ") + len(own); len(values(head, name)) != n {
			t.Errorf("%q lines of %s, want %d", values(head, name), name, n)
		}
		if len(own) == 1 && strings.TrimSpace(values(head, name)[0]) != own[0] {
			t.Errorf("own %s became %q", name, values(head, name))
		}
	}
	adopted, _ := truth.Single(r.values("traceparent")) // zero if there is none
	if adopted.TraceID != "" && !adopted.Sampled() {
		if len(calls) != 0 {
			t.Errorf("not sampled, yet exported: %s", list(calls))
		}
		return
	}
	if len(calls) != 1 {
		t.Fatalf("%d client spans", len(calls))
	}
	c := calls[0]
	switch {
	case r.added != "":
		if c.SpanID != got.parent.SpanID || c.ParentID != server.SpanID || c.TraceID != server.TraceID || c.Propagation != "injected" {
			t.Errorf("%q on the wire: %s", got.lines(), &c)
		}
	case adopted.TraceID != "":
		if c.TraceID != adopted.TraceID || c.ParentID != adopted.SpanID || c.Rule != "adopted" || c.Propagation != "own" || c.TraceState != got.tracestate {
			t.Errorf("own %q: %s tracestate=%q", got.lines(), &c, c.TraceState)
		}
	case c.ParentID != "" || c.TraceID == server.TraceID || c.Propagation != "own":
		t.Errorf("a malformed traceparent makes a root: %s", &c)
	}
}
