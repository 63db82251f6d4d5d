// Package export delivers finished spans: over OTLP, as a tree for people, and
// as JSON lines for programs. Nothing here blocks the caller of Span; every
// exporter has a bounded queue and counts what it drops by cause under
// weft_dropped_total. Only this package imports OTLP.
package export

import (
	"context"
	"errors"

	"weft/internal/event"
)

// Exporter takes finished spans. A span is shared by all exporters and must
// not be changed. Span never blocks and is never called twice at once. Close
// delivers what is queued, as far as ctx allows, and counts the rest; it may be
// called once, after the last Span.
type Exporter interface {
	Span(*event.Span)
	Close(ctx context.Context) error
}

// Fanout hands every span to each of its exporters.
type Fanout []Exporter

// Span hands the span to each exporter.
func (f Fanout) Span(s *event.Span) {
	for _, e := range f {
		e.Span(s)
	}
}

// Close closes the exporters side by side, so that one that cannot deliver
// does not use up the time of the others. It returns their errors joined.
func (f Fanout) Close(ctx context.Context) error {
	errs := make(chan error, len(f))
	for _, e := range f {
		go func() { errs <- e.Close(ctx) }()
	}
	var all error
	for range f {
		all = errors.Join(all, <-errs)
	}
	return all
}
