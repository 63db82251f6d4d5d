package e2e

import (
	"bytes"
	"encoding/base64"
	"encoding/binary"
	"encoding/hex"
	"fmt"
	"math"
	"net/http"
	"strings"
	"sync"
	"testing"
	"time"

	"weft/internal/w3c"
	"weft/test/e2e/truth"
)

// trio is three synchronous services behind each other: edge → mid → leaf. Each
// request's parent is exact, and the answer says what every hop received.
type trio struct {
	g               *group
	edge, mid, leaf string // host:port
}

// trioConnections is how many connections a load uses, one worker each.
const trioConnections = 4

func newTrio(t *testing.T) *trio {
	t.Helper()
	s := &trio{g: newGroup(t)}
	s.leaf = prefork(t, s.g, "leaf", "")
	s.mid = prefork(t, s.g, "mid", s.leaf)
	s.edge = prefork(t, s.g, "edge", s.mid)
	return s
}

// query is one request of a load.
type query struct {
	id     string
	method string // GET if empty
	path   string // with any query but the id; /work if empty
	lines  []string
}

func (q query) bytes() []byte {
	method, path := q.method, q.path
	if method == "" {
		method = http.MethodGet
	}
	if path == "" {
		path = "/work"
	}
	sep := "?"
	if strings.Contains(path, "?") {
		sep = "&"
	}
	return headOf(method+" "+path+sep+"id="+q.id, q.lines...)
}

// reply is what came back.
type reply struct {
	query
	status int
	heads  [][]byte // received by each hop, the first hop's first
	took   time.Duration
}

// sendQueries sends them over a few connections and returns the replies, in the
// order of the queries, and how long it all took.
func sendQueries(t *testing.T, addr string, queries []query) ([]reply, time.Duration) {
	t.Helper()
	out := make([]reply, len(queries))
	errs := make([]error, trioConnections)
	var conns [trioConnections]*rawConn
	for i := range conns {
		conns[i] = dialRaw(t, addr, "")
	}
	begin := time.Now()
	var wg sync.WaitGroup
	for c, conn := range conns {
		wg.Go(func() {
			for i := c; i < len(queries) && errs[c] == nil; i += trioConnections {
				out[i], errs[c] = sendQuery(conn, queries[i])
			}
		})
	}
	wg.Wait()
	took := time.Since(begin)
	for c, conn := range conns {
		_ = conn.Close() // answered
		if errs[c] != nil {
			t.Fatal(errs[c])
		}
	}
	return out, took
}

func sendQuery(conn *rawConn, q query) (reply, error) {
	r := reply{query: q}
	start := time.Now()
	if _, err := conn.Write(q.bytes()); err != nil {
		return r, fmt.Errorf("%s: %w", q.id, err)
	}
	method := http.MethodGet
	if q.method != "" {
		method = q.method
	}
	status, body, err := conn.answer(method)
	r.status, r.took = status, time.Since(start)
	if err != nil {
		return r, fmt.Errorf("%s: %w", q.id, err)
	}
	for line := range bytes.Lines(body) {
		head, err := base64.StdEncoding.DecodeString(strings.TrimSpace(string(line)))
		if err != nil {
			return r, fmt.Errorf("%s: answer %.100q: %w", q.id, body, err)
		}
		r.heads = append(r.heads, head)
	}
	return r, nil
}

// decided is what the wire says that was decided for a request.
type decided struct {
	reply
	context traceContext // at the second hop
	random  uint64       // of the trace-id
}

// readWire reads the decision off the wire. All hops must agree on it.
func (r reply) readWire(t *testing.T) decided {
	t.Helper()
	d := decided{reply: r}
	for i, head := range r.heads[1:] {
		c := contextOf(t, head)
		if i == 0 {
			d.context = c
			continue
		}
		if c.parent.TraceID != d.context.parent.TraceID || c.parent.Flags != d.context.parent.Flags || c.tracestate != d.context.tracestate ||
			c.baggage != d.context.baggage || c.parent.SpanID == d.context.parent.SpanID {
			t.Errorf("%s: one hop received %q, the next %q", r.id, d.context.lines(), c.lines())
		}
	}
	id, err := hex.DecodeString(d.context.parent.TraceID)
	if err != nil || len(id) != 16 {
		t.Errorf("%s: no traceparent left: %q", r.id, r.heads[1])
		return d
	}
	d.random = binary.BigEndian.Uint64(id[8:]) & (w3c.MaxThreshold - 1)
	return d
}

// threshold is that of a ratio that the test chose.
func threshold(t *testing.T, ratio float64) uint64 {
	t.Helper()
	th, err := w3c.ThresholdOf(ratio)
	if err != nil {
		t.Fatal(err)
	}
	return th
}

// mark is the tracestate by which a kept trace says its threshold.
func mark(th uint64) string { return "ot=th:" + w3c.ThresholdText(th) }

// whole judges the spans of a sampled request that went through all three
// services: five, each the parent of the next, with the ids that were on the
// wire. It removes them from exported.
func (d decided) whole(t *testing.T, exported map[string][]truth.Span, tracestate string) {
	t.Helper()
	spans := exported[d.id]
	delete(exported, d.id)
	parent := "" // of the first span
	if tp, err := truth.Single(trimmedValues(d.heads[0], "traceparent")); err == nil {
		parent = tp.SpanID
	}
	wire := []string{"", "", ""}
	for i := 1; i < 3; i++ {
		wire[i] = contextOf(t, d.heads[i]).parent.SpanID
	}
	want := []struct{ kind, service, id string }{
		{truth.Server, "edge", ""}, {truth.Client, "edge", wire[1]}, {truth.Server, "mid", ""}, {truth.Client, "mid", wire[2]}, {truth.Server, "leaf", ""},
	}
	if len(spans) != len(want) {
		t.Errorf("%s: flag %02x, %d spans, want %d:%s", d.id, d.context.parent.Flags, len(spans), len(want), list(spans))
		return
	}
	for _, w := range want {
		var found *truth.Span
		for i := range spans {
			if spans[i].Kind == w.kind && spans[i].Service == w.service {
				found = &spans[i]
			}
		}
		if found == nil || found.ParentID != parent || found.TraceID != d.context.parent.TraceID || found.Flags != d.context.parent.Flags ||
			found.TraceState != tracestate || w.id != "" && found.SpanID != w.id {
			t.Errorf("%s: want a %s span of %s under %q with id %q and tracestate %q; got %v", d.id, w.kind, w.service, parent, w.id, tracestate, found)
			return
		}
		parent = found.SpanID
	}
}

func trimmedValues(head []byte, name string) []string {
	var out []string
	for _, v := range values(head, name) {
		out = append(out, strings.TrimSpace(v))
	}
	return out
}

// adjustedCount is how many requests a span stands for, as a backend reads it
// off the tracestate.
func adjustedCount(t *testing.T, s *truth.Span) float64 {
	t.Helper()
	state, err := w3c.ParseTraceState(s.TraceState)
	if err != nil {
		t.Errorf("%v: %s", err, s)
	}
	ot := state.OT()
	if !ot.HasThreshold {
		return 1
	}
	return w3c.MaxThreshold / float64(w3c.MaxThreshold-ot.Threshold)
}

// chance bounds the ways in which a right sampler may still miss an interval:
// a millionth, so that the tests that use one do not fail by themselves.
const chance = 1e-6

// binomial is the interval which the number of successes in n tries, each of
// probability p, leaves with less than chance.
func binomial(n int, p float64) (low, high int) {
	if p <= 0 || p >= 1 {
		k := int(math.Round(float64(n) * p))
		return k, k
	}
	lg := func(k int) float64 { v, _ := math.Lgamma(float64(k + 1)); return v }
	probability := func(k int) float64 {
		return math.Exp(lg(n) - lg(k) - lg(n-k) + float64(k)*math.Log(p) + float64(n-k)*math.Log1p(-p))
	}
	sum := 0.0
	for low = 0; low < n; low++ {
		if sum += probability(low); sum > chance/2 {
			break
		}
	}
	sum = 0
	for high = n; high > 0; high-- {
		if sum += probability(high); sum > chance/2 {
			break
		}
	}
	return low, high
}

// TestBinomial holds the interval to known values.
func TestBinomial(t *testing.T) {
	for _, tt := range []struct {
		n         int
		p         float64
		low, high int
	}{
		{1, 0.5, 0, 1}, {10, 0, 0, 0}, {10, 1, 10, 10}, {20, 0.5, 0, 20}, {100, 0.5, 26, 74},
	} {
		if low, high := binomial(tt.n, tt.p); low != tt.low || high != tt.high {
			t.Errorf("%d tries of %v: %d to %d, want %d to %d", tt.n, tt.p, low, high, tt.low, tt.high)
		}
	}
}
