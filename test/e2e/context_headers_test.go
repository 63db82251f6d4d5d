package e2e

import (
	"bytes"
	"errors"
	"fmt"
	"strings"
	"testing"

	"weft/internal/w3c"
	"weft/test/e2e/truth"
)

// row is one request: header lines as they go on the wire, and the lines that
// the program is told to send by itself.
type row struct {
	name  string
	lines []string
	own   []string
}

// verdict is what the rules of internal/w3c make of header lines.
type verdict struct {
	rule       string // of the server span
	parent     w3c.TraceParent
	tracestate string
	baggage    string
	counts     map[string]float64
}

func fieldsOf(lines []string) map[string][]string {
	fields := map[string][]string{}
	for _, l := range lines {
		name, value, _ := strings.Cut(l, ":")
		name = strings.ToLower(name)
		fields[name] = append(fields[name], value)
	}
	return fields
}

func judgeLines(lines []string) verdict {
	fields := fieldsOf(lines)
	v := verdict{counts: map[string]float64{}}
	var err error
	v.parent, err = w3c.FromFields(fields["traceparent"])
	switch {
	case err == nil:
		v.rule = "wire"
		v.counts["context/continued"]++
	case errors.Is(err, w3c.ErrMissing):
		v.rule = "none"
		v.counts["context/none"]++
	case errors.Is(err, w3c.ErrDuplicate):
		v.rule = "invalid"
		v.counts["context/duplicate"]++
	default:
		v.rule = "invalid"
		v.counts["context/invalid"]++
	}
	if err == nil {
		state, err := w3c.ParseTraceState(fields["tracestate"]...)
		kept, dropped := state.Cut()
		if contradicts(v.parent, state.OT()) {
			kept = state.WithoutThreshold()
		}
		v.tracestate = kept.String()
		switch {
		case err != nil:
			v.counts["tracestate/invalid"]++
		case kept.Len()+dropped > 0:
			v.counts["tracestate/kept"]++
		}
		if dropped > 0 {
			v.counts["tracestate/cut"]++
		}
	}
	b := w3c.ParseBaggage(nil, fields["baggage"]...)
	v.baggage = b.String()
	v.counts["baggage/malformed"] += float64(b.Malformed)
	v.counts["baggage/cut"] += float64(b.Dropped)
	if v.baggage != "" {
		v.counts["baggage/kept"]++
	}
	return v
}

// contradicts says that the threshold is not one by which this flag was decided.
func contradicts(parent w3c.TraceParent, ot w3c.OT) bool {
	random := w3c.Randomness(parent.TraceID)
	if ot.HasRandom {
		random = ot.Random
	}
	return ot.HasThreshold && (random >= ot.Threshold) != parent.Sampled()
}

// fanout is a service that calls the receiver twice for each request.
type fanout struct {
	name   string
	addr   string
	target *receiver
	reuse  bool // one connection takes all requests
	conn   *rawConn
}

const fans = 2

func (f *fanout) id(i int) string { return fmt.Sprintf("%s-%d", f.name, i) }

// ask sends a row and returns the header blocks that the receiver got.
func (f *fanout) ask(t *testing.T, i int, r row) [fans][]byte {
	t.Helper()
	first := "GET /fan?id=" + f.id(i)
	for n := range fans {
		first += fmt.Sprintf("&to=http://%s/leaf?id=%s.%d", f.target.addr, f.id(i), n)
	}
	lines := append([]string(nil), r.lines...)
	for _, l := range r.own {
		lines = append(lines, "X-Own-"+l)
	}
	if f.conn == nil || !f.reuse {
		f.conn = dialRaw(t, f.addr, "")
	}
	f.conn.ask(t, headOf(first, lines...))
	if !f.reuse {
		_ = f.conn.Close() // answered
	}
	var heads [fans][]byte
	for n := range fans {
		heads[n] = f.target.take(t, fmt.Sprintf("%s.%d", f.id(i), n))
	}
	return heads
}

// rows returns header blocks by row, and every context in them.
func (f *fanout) rows(t *testing.T, rows []row) [][fans][]byte {
	t.Helper()
	var all [][fans][]byte
	for i, r := range rows {
		all = append(all, f.ask(t, i, r))
	}
	f.conn = nil
	return all
}

// TestContextHeaders sends every kind of good and bad context to services that
// know nothing of it, and judges what leaves them, byte by byte.
func TestContextHeaders(t *testing.T) {
	g := newGroup(t)
	sink := startSink(t)
	target := startReceiver(t, "127.0.0.1:0")
	var services []*fanout
	for _, s := range []struct {
		name  string
		start service
		reuse bool
	}{
		{"flask", roomyGunicorn, false}, // gunicorn's sync workers close every connection
		{"go", goService, true},
	} {
		port := freePort(t)
		s.start(t, g, place{port: port, keepAlive: true})
		services = append(services, &fanout{name: s.name, addr: fmt.Sprintf("127.0.0.1:%d", port), target: target, reuse: s.reuse})
	}
	rows := append(contextRows(), randomRows(seeded(t), max(40, int(200*scale(t))))...)

	target.keep(false) // connections from before weft would be joined midway
	plain := map[string][][fans][]byte{}
	for _, f := range services {
		plain[f.name] = f.rows(t, rows)
	}
	target.keep(true)
	a := startAgent(t, g, sink, agentOptions{})
	for _, f := range services {
		t.Run(f.name, func(t *testing.T) {
			before := a.kernelCounts()
			heads := f.rows(t, rows)
			want, spans := expectedOf(rows)
			a.counted(before, want)
			exported := byID(spansOf(t, sink, spans))
			for i, r := range rows {
				t.Run(r.name, func(t *testing.T) {
					judgeRow(t, r, plain[f.name][i], heads[i], f.id(i), exported)
				})
			}
			t.Run("own headers", func(t *testing.T) { ownHeaders(t, sink, f) })
		})
	}
	if lost := a.losses(); len(lost) > 0 {
		t.Errorf("lost: %v", lost)
	}
	a.stop()
}

// expectedOf says what all the rows together count, and how many spans they make.
func expectedOf(rows []row) (counts map[string]float64, spans int) {
	counts = map[string]float64{"injected/socket": float64(fans * len(rows))}
	for _, r := range rows {
		v := judgeLines(r.lines)
		for name, n := range v.counts {
			counts[name] += n
		}
		if v.tracestate != "" {
			counts["written/tracestate"] += fans
		}
		if v.baggage != "" {
			counts["written/baggage"] += fans
		}
		if v.rule != "wire" || v.parent.Sampled() {
			spans += 1 + fans
		}
	}
	return counts, spans
}

func byID(spans []truth.Span) map[string][]truth.Span {
	out := map[string][]truth.Span{}
	for _, s := range spans {
		out[s.ID()] = append(out[s.ID()], s)
	}
	return out
}

// judgeRow judges one request and the calls it made.
func judgeRow(t *testing.T, r row, plain, heads [fans][]byte, id string, exported map[string][]truth.Span) {
	t.Helper()
	v := judgeLines(r.lines)
	want := traceContext{tracestate: v.tracestate, baggage: v.baggage}
	want.parent.Flags = w3c.FlagSampled | w3c.FlagRandom // a root
	if v.rule == "wire" {
		want.parent = truth.Traceparent{TraceID: fmt.Sprintf("%x", v.parent.TraceID), Flags: v.parent.Flags}
	}
	var server truth.Span
	if want.parent.Sampled() {
		if len(exported[id]) != 1 {
			t.Fatalf("%d server spans: %s", len(exported[id]), list(exported[id]))
		}
		server = exported[id][0]
		judgeServer(t, server, v)
	} else if len(exported[id]) != 0 {
		t.Errorf("not sampled, yet exported: %s", list(exported[id]))
	}
	seen := map[string]bool{}
	for n := range fans {
		got := contextOf(t, heads[n])
		want.parent.SpanID = got.parent.SpanID
		if v.rule != "wire" {
			want.parent.TraceID = server.TraceID
		}
		if whole := want.injectedInto(plain[n]); !bytes.Equal(heads[n], whole) {
			t.Errorf("call %d:\ngot  %q\nwant %q", n, heads[n], whole)
		}
		if seen[got.parent.SpanID] {
			t.Errorf("two calls with the span id %s", got.parent.SpanID)
		}
		seen[got.parent.SpanID] = true
		calls := exported[fmt.Sprintf("%s.%d", id, n)]
		switch {
		case !want.parent.Sampled() && len(calls) != 0:
			t.Errorf("not sampled, yet exported: %s", list(calls))
		case want.parent.Sampled() && len(calls) != 1:
			t.Errorf("%d client spans of call %d", len(calls), n)
		case want.parent.Sampled():
			c := calls[0]
			if c.Kind != truth.Client || c.TraceID != got.parent.TraceID || c.SpanID != got.parent.SpanID || c.Flags != got.parent.Flags ||
				c.ParentID != server.SpanID || c.TraceState != got.tracestate || c.Propagation != "injected" {
				t.Errorf("%q on the wire, exported %s flags=%02x tracestate=%q", got.lines(), &c, c.Flags, c.TraceState)
			}
		}
	}
}

func judgeServer(t *testing.T, s truth.Span, v verdict) {
	t.Helper()
	parent := ""
	if v.rule == "wire" {
		parent = fmt.Sprintf("%x", v.parent.SpanID)
		if s.TraceID != fmt.Sprintf("%x", v.parent.TraceID) || s.Flags != v.parent.Flags {
			t.Errorf("came with %s: %s flags=%02x", v.parent, &s, s.Flags)
		}
	}
	if s.Kind != truth.Server || s.ParentID != parent || s.Rule != v.rule || s.TraceState != v.tracestate || len(s.Links) != 0 {
		t.Errorf("rule %q parent %q tracestate %q; want %q %q %q: %s", s.Rule, s.ParentID, s.TraceState, v.rule, parent, v.tracestate, &s)
	}
}
