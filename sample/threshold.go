package sample

import (
	"math"

	"weft/internal/event"
	"weft/internal/w3c"
)

// OpenTelemetry's consistent probability sampling compares 56 bits of a trace's
// randomness R with a threshold T: who keeps a trace if R >= T keeps the share
// 1 - T/2^56 of all, and each stands for 2^56/(2^56 - T). Nothing passes never.
const never = w3c.MaxThreshold

// compose returns the threshold of those that passed head and of which a share
// of ratio is kept. It grows as ratio falls, whatever head is.
func compose(head uint64, ratio float64) uint64 {
	share := float64(never-head) * ratio
	return max(never-uint64(math.Round(share)), head)
}

// marker decides by the share and writes what kept spans stand for.
type marker struct {
	ratio        float64
	headKeepsAll bool

	// The spans of a trace mostly have one tracestate: what was read and written
	// last is kept.
	text      string
	read      w3c.TraceState
	ot        w3c.OT // of read
	threshold uint64 // in written
	written   string // "": nothing yet
}

// parse reads a tracestate; one that breaks the grammar says nothing.
func (m *marker) parse(text string) w3c.OT {
	if text != m.text {
		m.text, m.written = text, ""
		var err error
		if m.read, err = w3c.ParseTraceState(text); err != nil {
			m.read = w3c.TraceState{}
		}
		m.ot = m.read.OT()
	}
	return m.ot
}

// share decides a trace by its own randomness. The head's threshold is the
// lowest that a span of it has: where spans differ, the one that came through
// the widest head is here whenever another is, so that the choice depends on
// nothing that was left to chance.
func (m *marker) share(spans []*event.Span) decision {
	random := w3c.Randomness(spans[0].TraceID)
	head := uint64(never)
	for _, s := range spans {
		ot := m.parse(s.TraceState)
		if ot.HasRandom {
			random = ot.Random
		}
		if ot.HasThreshold {
			head = min(head, ot.Threshold)
		}
	}
	if head > random {
		// No span says, or what they say is not so: they would not be here.
		head = 0
	}
	t := compose(head, m.ratio)
	if random < t {
		return decide(dropped, 0)
	}
	return decide(keptShare, t)
}

// mark returns the span with the threshold that it passed, here or before, in
// its tracestate: s itself if that is what it says, else a copy, because s is
// not ours alone. Of a span that came by an unknown probability nothing is said,
// and a threshold that it cannot have passed is taken away.
func (m *marker) mark(s *event.Span, threshold uint64) *event.Span {
	ot := m.parse(s.TraceState)
	random := w3c.Randomness(s.TraceID)
	if ot.HasRandom {
		random = ot.Random
	}
	var text string
	switch {
	case ot.HasThreshold && ot.Threshold > random:
		text = m.read.WithoutThreshold().String()
	case ot.HasThreshold && ot.Threshold >= threshold, !ot.HasThreshold && !m.headKeepsAll:
		return s
	default:
		if m.written == "" || m.threshold != threshold {
			m.threshold, m.written = threshold, m.read.WithThreshold(threshold).String()
		}
		text = m.written
	}
	marked := *s
	marked.TraceState = text
	return &marked
}
