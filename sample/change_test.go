package sample

import (
	"fmt"
	"sync"
	"testing"
	"time"

	"weft/internal/selfstats"
)

func changed(t *testing.T, tail *Tail, o *Options) {
	t.Helper()
	if err := tail.Change(o); err != nil {
		t.Fatal(err)
	}
}

// TestChangeOnAndOff: spans pass while there is nothing to decide by, are decided while
// there is, and what is held when that ends is decided by what was.
func TestChangeOnAndOff(t *testing.T) {
	k, stats := &sink{}, selfstats.New()
	tail := Idle(k, stats)
	errorsOnly := &Options{Errors: true, Wait: time.Hour}
	for round := range 3 {
		base := uint64(10 * round)
		k.spans = nil
		changed(t, tail, nil)
		tail.Span(span(base+unlucky, "/idle"))
		if got := k.names(); got != "/idle" {
			t.Fatalf("round %d: passed %q", round, got)
		}
		changed(t, tail, errorsOnly)
		tail.Span(span(base+1, "/well"))
		tail.Span(span(base+2, "/bad", status(500)))
		if traces, spans := holding(tail); traces != 2 || spans != 2 || k.names() != "/idle" {
			t.Fatalf("round %d: %d traces of %d spans are held, passed %q", round, traces, spans, k.names())
		}
		changed(t, tail, nil)
		if got := k.names(); got != "/idle /bad" {
			t.Fatalf("round %d: passed %q", round, got)
		}
		// What was decided is forgotten with it.
		tail.Span(span(base+1, "/late"))
		if got := k.names(); got != "/idle /bad /late" {
			t.Fatalf("round %d: passed %q", round, got)
		}
	}
	want(t, tail, map[string]int{"traces error": 3, "spans error": 3, "traces out": 3, "spans out": 3})
	closed(t, tail)
	changed(t, tail, errorsOnly) // of no effect
	if k.closed != 1 {
		t.Errorf("the sink was closed %d times", k.closed)
	}
}

// TestChangeWhatIsHeld: a trace that is held is decided by the options in force when its
// time comes, but for what a policy has found of the spans that were there.
func TestChangeWhatIsHeld(t *testing.T) {
	k := &sink{}
	tail, _ := start(t, Options{Errors: true, Wait: time.Hour}, k)
	tail.Span(span(unlucky, "/bad", status(500)))
	tail.Span(span(1, "/well"))
	tail.Span(span(2, "/out"))
	changed(t, tail, &Options{SlowerThan: time.Minute, Wait: time.Hour})
	tail.Span(span(1, "/slow", took(time.Hour)))
	tail.Span(span(3, "/unseen", status(500)))
	if traces, _ := holding(tail); traces != 4 {
		t.Fatalf("%d traces held", traces)
	}
	closed(t, tail)
	if got := k.names(); got != "/bad /well /slow" {
		t.Errorf("kept %q", got)
	}
}

// TestChangeWait: a shorter wait counts for what is held already.
func TestChangeWait(t *testing.T) {
	k := &sink{}
	tail, _ := start(t, Options{Ratio: 1, Wait: time.Hour}, k)
	defer closed(t, tail)
	tail.Span(span(lucky, "/held"))
	changed(t, tail, &Options{Ratio: 1, Wait: 10 * time.Millisecond})
	for deadline := time.Now().Add(time.Minute); k.names() != "/held"; time.Sleep(time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatal("not decided")
		}
	}
}

// TestChangeMaxSpans: less room makes the oldest be decided, and what was decided is
// still known.
func TestChangeMaxSpans(t *testing.T) {
	k := &sink{}
	tail, _ := start(t, Options{Errors: true, MaxSpans: 400, Wait: time.Hour}, k)
	for n := range uint64(100) {
		tail.Span(span(n, fmt.Sprint(n), status(500)))
	}
	changed(t, tail, &Options{MaxSpans: 40, Wait: time.Hour})
	if traces, spans := holding(tail); traces != 40 || spans != 40 {
		t.Fatalf("%d traces of %d spans are held", traces, spans)
	}
	want(t, tail, map[string]int{"traces error": 60, "spans error": 60, "early full": 60})
	changed(t, tail, &Options{MaxSpans: 4000, Wait: time.Hour})
	tail.Span(span(59, "late")) // the last that was decided
	want(t, tail, map[string]int{"traces error": 60, "spans error": 61, "early full": 60, "late kept": 1})
	closed(t, tail)
}

// TestChangeRatio: the share that is kept, and what its spans say they stand for, is the
// new one.
func TestChangeRatio(t *testing.T) {
	k := &sink{}
	tail, _ := start(t, Options{Ratio: 1, HeadKeepsAll: true, Wait: time.Hour}, k)
	changed(t, tail, &Options{Ratio: 0.5, HeadKeepsAll: true, Wait: time.Hour})
	tail.Span(span(never/2-1, "/out"))
	tail.Span(span(never/2, "/in"))
	closed(t, tail)
	if got := k.names(); got != "/in" {
		t.Fatalf("kept %q", got)
	}
	if got := k.spans[0].TraceState; got != "ot=th:8" {
		t.Errorf("tracestate %q", got)
	}
}

// TestChangeKeepsRoutes: what is known of routes outlives a change that does not
// concern it.
func TestChangeKeepsRoutes(t *testing.T) {
	k := &sink{}
	o := Options{RarePerMinute: 2, Wait: time.Hour}
	tail, _ := start(t, o, k)
	tail.Span(span(1, "/r"))
	tail.Span(span(2, "/r"))
	o.Errors = true
	changed(t, tail, &o)
	tail.Span(span(3, "/r"))
	o.RarePerMinute = 1 // it does: all routes are new
	changed(t, tail, &o)
	tail.Span(span(4, "/r"))
	closed(t, tail)
	want(t, tail, map[string]int{"traces rare": 3, "spans rare": 3, "traces out": 1, "spans out": 1})
}

func TestChangeRefusesMistakes(t *testing.T) {
	k := &sink{}
	tail, stats := start(t, Options{Errors: true, Wait: time.Hour}, k)
	for _, o := range []Options{{Ratio: 2}, {SlowerQuantile: 1}} {
		if err := tail.Change(&o); err == nil {
			t.Errorf("%+v is taken", o)
		}
	}
	tail.Span(span(unlucky, "/bad", status(500)))
	closed(t, tail)
	if got := k.names(); got != "/bad" {
		t.Errorf("kept %q", got)
	}
	idle := Idle(k, stats) // its metrics are somebody else's
	if err := idle.Change(&Options{}); err == nil {
		t.Error("two samplers count in one place")
	}
	idle.Span(span(1, "/passed"))
	if got := k.names(); got != "/bad /passed" {
		t.Errorf("kept %q", got)
	}
	closed(t, idle)
}

// TestChangeUnderLoad: no span is lost or seen twice, whatever is changed meanwhile.
func TestChangeUnderLoad(t *testing.T) {
	k := &sink{}
	tail := Idle(k, selfstats.New())
	const spans = 20000
	var all sync.WaitGroup
	all.Go(func() {
		for n := range uint64(spans) {
			tail.Span(span(n/3, "/x"))
		}
	})
	changes := []*Options{{Ratio: 1, Wait: 100 * time.Millisecond}, nil, {Ratio: 1, MaxSpans: 10, Wait: time.Hour},
		{Ratio: 1, RarePerMinute: 1, MaxSpans: 1000, Wait: 100 * time.Millisecond}}
	done := make(chan struct{})
	go func() { all.Wait(); close(done) }()
	n := 0
	for running := true; running; n++ {
		changed(t, tail, changes[n%len(changes)])
		select {
		case <-done:
			running = false
		default:
		}
	}
	closed(t, tail)
	if len(k.spans) != spans {
		t.Errorf("%d spans of %d after %d changes", len(k.spans), spans, n)
	}
}
