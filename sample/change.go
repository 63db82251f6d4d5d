package sample

import (
	"fmt"
	"time"

	"weft/internal/event"
	"weft/internal/selfstats"
)

// Idle is tail sampling that passes every span on as it comes, until Change gives it
// something to decide by.
func Idle(next Sink, stats *selfstats.Stats) *Tail {
	t := &Tail{
		next:    next,
		stats:   stats,
		began:   time.Now(),
		idle:    true,
		changed: make(chan struct{}, 1),
		stop:    make(chan struct{}),
		done:    make(chan struct{}),
	}
	go t.run()
	return t
}

// Change decides by other options from now on: traces that are held by the new ones,
// as far as their spans are still to come. What was decided stays so, and what is known
// of routes is kept where the same is asked of them. With nil, what is held is decided
// by the options before, and every span is passed on from then on. An error means that
// nothing has changed. It is safe for concurrent use, and after Close it does nothing.
func (t *Tail) Change(o *Options) error {
	var to Options
	if o != nil {
		var err error
		if to, err = o.withDefaults(); err != nil {
			return err
		}
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	switch {
	case t.closed:
		return nil
	case o == nil:
		t.rest()
	case t.idle:
		if err := t.begin(to); err != nil {
			return err
		}
	default:
		t.alter(to)
	}
	select {
	case t.changed <- struct{}{}:
	default:
	}
	return nil
}

// begin decides by o where nothing was decided.
func (t *Tail) begin(o Options) error {
	if t.count == nil {
		count, err := newCounters(t.stats)
		if err != nil {
			return fmt.Errorf("start tail sampling: %w", err)
		}
		t.count = count
	}
	t.idle = false
	t.opts = o
	t.count.capacity.Set(float64(o.MaxSpans))
	t.policies = newPolicies(o, t.count.displaced)
	t.traces = make(map[event.TraceID]*trace)
	t.decided = newDecisions(o.MaxSpans / remembered)
	t.marker = marker{ratio: o.Ratio, headKeepsAll: o.HeadKeepsAll}
	t.ids = make(map[event.SpanID]struct{})
	return nil
}

// alter decides by o from now on.
func (t *Tail) alter(o Options) {
	if o.SlowerQuantile != t.opts.SlowerQuantile || o.RarePerMinute != t.opts.RarePerMinute {
		t.policies = newPolicies(o, t.count.displaced)
	} else {
		t.policies.errors, t.policies.slower = o.Errors, o.SlowerThan
	}
	if o.MaxSpans != t.opts.MaxSpans {
		decided := newDecisions(o.MaxSpans / remembered)
		t.decided.copyTo(&decided)
		t.decided = decided
	}
	t.opts = o
	t.marker.ratio, t.marker.headKeepsAll = o.Ratio, o.HeadKeepsAll
	t.count.capacity.Set(float64(o.MaxSpans))
	for t.held > o.MaxSpans {
		t.decide(t.queue.Oldest())
		t.count.early[earlyFull].Inc()
	}
}

// rest decides what is held, and nothing more.
func (t *Tail) rest() {
	if t.idle {
		return
	}
	for t.queue.Oldest() != nil {
		t.decide(t.queue.Oldest())
	}
	t.count.capacity.Set(0)
	t.idle = true
	t.policies, t.traces, t.decided, t.ids = policies{}, nil, decisions{}, nil
}

// interval is how often run looks for traces whose time has come; 0: none will.
func (t *Tail) interval() time.Duration {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.idle {
		return 0
	}
	return min(max(t.opts.Wait/16, 10*time.Millisecond), 250*time.Millisecond)
}
