package e2e

import (
	"fmt"
	"net/http"
	"runtime"
	"testing"
	"time"

	"weft/test/e2e/truth"
)

// TestSamplingRules: the first rule that fits a request without a parent sets its
// share, health checks come behind the rules, and a parent's decision before both.
func TestSamplingRules(t *testing.T) {
	s := newTrio(t)
	sink := startSink(t)
	a := startAgent(t, s.g, sink, agentOptions{extra: `
sampling:
  ratio: 0.5
  rules:
    - {service: "edge", method: POST, path: /pay, ratio: 1}
    - {service: "ed*", path: /static/, ratio: 0}
    - {method: GET, path: /quarter, ratio: 0.25}
    - {path: /quarter, ratio: 0}
    - {service: mid, path: /healthz, ratio: 1}
    - {service: mid, ratio: 0.75}
`})
	parent := []string{"traceparent: " + tp(1, "01")}
	tests := []struct {
		addr, method, path string
		lines              []string
		ratio              float64
		requests           int
	}{
		{s.edge, "GET", "/work", nil, 0.5, 200},
		{s.edge, "POST", "/pay", nil, 1, 20},
		{s.edge, "POST", "/payment?now=1", nil, 1, 20}, // the beginning of a path
		{s.edge, "GET", "/pay", nil, 0.5, 40},
		{s.edge, "POST", "/Pay", nil, 0.5, 40},
		{s.edge, "GET", "/static/a.js", nil, 0, 40},
		{s.edge, "GET", "/static", nil, 0.5, 40},
		{s.mid, "GET", "/static/a.js", nil, 0.75, 40}, // another service
		{s.edge, "GET", "/quarter", nil, 0.25, 800},
		{s.edge, "GET", "/quarterly?x", nil, 0.25, 40},
		{s.edge, "PUT", "/quarter", nil, 0, 40},
		{s.mid, "GET", "/quarter", nil, 0.25, 40}, // an earlier rule than its own
		{s.mid, "GET", "/healthz", nil, 1, 20},    // a rule comes before the health checks
		{s.edge, "GET", "/healthz", nil, 0, 40},
		{s.edge, "GET", "/healthz?full=1", nil, 0, 40},
		{s.edge, "GET", "/actuator/health/liveness", nil, 0, 40},
		{s.edge, "HEAD", "/readyz", nil, 0, 40},
		{s.edge, "POST", "/healthz", nil, 0.5, 40},
		{s.edge, "GET", "/healthz/more", nil, 0.5, 40},
		{s.edge, "GET", "/healthzz", nil, 0.5, 40},
		{s.edge, "GET", "/healthz", parent, 1, 20}, // its caller has decided
		{s.edge, "GET", "/static/a.js", parent, 1, 20},
	}
	type load struct {
		all     []decided
		low, up int
	}
	loads := make([]load, len(tests))
	spans := 0
	for i, tt := range tests {
		var queries []query
		for n := range scaled(t, tt.requests) {
			queries = append(queries, query{id: fmt.Sprintf("r%d-%d", i, n), method: tt.method, path: tt.path, lines: tt.lines})
		}
		replies, _ := sendQueries(t, tt.addr, queries)
		loads[i].low, loads[i].up = binomial(len(queries), tt.ratio)
		for _, r := range replies {
			d := decided{reply: r}
			if tt.method != http.MethodHead { // its answer tells nothing
				d = r.readWire(t)
			}
			loads[i].all = append(loads[i].all, d)
			if d.context.parent.Sampled() {
				spans += 2*len(d.heads) - 1
			}
		}
	}
	exported := byID(spansOf(t, sink, spans))
	for i, tt := range tests {
		t.Run(fmt.Sprintf("%s %s %v", tt.method, tt.path, tt.ratio), func(t *testing.T) {
			th := threshold(t, tt.ratio)
			kept, estimate := 0, 0.0
			for _, d := range loads[i].all {
				if tt.method != http.MethodHead && tt.lines == nil {
					judgeRoot(t, d, th)
				}
				spans := exported[d.id]
				want := 0
				if d.context.parent.Sampled() {
					kept++
					want = 2*len(d.heads) - 1
				}
				if len(spans) != want {
					t.Errorf("%s: flags %02x, %d spans, want %d", d.id, d.context.parent.Flags, len(spans), want)
				}
				for j := range spans {
					if x := &spans[j]; x.Kind == truth.Server && (x.Service == "edge" || tt.addr == s.mid && x.Service == "mid") {
						estimate += adjustedCount(t, x)
					}
				}
			}
			if n := float64(len(loads[i].all)); tt.ratio > 0 && (estimate < float64(loads[i].low)/tt.ratio || estimate > float64(loads[i].up)/tt.ratio) {
				t.Errorf("%d spans stand for %.0f requests, there were %.0f", kept, estimate, n)
			}
			if kept < loads[i].low || kept > loads[i].up {
				t.Errorf("%d of %d kept, want %d to %d", kept, len(loads[i].all), loads[i].low, loads[i].up)
			}
		})
	}
	if lost := a.losses(); len(lost) > 0 {
		t.Errorf("lost: %v", lost)
	}
	a.stop()
}

// TestSamplingLimit: a burst does not get more through than the limit of its
// service, and who is over it is carried on, not sampled. Health checks are
// requests like others where the configuration says so.
func TestSamplingLimit(t *testing.T) {
	s := newTrio(t)
	sink := startSink(t)
	const rate = 20
	a := startAgent(t, s.g, sink, agentOptions{extra: fmt.Sprintf("sampling: {max_per_second: %d, health_checks: keep}\n", rate)})
	before := a.kernelCounts()
	var queries []query
	for i := range scaled(t, 4000) {
		queries = append(queries, query{id: fmt.Sprintf("burst-%d", i), path: "/healthz"})
	}
	replies, took := sendQueries(t, s.edge, queries)
	kept := 0
	var all []decided
	for _, r := range replies {
		d := r.readWire(t)
		all = append(all, d)
		if d.context.parent.Sampled() {
			kept++
		}
		// A limit keeps a share that nobody knows.
		if d.context.tracestate != "" {
			t.Errorf("%s: tracestate %q", d.id, d.context.tracestate)
		}
	}
	second := took.Seconds()
	most := int(rate*second) + rate + runtime.NumCPU() + 1
	least := min(max(rate, int(rate*second/2)), len(queries))
	if kept > most || kept < least {
		t.Errorf("%d of %d sampled in %v, want %d to %d", kept, len(queries), took, least, most)
	}
	t.Logf("%d of %d sampled in %v", kept, len(queries), took.Round(time.Millisecond))
	a.counted(before, map[string]float64{"limited/roots": float64(len(queries) - kept), "unsampled/server": float64(3 * (len(queries) - kept))})

	// Another service has a limit of its own, and a parent's decision needs none.
	others := []query{}
	for i := range rate / 2 {
		others = append(others, query{id: fmt.Sprintf("other-%d", i)})
	}
	direct, _ := sendQueries(t, s.mid, others)
	for i := range others {
		others[i].id = fmt.Sprintf("child-%d", i)
		others[i].lines = []string{"traceparent: " + tp(i, "01")}
	}
	children, _ := sendQueries(t, s.edge, others)
	for _, r := range append(direct, children...) {
		if d := r.readWire(t); !d.context.parent.Sampled() {
			t.Errorf("%s: %q, want it sampled", d.id, d.context.lines())
		}
	}
	exported := byID(spansOf(t, sink, 5*kept+3*len(direct)+5*len(children)))
	for _, d := range all {
		if d.context.parent.Sampled() {
			d.whole(t, exported, "")
		} else if len(exported[d.id]) > 0 {
			t.Errorf("%s: not sampled, yet exported:%s", d.id, list(exported[d.id]))
		}
	}
	a.stop()
}
