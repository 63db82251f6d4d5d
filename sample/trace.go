package sample

import (
	"time"

	"weft/internal/event"
	"weft/internal/queue"
)

// trace is one that is not decided yet. Times are since Tail.began.
type trace struct {
	id    event.TraceID
	spans []*event.Span
	first time.Duration // arrival of the first span
	last  time.Duration // of the last, or when it was last found incomplete
	why   reason        // undecided, or the policy that will keep it

	queue.Links[trace]
	few [4]*event.Span // most traces need no more room than this
}

// decide ends a trace that is held: it is kept or dropped whole, and what was
// decided is remembered for spans that come later.
func (t *Tail) decide(tr *trace) {
	t.queue.Remove(tr)
	delete(t.traces, tr.id)
	t.held -= len(tr.spans)
	t.count.held.Set(float64(t.held))

	d := decide(tr.why, 0)
	if tr.why == undecided {
		d = t.marker.share(tr.spans)
	}
	t.decided.put(tr.id, d)
	t.count.traces[d.reason()].Inc()
	for _, s := range tr.spans {
		t.pass(s, d)
	}
}

// pass hands a span on if its trace is kept.
func (t *Tail) pass(s *event.Span, d decision) {
	t.count.spans[d.reason()].Inc()
	if d.reason() != dropped {
		t.next.Span(t.marker.mark(s, d.threshold()))
	}
}

// incomplete says that a span has a parent on this host that has not ended, so
// that more of the trace will come.
func (t *Tail) incomplete(tr *trace) bool {
	var missing bool
	if len(tr.spans) <= 16 {
		for _, s := range tr.spans {
			if s.Rule.Local() && !contains(tr.spans, s.ParentID) {
				return true
			}
		}
		return false
	}
	for _, s := range tr.spans {
		t.ids[s.SpanID] = struct{}{}
	}
	for _, s := range tr.spans {
		if _, ok := t.ids[s.ParentID]; s.Rule.Local() && !ok {
			missing = true
			break
		}
	}
	clear(t.ids)
	return missing
}

func contains(spans []*event.Span, id event.SpanID) bool {
	for _, s := range spans {
		if s.SpanID == id {
			return true
		}
	}
	return false
}
