package export

import (
	"fmt"
	"io"
	"os"
	"slices"
	"time"

	"golang.org/x/term"

	"weft/internal/event"
	"weft/internal/selfstats"
)

// Bounds and times of TreeOptions.
const (
	DefaultSettle   = 300 * time.Millisecond
	DefaultHold     = 30 * time.Second
	DefaultWidth    = 100
	maxTraces       = 1024
	maxTraceSpans   = 5000
	maxTreeRows     = 200
	rememberPrinted = 1024
	treeQueue       = 16384
)

// Color says when the tree is coloured.
type Color int

// Color modes.
const (
	ColorAuto   Color = iota // when writing to a terminal and NO_COLOR is not set
	ColorAlways              // also into a pipe
	ColorNever
)

// TreeOptions say how traces are drawn; a zero field takes its default.
type TreeOptions struct {
	Verbose bool // say below each span how its parent was decided
	Color   Color
	Width   int // columns; 0: of the terminal, else DefaultWidth
	// Settle is how long nothing must arrive before a trace counts as finished.
	Settle time.Duration
	// Hold is how long a trace waits beyond that for a parent known to be on
	// this host and still at work.
	Hold time.Duration
}

// Tree prints each finished trace for a person to read. When there are too
// many unfinished traces the oldest is printed early rather than lost; a part
// that arrives after its trace was printed is printed as "continued".
type Tree struct{ *worker }

// NewTree starts an exporter that writes to w, one Write for each trace.
func NewTree(w io.Writer, o TreeOptions, stats *selfstats.Stats) *Tree {
	return &Tree{startWorker("tree", treeQueue, 50*time.Millisecond, newTreePrinter(w, o, stats), stats)}
}

// treePrinter gathers spans into traces and prints those that are finished.
type treePrinter struct {
	out     io.Writer
	opts    TreeOptions
	style   *style
	now     func() time.Time
	traces  map[event.TraceID]*trace
	printed []event.TraceID // a ring of the last ones, to mark latecomers
	next    int             // place in printed
	err     error

	written, failed, full selfstats.Counter
}

// trace is one not printed yet.
type trace struct {
	id    event.TraceID
	spans []*event.Span
	last  time.Time // when the last span arrived
}

func newTreePrinter(w io.Writer, o TreeOptions, stats *selfstats.Stats) *treePrinter {
	if o.Settle <= 0 {
		o.Settle = DefaultSettle
	}
	if o.Hold <= 0 {
		o.Hold = DefaultHold
	}
	fd, terminal := terminalOf(w)
	if o.Width <= 0 {
		o.Width = DefaultWidth
		if terminal {
			if columns, _, err := term.GetSize(fd); err == nil && columns > 0 {
				o.Width = columns
			}
		}
	}
	colored := o.Color == ColorAlways ||
		o.Color == ColorAuto && terminal && os.Getenv("NO_COLOR") == "" && os.Getenv("TERM") != "dumb"
	return &treePrinter{
		out:     w,
		opts:    o,
		style:   newStyle(colored),
		now:     time.Now,
		traces:  make(map[event.TraceID]*trace),
		written: stats.Exported("tree"),
		failed:  stats.Dropped("tree", "write_failed"),
		full:    stats.Dropped("tree", "trace_spans_full"),
	}
}

func terminalOf(w io.Writer) (fd int, ok bool) {
	f, ok := w.(*os.File)
	if !ok {
		return 0, false
	}
	fd = int(f.Fd())
	return fd, term.IsTerminal(fd)
}

func (p *treePrinter) add(s *event.Span) {
	t, ok := p.traces[s.TraceID]
	if !ok {
		if len(p.traces) >= maxTraces {
			p.print(p.oldest())
		}
		t = &trace{id: s.TraceID}
		p.traces[s.TraceID] = t
	}
	t.last = p.now()
	if len(t.spans) >= maxTraceSpans {
		p.full.Inc()
		return
	}
	t.spans = append(t.spans, s)
}

func (p *treePrinter) oldest() *trace {
	var old *trace
	for _, t := range p.traces {
		if old == nil || t.last.Before(old.last) {
			old = t
		}
	}
	return old
}

func (p *treePrinter) tick(time.Time) {
	now := p.now()
	var ready []*trace
	for _, t := range p.traces {
		idle := now.Sub(t.last)
		if idle >= p.opts.Settle && (idle >= p.opts.Hold || t.complete(p.printed)) {
			ready = append(ready, t)
		}
	}
	p.printAll(ready)
}

// complete is false while a span has a parent on this host that has not ended:
// a parent found by thread is a request that this agent is watching. One that may
// have ended before the span began is not waited for again, once its trace was
// printed.
func (t *trace) complete(printed []event.TraceID) bool {
	ids := make(map[event.SpanID]bool, len(t.spans))
	for _, s := range t.spans {
		ids[s.SpanID] = true
	}
	for _, s := range t.spans {
		if !s.Rule.Local() || ids[s.ParentID] {
			continue
		}
		if !s.Rule.Outlives() || !slices.Contains(printed, t.id) {
			return false
		}
	}
	return true
}

func (p *treePrinter) finish() error {
	var all []*trace
	for _, t := range p.traces {
		all = append(all, t)
	}
	p.printAll(all)
	if p.err != nil {
		return fmt.Errorf("write trace tree: %w", p.err)
	}
	return nil
}

// printAll prints in order of start.
func (p *treePrinter) printAll(traces []*trace) {
	slices.SortFunc(traces, func(a, b *trace) int {
		return a.start().Compare(b.start())
	})
	for _, t := range traces {
		p.print(t)
	}
}

func (t *trace) start() time.Time {
	first := t.spans[0].Start
	for _, s := range t.spans {
		if s.Start.Before(first) {
			first = s.Start
		}
	}
	return first
}

func (p *treePrinter) print(t *trace) {
	delete(p.traces, t.id)
	text := p.render(t, slices.Contains(p.printed, t.id))
	if len(p.printed) < rememberPrinted {
		p.printed = append(p.printed, t.id)
	} else {
		p.printed[p.next] = t.id
		p.next = (p.next + 1) % rememberPrinted
	}
	if _, err := p.out.Write(text); err != nil {
		p.failed.Add(float64(len(t.spans)))
		if p.err == nil {
			p.err = err
		}
		return
	}
	p.written.Add(float64(len(t.spans)))
}
