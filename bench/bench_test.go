package main

import (
	"errors"
	"math"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	collector "go.opentelemetry.io/proto/otlp/collector/trace/v1"
	tracepb "go.opentelemetry.io/proto/otlp/trace/v1"
	"google.golang.org/protobuf/proto"
)

func near(got, want float64) bool { return math.Abs(got-want) < 1e-3*math.Abs(want) }

func TestCompare(t *testing.T) {
	// ln 2 ± t(2) · s/√3 with logs ln 2 − d, ln 2, ln 2 + d.
	d := 0.1
	got := compare([]float64{2 * math.Exp(-d), 20, 200 * math.Exp(d)}, []float64{1, 10, 100})
	half := 4.303 * d / math.Sqrt(3)
	if !near(got.Mean, 2) || !near(got.Low, 2*math.Exp(-half)) || !near(got.High, 2*math.Exp(half)) {
		t.Errorf("got %+v, want 2 (%g–%g)", got, 2*math.Exp(-half), 2*math.Exp(half))
	}
	if same := compare([]float64{3, 5}, []float64{3, 5}); same != (ratio{1, 1, 1}) {
		t.Errorf("equal rounds compare as %+v", same)
	}
}

func TestQuantileAndMedian(t *testing.T) {
	var sorted []time.Duration
	for n := range 1000 {
		sorted = append(sorted, time.Duration(n+1))
	}
	for q, want := range map[float64]time.Duration{0.5: 500, 0.99: 990, 0.999: 999, 1: 1000} {
		if got := quantile(sorted, q); got != want {
			t.Errorf("quantile %g is %d, want %d", q, got, want)
		}
	}
	if got := quantile(nil, 0.5); got != 0 {
		t.Errorf("quantile of nothing is %d", got)
	}
	if got := median([]float64{9, 1, 4}); got != 4 {
		t.Errorf("median of three is %g", got)
	}
	if got := median([]float64{9, 1, 4, 2}); got != 3 {
		t.Errorf("median of four is %g", got)
	}
}

// A server that stands still for a while delays what was due meanwhile, and an
// open loop must say so. A closed loop sees one slow request.
func TestOpenLoopCountsWhatWasDue(t *testing.T) {
	const stall = 300 * time.Millisecond
	var n atomic.Int64
	get := func(int) error {
		if n.Add(1) == 50 {
			time.Sleep(stall)
		}
		return nil
	}
	open := openLoop(load{Conns: 1, Rate: 500, For: time.Second}, get)
	if open.Sent != 500 || open.Measured != 500 || open.Failed != 0 {
		t.Errorf("%+v", open)
	}
	// 150 of 500 requests were due while it stood still.
	if open.P99 < stall/2 || open.Most < stall {
		t.Errorf("p99 %v and largest %v hide a stall of %v", open.P99, open.Most, stall)
	}
	n.Store(0)
	closed := closedLoop(load{Conns: 1, For: time.Second}, func(conn int) error {
		time.Sleep(time.Millisecond)
		return get(conn)
	})
	// One slow request is one of hundreds; the median, as a busy machine adds a few.
	if closed.Most < stall || closed.P50 > stall/2 {
		t.Errorf("closed loop: median %v, largest %v", closed.P50, closed.Most)
	}
}

func TestLoadsCountFailuresAndLateness(t *testing.T) {
	broken := errors.New("broken")
	if o := closedLoop(load{Conns: 2, For: 50 * time.Millisecond}, func(int) error { time.Sleep(time.Millisecond); return broken }); o.Failed != o.Sent || o.Sent == 0 {
		t.Errorf("%d of %d failed, want all", o.Failed, o.Sent)
	}
	// 100 due in a tenth of a second, each takes 5 ms: about 20 are in time.
	o := openLoop(load{Conns: 1, Rate: 1000, For: 100 * time.Millisecond}, func(int) error { time.Sleep(5 * time.Millisecond); return nil })
	if o.Measured != 100 || o.Late < 60 || o.rate() > 400 {
		t.Errorf("%d measured, %d late, %.0f/s", o.Measured, o.Late, o.rate())
	}
}

func TestCountSpans(t *testing.T) {
	spans := func(n int) *tracepb.ScopeSpans {
		s := &tracepb.ScopeSpans{SchemaUrl: "https://opentelemetry.io"}
		for range n {
			s.Spans = append(s.Spans, &tracepb.Span{Name: "GET", TraceId: make([]byte, 16)})
		}
		return s
	}
	raw, err := proto.Marshal(&collector.ExportTraceServiceRequest{ResourceSpans: []*tracepb.ResourceSpans{
		{ScopeSpans: []*tracepb.ScopeSpans{spans(3), spans(0)}}, {SchemaUrl: "x"}, {ScopeSpans: []*tracepb.ScopeSpans{spans(4)}},
	}})
	if err != nil {
		t.Fatal(err)
	}
	if n, err := countSpans(raw); n != 7 || err != nil {
		t.Errorf("%d spans, %v; want 7", n, err)
	}
	if _, err := countSpans(raw[:len(raw)-1]); err == nil {
		t.Error("a message that is cut off was counted")
	}
}

func TestParseMetrics(t *testing.T) {
	m, err := parseMetrics(strings.NewReader(`# TYPE weft_kernel_lost_total counter
weft_kernel_lost_total{cause="ring_full"} 3
weft_kernel_lost_total{cause="other"} 0
# TYPE weft_dropped_total counter
weft_dropped_total{stage="export",cause="queue_full"} 2
# TYPE weft_processes_selected gauge
weft_processes_selected 2
`))
	if err != nil {
		t.Fatal(err)
	}
	if got := m.above("lost", "dropped").text(); got != `weft_dropped_total{stage="export",cause="queue_full"} 2, weft_kernel_lost_total{cause="ring_full"} 3` {
		t.Errorf("lost: %s", got)
	}
	if m.sum("weft_kernel_lost_total") != 3 || m.sum("weft_processes_selected") != 2 || m.sum("weft_processes") != 0 {
		t.Errorf("sums of %v", m)
	}
}

// The check must notice a load that was not traced, and one that was traced
// where it should not be.
func TestCheck(t *testing.T) {
	all := settings{}.arms("group", true)
	_, carrying := carryArms("group", 100)
	all = append(all, carrying, arm{name: "another", peer: &peer{name: "another"}})
	armCarry, armPeer := len(all)-2, len(all)-1
	right := evidence{requests: 10, traceparent: 10, sampled: 10, spans: 20, written: 10}
	dropped := evidence{requests: 10, traceparent: 10, written: 10}
	carried := right
	carried.carried = 1000
	cut := carried
	cut.carried--
	for name, c := range map[string]struct {
		arm  int
		seen evidence
		says string // "" is right
	}{
		"a peer":                      {armPeer, evidence{requests: 10, traceparent: 3, spans: 7}, ""},
		"a peer that eats":            {armPeer, evidence{requests: 9}, "requests the server saw: 9, want 10"},
		"traced":                      {armTrace, right, ""},
		"observed":                    {armObserve, evidence{requests: 10, spans: 20}, ""},
		"sampled out":                 {armSampledOut, dropped, ""},
		"flag set all along":          {armSampledOut, evidence{requests: 10, traceparent: 10, sampled: 10, written: 10}, "sampled flag was set: 10, want 0"},
		"events all along":            {armSampledOut, evidence{requests: 10, traceparent: 10, spans: 2, written: 10}, "spans delivered: 2, want 0"},
		"flag not set":                {armTrace, evidence{requests: 10, traceparent: 10, spans: 20, written: 10}, "sampled flag was set: 0, want 10"},
		"carried":                     {armCarry, carried, ""},
		"a byte not carried":          {armCarry, cut, "bytes of tracestate and baggage: 999, want 1000"},
		"carried by nobody":           {armWithout, evidence{requests: 10, carried: 100}, "bytes of tracestate and baggage: 100, want 0"},
		"untouched":                   {armOthers, evidence{requests: 10}, ""},
		"not traced":                  {armTrace, evidence{requests: 10}, "carried traceparent: 0, want 10"},
		"traced by others":            {armWithout, right, "carried traceparent: 10, want 0"},
		"one header missing":          {armTrace, evidence{requests: 10, traceparent: 9, sampled: 9, spans: 20, written: 10}, "carried traceparent: 9, want 10"},
		"observing, overtaken once":   {armObserve, evidence{requests: 10000, spans: 19998}, ""},
		"observing, overtaken often":  {armObserve, evidence{requests: 10000, spans: 19990}, "spans delivered: 19990, want 20000"},
		"observing, more than wanted": {armObserve, evidence{requests: 10000, spans: 20001}, "spans delivered: 20001, want 20000"},
		"one span missing":            {armTrace, evidence{requests: 10, traceparent: 10, sampled: 10, spans: 19, written: 10}, "spans delivered: 19, want 20"},
		"written twice":               {armTrace, evidence{requests: 10, traceparent: 9, sampled: 9, repeated: 1, spans: 20, written: 10}, "several: 1, want 0"},
		"lost":                        {armTrace, evidence{requests: 10, traceparent: 10, sampled: 10, spans: 20, written: 10, lost: samples{"weft_dropped_total": 1}}, "lost: weft_dropped_total 1"},
		"lost at the end":             {armTrace, evidence{requests: 10, traceparent: 10, sampled: 10, spans: 20, written: 10, summary: "not delivered: x 1"}, "not delivered: x 1"},
	} {
		t.Run(name, func(t *testing.T) {
			err := errors.Join(c.seen.check(all[c.arm], max(10, c.seen.requests), promise{spans: 2, sends: true})...)
			if c.says == "" && err != nil || c.says != "" && (err == nil || !strings.Contains(err.Error(), c.says)) {
				t.Errorf("got %v, want %q", err, c.says)
			}
		})
	}
	inTLS := evidence{requests: 10, spans: 20, summary: `not seen or not delivered: weft_kernel_refused_total{cause="tls"} 10`}
	if err := errors.Join(inTLS.check(all[armTrace], 10, promise{spans: 2, dark: true})...); err != nil {
		t.Errorf("inside TLS, not to be written: %v", err)
	}
	if err := errors.Join(inTLS.check(all[armTrace], 10, promise{spans: 2})...); err == nil {
		t.Error("refused where it may be written, and nobody noticed")
	}
	inTLS.summary += ` weft_kernel_refused_total{cause="room"} 1`
	if err := errors.Join(inTLS.check(all[armTrace], 10, promise{spans: 2, dark: true})...); err == nil || !strings.Contains(err.Error(), `lost:  weft_kernel_refused_total{cause="room"} 1`) {
		t.Errorf("something else refused: %v", err)
	}
	traces := all[armTrace] // of a rig whose protocol weft does not know
	if err := errors.Join((evidence{requests: 10}).check(traces, 10, promise{})...); err != nil {
		t.Errorf("left alone: %v", err)
	}
	if err := errors.Join((evidence{requests: 10, spans: 10}).check(traces, 10, promise{spans: 1})...); err != nil {
		t.Errorf("a server alone: %v", err)
	}
	if err := errors.Join(right.check(traces, 10, promise{})...); err == nil {
		t.Error("a program that was to be left alone was traced, and nobody noticed")
	}
}

func TestNumber(t *testing.T) {
	for v, want := range map[float64]string{0: "0.00", 1.234: "1.23", 52.06: "52.1", 307.4: "307", 14389: "14,389", 1234567: "1,234,567", -1234: "−1,234"} {
		if got := number(v); got != want {
			t.Errorf("number(%g) = %s, want %s", v, got, want)
		}
	}
}
