package sample

import (
	"context"
	"errors"
	"fmt"
	"math"
	"strconv"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"weft/internal/event"
	"weft/internal/selfstats"
)

// Each policy, alone, keeps the trace that it is about whole and no other.
func TestPolicies(t *testing.T) {
	warm := func(tail *Tail) { // a route that takes 1 ms, 200 times, none kept
		for i := range uint64(200) {
			tail.Span(span(i, "/warm"))
		}
	}
	for name, tc := range map[string]struct {
		opts    Options
		prepare func(*Tail)
		spans   []*event.Span
		kept    string
	}{
		"nothing asked for":     {opts: Options{}, spans: []*event.Span{span(lucky, "/a", status(500), took(time.Hour))}},
		"5xx of a server":       {opts: Options{Errors: true}, spans: []*event.Span{span(unlucky, "/a"), span(unlucky, "/b", status(503))}, kept: "/a /b"},
		"4xx of a server":       {opts: Options{Errors: true}, spans: []*event.Span{span(lucky, "/a", status(404))}},
		"4xx of a client":       {opts: Options{Errors: true}, spans: []*event.Span{span(unlucky, "/a"), span(unlucky, "/b", child(2, 1), status(404))}, kept: "/a /b"},
		"connection closed":     {opts: Options{Errors: true}, spans: []*event.Span{span(unlucky, "/a", func(s *event.Span) { s.Response.Reason = event.EndClosed })}, kept: "/a"},
		"another trace's error": {opts: Options{Errors: true}, spans: []*event.Span{span(1, "/a"), span(2, "/b", status(500))}, kept: "/b"},

		"slower":       {opts: Options{SlowerThan: time.Second}, spans: []*event.Span{span(1, "/a", took(time.Second)), span(1, "/b")}, kept: "/a /b"},
		"not slower":   {opts: Options{SlowerThan: time.Second}, spans: []*event.Span{span(1, "/a", took(time.Second-1))}},
		"slow, no cap": {opts: Options{Errors: true}, spans: []*event.Span{span(1, "/a", took(time.Hour))}},

		"slow for its route":        {opts: Options{SlowerQuantile: 0.9}, prepare: warm, spans: []*event.Span{span(900, "/warm", took(2*time.Millisecond)), span(900, "/b")}, kept: "/warm /b"},
		"as always on its route":    {opts: Options{SlowerQuantile: 0.9}, prepare: warm, spans: []*event.Span{span(900, "/warm")}},
		"slow on a route not known": {opts: Options{SlowerQuantile: 0.9}, prepare: warm, spans: []*event.Span{span(900, "/new", took(time.Hour))}},

		"rare":          {opts: Options{RarePerMinute: 2}, spans: []*event.Span{span(1, "/a"), span(2, "/a"), span(3, "/a"), span(4, "/b")}, kept: "/a /a /b"},
		"not rare":      {opts: Options{RarePerMinute: 100}, prepare: warm, spans: []*event.Span{span(900, "/warm")}, kept: strings.TrimSpace(strings.Repeat("/warm ", 100))},
		"all at ratio":  {opts: Options{Ratio: 1}, spans: []*event.Span{span(unlucky, "/a"), span(lucky, "/b")}, kept: "/a /b"},
		"half at ratio": {opts: Options{Ratio: 0.5}, spans: []*event.Span{span(never/2-1, "/a"), span(never/2, "/b")}, kept: "/b"},
	} {
		t.Run(name, func(t *testing.T) {
			var out sink
			tail, _ := start(t, tc.opts, &out)
			if tc.prepare != nil {
				tc.prepare(tail)
			}
			for _, s := range tc.spans {
				tail.Span(s)
			}
			closed(t, tail)
			if got := out.names(); got != tc.kept {
				t.Errorf("kept %q, want %q", got, tc.kept)
			}
		})
	}
}

func TestCountedByStrongestReason(t *testing.T) {
	var out sink
	tail, stats := start(t, Options{Errors: true, SlowerThan: time.Second, RarePerMinute: 2, Ratio: 0.5}, &out)
	tail.Span(span(1, "/rare"))
	tail.Span(span(1, "/rare", took(time.Minute)))
	tail.Span(span(1, "/rare", status(500), took(time.Minute)))
	tail.Span(span(2, "/rare", took(time.Minute)))
	tail.Span(span(3, "/other"))
	tail.Span(span(unlucky, "/rare"))
	tail.Span(span(lucky, "/rare"))
	closed(t, tail)
	tail.Span(span(9, "/rare"))
	want(t, tail, map[string]int{
		"traces error": 1, "spans error": 3, "traces slow": 1, "spans slow": 1, "traces rare": 1, "spans rare": 1,
		"traces ratio": 1, "spans ratio": 1, "traces out": 1, "spans out": 1, "after close": 1,
	})
	// What was sampled out as configured is no loss; what came too late is.
	rows, err := stats.Summary()
	if err != nil || len(rows) != 1 || rows[0].Name != `weft_dropped_total{cause="after_close",stage="sample"}` {
		t.Errorf("summary %v, %v", rows, err)
	}
}

// A trace is decided when it was quiet for Wait, counted from its last span.
func TestDecidedOnceQuiet(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var out sink
		tail, _ := start(t, Options{Ratio: 1, Wait: time.Second}, &out)
		tail.Span(span(1, "/a"))
		time.Sleep(900 * time.Millisecond)
		tail.Span(span(1, "/b"))
		tail.Span(span(2, "/c"))
		time.Sleep(900 * time.Millisecond)
		synctest.Wait()
		if got := out.names(); got != "" {
			t.Errorf("decided early: %q", got)
		}
		time.Sleep(200 * time.Millisecond)
		synctest.Wait()
		if got := out.names(); got != "/a /b /c" {
			t.Errorf("kept %q", got)
		}
		if traces, spans := holding(tail); traces != 0 || spans != 0 {
			t.Errorf("%d spans of %d traces are still held", spans, traces)
		}
		closed(t, tail)
	})
}

// A span whose parent is at work here says that more will come, so that a slow
// request is not decided on its quick calls; but not for ever.
func TestWaitsForParentAtWorkHere(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var out sink
		tail, _ := start(t, Options{SlowerThan: 5 * time.Second, Wait: time.Second}, &out)
		for i := range uint64(20) { // complete, and of no use to the others
			tail.Span(span(9, "/apart", child(100+i, 50)))
		}
		tail.Span(span(9, "/apart", func(s *event.Span) { s.SpanID = spanID(50) }))
		tail.Span(span(1, "/quick", child(2, 1)))
		tail.Span(span(2, "/lost", child(2, 1)))
		for i := range uint64(20) { // more than are searched one by one
			tail.Span(span(3, "/many", child(100+i, 50)))
		}
		time.Sleep(8 * time.Second)
		synctest.Wait()
		if n, _ := holding(tail); n != 3 {
			t.Fatalf("%d traces held, want 3", n)
		}
		tail.Span(span(1, "/slow", took(8*time.Second)))
		tail.Span(span(3, "/slow", took(8*time.Second), func(s *event.Span) { s.SpanID = spanID(50) }))
		time.Sleep(1200 * time.Millisecond)
		synctest.Wait()
		if got := out.names(); got != "/quick /slow "+strings.Repeat("/many ", 20)+"/slow" {
			t.Errorf("kept %q", got)
		}
		if n, _ := holding(tail); n != 1 {
			t.Errorf("%d traces held, want the one that waits", n)
		}
		time.Sleep((patience + 1) * time.Second)
		synctest.Wait()
		if n, _ := holding(tail); n != 0 {
			t.Error("a parent that never ends holds its trace for ever")
		}
		want(t, tail, map[string]int{"traces slow": 2, "spans slow": 23, "traces out": 2, "spans out": 22})
		closed(t, tail)
	})
}

func TestTraceWithoutEnd(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var out sink
		tail, _ := start(t, Options{Ratio: 1, Wait: time.Second}, &out)
		for range 2 * patience {
			tail.Span(span(1, "/a"))
			time.Sleep(900 * time.Millisecond)
		}
		synctest.Wait()
		if n := len(out.spans); n != 2*patience {
			t.Errorf("%d spans came out, want %d", n, 2*patience)
		}
		want(t, tail, map[string]int{"traces ratio": 1, "spans ratio": 2 * patience, "early trace_long": 1, "late kept": 2*patience - 15})
		closed(t, tail)
	})
}

func TestLargeTrace(t *testing.T) {
	var out sink
	tail, _ := start(t, Options{Ratio: 1, MaxSpans: 40}, &out)
	tail.Span(span(2, "/small"))
	for range 25 {
		tail.Span(span(1, "/large"))
	}
	if got := strings.Count(out.names(), "/large"); got != 25 {
		t.Errorf("%d spans out", got)
	}
	if n, spans := holding(tail); n != 1 || spans != 1 {
		t.Errorf("%d traces and %d spans held, want the small one", n, spans)
	}
	want(t, tail, map[string]int{"traces ratio": 1, "spans ratio": 25, "early trace_large": 1, "late kept": 15})
	closed(t, tail)
}

// When full, the trace that was quiet the longest is decided on what is there.
func TestFullDecidesOldest(t *testing.T) {
	var out sink
	tail, _ := start(t, Options{Errors: true, MaxSpans: 12}, &out)
	tail.Span(span(1, "/first", status(500)))
	for i := range uint64(11) {
		tail.Span(span(2+i, fmt.Sprint("/", 2+i)))
	}
	tail.Span(span(1, "/again")) // evicts itself: its first span was the oldest
	if got := out.names(); got != "/first /again" {
		t.Errorf("kept %q", got)
	}
	tail.Span(span(2, "/touched")) // room for one; now 3 is the oldest
	tail.Span(span(20, "/new"))
	if _, held := tail.traces[traceID(3)]; held || tail.traces[traceID(2)] == nil || tail.held != 12 {
		t.Errorf("%d held: %v", tail.held, tail.traces)
	}
	want(t, tail, map[string]int{"traces error": 1, "spans error": 2, "traces out": 1, "spans out": 1, "early full": 2, "late kept": 1})
	closed(t, tail)
}

// A late span follows its trace; but an error is never lost by coming late.
func TestLateSpans(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var out sink
		tail, _ := start(t, Options{Errors: true, Ratio: 0.5, Wait: time.Second, HeadKeepsAll: true}, &out)
		for _, trace := range []uint64{unlucky, lucky} {
			tail.Span(span(trace, fmt.Sprint("/", trace%2)))
		}
		time.Sleep(2 * time.Second)
		synctest.Wait()
		for _, trace := range []uint64{unlucky, lucky} {
			for _, code := range []int{200, 500, 201} {
				tail.Span(span(trace, fmt.Sprint("/", trace%2, "/", code), status(code)))
			}
		}
		if got := out.names(); got != "/1 /0/500 /0/201 /1/200 /1/500 /1/201" {
			t.Errorf("kept %q", got)
		}
		// The error would have come out whatever the share: it stands for itself.
		var states []string
		for _, s := range out.spans {
			states = append(states, s.TraceState)
		}
		if got := fmt.Sprint(states); got != "[ot=th:8 ot=th:0 ot=th:0 ot=th:8 ot=th:0 ot=th:0]" {
			t.Errorf("tracestate %s", got)
		}
		want(t, tail, map[string]int{"traces ratio": 1, "traces out": 1, "spans error": 4, "spans ratio": 2, "spans out": 2,
			"late kept": 5, "late out": 1})
		closed(t, tail)
	})
}

// A million traces at once: what is held stays within its bounds, every span
// comes out or is counted, and every error is kept.
func TestBoundedUnderAMillionTraces(t *testing.T) {
	const traces, most = 1_000_000, 4096
	var out count
	before := heap()
	tail, _ := start(t, Options{Errors: true, RarePerMinute: 1, Ratio: 0.01, MaxSpans: most, Wait: time.Hour}, &out)
	random := source()
	failed := 0
	s := span(0, "/a")
	for i := range uint64(traces) {
		copied := *s
		copied.TraceID = traceID(random.Uint64())
		copied.Target = "/" + word(random.Uint64())
		if i%1000 == 0 {
			copied.Response.Status = 500
			failed++
		}
		tail.Span(&copied)
		if tail.held > most || len(tail.traces) > most || len(tail.policies.routes.known) > maxRoutes {
			t.Fatalf("after %d traces %d spans of %d traces and %d routes are held",
				i+1, tail.held, len(tail.traces), len(tail.policies.routes.known))
		}
	}
	// 4096 spans of 0.4 KiB with their traces, 2048 routes, 2048 decisions.
	if grown := int64(heap()) - int64(before); grown > 8<<20 {
		t.Errorf("the heap grew by %d bytes", grown)
	}
	if n := len(tail.decided.sets) * ways; n != most/remembered {
		t.Errorf("%d decisions remembered", n)
	}
	// So many new routes a minute cannot be told from forgotten ones: after the
	// first that had to go, none is called rare.
	if n := counts(tail.count)["spans rare"] + rareHeld(tail); n > maxRoutes {
		t.Errorf("%d spans called rare", n)
	}
	closed(t, tail)
	c := counts(tail.count)
	if c["spans error"] != failed {
		t.Errorf("%d of %d errors kept", c["spans error"], failed)
	}
	if c["early full"] != traces-most {
		t.Errorf("%d decided early, want %d", c["early full"], traces-most)
	}
	sum := 0
	for name, n := range c {
		if strings.HasPrefix(name, "spans ") {
			sum += n
		}
	}
	if sum != traces || out.n != traces-c["spans out"] {
		t.Errorf("%d spans counted, %d came out, %d sampled out, of %d", sum, out.n, c["spans out"], traces)
	}
}

// word spells a number without digits, so that it does not look like an id.
func word(n uint64) string {
	return strings.Map(func(c rune) rune {
		if c <= '9' {
			return c - '0' + 'g'
		}
		return c
	}, strconv.FormatUint(n>>32, 16))
}

func rareHeld(tail *Tail) (n int) {
	for _, tr := range tail.traces {
		if tr.why == keptRare {
			n++
		}
	}
	return n
}

// count is a sink that keeps nothing.
type count struct{ n int }

func (c *count) Span(*event.Span)            { c.n++ }
func (c *count) Close(context.Context) error { return nil }

func TestCloseDecidesAllThenCloses(t *testing.T) {
	bad := errors.New("bad")
	out := sink{err: bad}
	tail, _ := start(t, Options{Ratio: 1, Wait: time.Hour}, &out)
	for i := range uint64(1000) {
		tail.Span(span(i, "/a"))
	}
	if out.names() != "" {
		t.Error("decided before Close")
	}
	if err := tail.Close(context.Background()); !errors.Is(err, bad) {
		t.Errorf("the sink's error was lost: %v", err)
	}
	if len(out.spans) != 1000 || out.closed != 1 {
		t.Errorf("%d spans, closed %d times", len(out.spans), out.closed)
	}
	if err := tail.Close(context.Background()); err != nil || out.closed != 1 {
		t.Errorf("second Close: %v, sink closed %d times", err, out.closed)
	}
	if traces, spans := holding(tail); traces != 0 || spans != 0 {
		t.Errorf("%d traces and %d spans left", traces, spans)
	}
}

// Spans from several goroutines, decisions by time, and Close, all at once; of
// use with -race.
func TestConcurrentUse(t *testing.T) {
	var out sink
	tail, _ := start(t, Options{Errors: true, SlowerQuantile: 0.9, RarePerMinute: 3, Ratio: 0.5, Wait: time.Millisecond, MaxSpans: 256}, &out)
	var wait sync.WaitGroup
	for g := range uint64(4) {
		wait.Go(func() {
			for i := range uint64(5000) {
				tail.Span(span(i/3<<40|g<<55, "/a", status(200+int(i%5)*100)))
			}
		})
	}
	wait.Add(1)
	go func() {
		defer wait.Done()
		time.Sleep(5 * time.Millisecond)
		closed(t, tail)
	}()
	wait.Wait()
	c := counts(tail.count)
	sum := c["after close"]
	for name, n := range c {
		if strings.HasPrefix(name, "spans ") {
			sum += n
		}
	}
	if sum != 4*5000 {
		t.Errorf("%d spans counted, want %d: %v", sum, 4*5000, c)
	}
}

func TestOptionsRefused(t *testing.T) {
	for _, o := range []Options{
		{Ratio: -0.1}, {Ratio: 1.1}, {Ratio: math.NaN()},
		{SlowerQuantile: 1}, {SlowerQuantile: -1}, {SlowerQuantile: math.NaN()},
	} {
		if tail, err := New(o, &sink{}, selfstats.New()); err == nil || tail != nil || strings.Contains(err.Error(), "\n") {
			t.Errorf("%+v: %v", o, err)
		}
	}
	stats := selfstats.New()
	tail, err := New(Options{}, &sink{}, stats)
	if err != nil || tail.opts.Wait != DefaultWait || tail.opts.MaxSpans != DefaultMaxSpans {
		t.Errorf("defaults: %v", err)
	}
	closed(t, tail)
	if _, err := New(Options{}, &sink{}, stats); err == nil {
		t.Error("metrics registered twice")
	}
}
