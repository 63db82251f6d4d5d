// Package sample is tail sampling: it holds the spans of a trace until the
// trace is quiet, and then keeps or drops this node's part of it whole. Errors,
// the slow and the rare are kept; of the rest a share, chosen by the trace's own
// randomness, so that every node that keeps this share or more keeps the same
// traces. What a span stands for is written into its tracestate (ot=th).
//
// It stands between the correlator and the exporters; docs/adr/0002 says why it
// is here and what is left to the OpenTelemetry Collector.
package sample

import (
	"context"
	"fmt"
	"sync"
	"time"

	"weft/internal/event"
	"weft/internal/queue"
	"weft/internal/selfstats"
)

// Defaults of Options.
const (
	DefaultWait     = 5 * time.Second
	DefaultMaxSpans = 50000
)

const (
	// patience is how many times Wait a trace is held at most: while a span
	// names a parent that is still at work here, or while spans keep coming.
	patience = 12
	// A trace holds at most one part in largest of MaxSpans, and decisions are
	// remembered for one id in two.
	largest    = 4
	remembered = 2
	// turn is the number of spans decided between two chances for Span to run.
	turn = 512
)

// Options say what is kept. Policies are off when zero; a trace that no policy
// keeps is kept with probability Ratio.
type Options struct {
	// Errors keeps every trace with a failed span (event.Span.ErrorType).
	Errors bool
	// SlowerThan keeps every trace with a span that took this long or longer.
	SlowerThan time.Duration
	// SlowerQuantile, in (0, 1), keeps every trace with a span slower than this
	// running quantile of its route, once the route was seen 100 times. Routes
	// are guessed from the path: see routeKey.
	SlowerQuantile float64
	// RarePerMinute keeps every trace with a span whose route was seen at most
	// this often in the last minute, that span included.
	RarePerMinute int
	// Ratio is the share kept of everything else, 0 … 1 of what arrives here.
	Ratio float64
	// Wait is how long a trace must be quiet before it is decided.
	Wait time.Duration
	// MaxSpans is the number of spans held. When it is reached, the traces that
	// are quiet the longest are decided early, on what is there.
	MaxSpans int
	// HeadKeepsAll says that a span without ot=th came through a head sampler
	// that keeps everything, so that its threshold is known to be 0. If false,
	// what such a span stands for is not known and its tracestate stays as it
	// is: a threshold would claim too much.
	HeadKeepsAll bool
}

func (o Options) withDefaults() (Options, error) {
	if o.Wait <= 0 {
		o.Wait = DefaultWait
	}
	if o.MaxSpans <= 0 {
		o.MaxSpans = DefaultMaxSpans
	}
	// Written so that NaN is refused too.
	if !(o.Ratio >= 0 && o.Ratio <= 1) {
		return o, fmt.Errorf("start tail sampling: ratio %v is not within 0 … 1", o.Ratio)
	}
	if !(o.SlowerQuantile >= 0 && o.SlowerQuantile < 1) {
		return o, fmt.Errorf("start tail sampling: quantile %v is not below 1", o.SlowerQuantile)
	}
	return o, nil
}

// Sink takes the spans that are kept, and is closed after the last of them.
// Span must not block and must not call the Tail; it is never called from two
// goroutines at once.
type Sink interface {
	Span(*event.Span)
	Close(ctx context.Context) error
}

// Tail holds spans until their trace is decided. Span and Close are safe for
// concurrent use.
type Tail struct {
	next    Sink
	stats   *selfstats.Stats
	began   time.Time
	changed chan struct{} // tells the deciding goroutine of another Wait
	stop    chan struct{} // closed by Close
	done    chan struct{} // the deciding goroutine has ended

	mu       sync.Mutex
	closed   bool
	idle     bool // nothing is held or decided; of what follows only count may be set
	opts     Options
	count    *counters // nil: it was always idle
	policies policies
	traces   map[event.TraceID]*trace
	// queue holds the same by when they were last touched. Wait is the same for
	// all, so this is the order of their deadlines too.
	queue   queue.Queue[trace, *trace]
	held    int // spans in traces
	decided decisions
	marker  marker
	ids     map[event.SpanID]struct{} // scratch of incomplete
}

// New starts tail sampling in front of next.
func New(o Options, next Sink, stats *selfstats.Stats) (*Tail, error) {
	o, err := o.withDefaults()
	if err != nil {
		return nil, err
	}
	count, err := newCounters(stats)
	if err != nil {
		return nil, fmt.Errorf("start tail sampling: %w", err)
	}
	t := Idle(next, stats)
	t.count = count
	if err := t.Change(&o); err != nil {
		return nil, err
	}
	return t, nil
}

// Span takes a span; the sink may see it at once, later, or never. It does not
// block and does not change s.
func (t *Tail) Span(s *event.Span) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.idle {
		t.next.Span(s)
		return
	}
	if t.closed {
		t.count.afterClose.Inc()
		return
	}
	now := time.Since(t.began)
	why := t.policies.judge(s, now)
	if t.held >= t.opts.MaxSpans {
		t.decide(t.queue.Oldest())
		t.count.early[earlyFull].Inc()
	}
	tr := t.traces[s.TraceID]
	if tr == nil {
		if d, ok := t.decided.get(s.TraceID); ok {
			t.late(s, d, why)
			return
		}
		tr = &trace{id: s.TraceID, first: now}
		tr.spans = tr.few[:0]
		t.traces[s.TraceID] = tr
	} else {
		t.queue.Remove(tr)
	}
	tr.last = now
	t.queue.Push(tr)
	tr.spans = append(tr.spans, s)
	tr.why = stronger(tr.why, why)
	t.held++
	t.count.held.Set(float64(t.held))

	switch {
	case len(tr.spans) >= max(t.opts.MaxSpans/largest, 1):
		t.decide(tr)
		t.count.early[earlyLarge].Inc()
	case now-tr.first > patience*t.opts.Wait:
		t.decide(tr)
		t.count.early[earlyLong].Inc()
	}
}

// late follows the decision on the span's trace, with one exception: a span
// that a policy keeps is kept, and the rest of its trace from here on. Errors
// and slow spans come last by nature, and they are what tail sampling is for.
// It then counts as kept by policy even if the trace was kept by its share:
// that it was kept did not depend on the share.
func (t *Tail) late(s *event.Span, d decision, why reason) {
	if why != undecided && !d.reason().policy() {
		d = decide(why, 0)
		t.decided.put(s.TraceID, d)
	}
	if d.reason() == dropped {
		t.count.lateDropped.Inc()
	} else {
		t.count.lateKept.Inc()
	}
	t.pass(s, d)
}

// Close decides everything that is held and closes the sink. A second call
// does nothing.
func (t *Tail) Close(ctx context.Context) error {
	t.mu.Lock()
	if t.closed {
		t.mu.Unlock()
		return nil
	}
	t.closed = true
	t.mu.Unlock()
	close(t.stop)
	<-t.done

	t.mu.Lock()
	for t.queue.Oldest() != nil { // none while idle
		t.decide(t.queue.Oldest())
	}
	t.mu.Unlock()
	return t.next.Close(ctx)
}

// run decides the traces whose time has come.
func (t *Tail) run() {
	defer close(t.done)
	ticker := time.NewTicker(time.Hour)
	defer ticker.Stop()
	for {
		select {
		case <-t.stop:
			return
		case <-t.changed:
			ticker.Stop()
			if every := t.interval(); every > 0 {
				ticker.Reset(every)
			}
		case <-ticker.C:
			for t.sweep() {
			}
		}
	}
}

// sweep decides what is due, but not so much at once that Span, which runs
// where the ring is drained, waits long. It returns true if more may be due.
func (t *Tail) sweep() bool {
	t.mu.Lock()
	defer t.mu.Unlock()
	now := time.Since(t.began)
	for spans := 0; spans < turn && !t.idle; {
		tr := t.queue.Oldest()
		if tr == nil || now-tr.last < t.opts.Wait {
			return false
		}
		spans += len(tr.spans)
		if now-tr.first < patience*t.opts.Wait && t.incomplete(tr) {
			t.queue.Remove(tr)
			tr.last = now
			t.queue.Push(tr)
			continue
		}
		t.decide(tr)
	}
	return !t.closed && !t.idle
}
