package sample

import (
	"context"
	"encoding/binary"
	"fmt"
	"math"
	"math/rand/v2"
	"strings"
	"sync"
	"testing"
	"time"

	"weft/internal/event"
	"weft/internal/selfstats"
)

var epoch = time.Date(2025, 6, 1, 12, 0, 0, 0, time.UTC)

// sink collects what is kept.
type sink struct {
	mu     sync.Mutex
	spans  []*event.Span
	closed int
	err    error
}

func (k *sink) Span(s *event.Span) {
	k.mu.Lock()
	defer k.mu.Unlock()
	k.spans = append(k.spans, s)
}

func (k *sink) Close(context.Context) error {
	k.closed++
	return k.err
}

// names lists the targets of what was kept, in order.
func (k *sink) names() string {
	k.mu.Lock()
	defer k.mu.Unlock()
	var out []string
	for _, s := range k.spans {
		out = append(out, s.Target)
	}
	return strings.Join(out, " ")
}

// traceID n has the randomness n: 0 is the first to be dropped.
func traceID(n uint64) (id event.TraceID) {
	id[0] = 1
	binary.BigEndian.PutUint64(id[8:], n)
	return id
}

const (
	lucky   = never - 1 // a randomness that any share keeps
	unlucky = 0         // one that no share but all keeps
)

func spanID(n uint64) (id event.SpanID) {
	binary.BigEndian.PutUint64(id[:], n)
	return id
}

// span is a server span that took 1 ms and went well; changes make it another.
func span(trace uint64, target string, changes ...func(*event.Span)) *event.Span {
	s := &event.Span{
		Request: event.Request{
			Start: epoch, TraceID: traceID(trace), SpanID: spanID(1), Role: event.RoleServer,
			Flags: 1, Method: "GET", Target: target, Host: "shop",
		},
		Response: event.Response{End: epoch.Add(time.Millisecond), Status: 200},
		Process:  &event.Process{Service: "shop"},
	}
	for _, change := range changes {
		change(s)
	}
	return s
}

func took(d time.Duration) func(*event.Span) {
	return func(s *event.Span) { s.Response.End = s.Start.Add(d) }
}

func status(code int) func(*event.Span) {
	return func(s *event.Span) { s.Response.Status = code }
}

func state(v string) func(*event.Span) {
	return func(s *event.Span) { s.TraceState = v }
}

// child makes it a call made while span parent was served.
func child(id, parent uint64) func(*event.Span) {
	return func(s *event.Span) {
		s.Role, s.Rule, s.SpanID, s.ParentID = event.RoleClient, event.ParentThread, spanID(id), spanID(parent)
	}
}

func start(t testing.TB, o Options, next Sink) (*Tail, *selfstats.Stats) {
	t.Helper()
	stats := selfstats.New()
	tail, err := New(o, next, stats)
	if err != nil {
		t.Fatal(err)
	}
	return tail, stats
}

func closed(t testing.TB, tail *Tail) {
	t.Helper()
	if err := tail.Close(context.Background()); err != nil {
		t.Fatal(err)
	}
}

// holding returns how many traces, and spans in them, are not decided.
func holding(tail *Tail) (traces, spans int) {
	tail.mu.Lock()
	defer tail.mu.Unlock()
	queued := 0
	for tr := tail.queue.Oldest(); tr != nil; tr = tail.queue.Newer(tr) {
		queued++
	}
	if queued != len(tail.traces) {
		panic("queue and map disagree")
	}
	return len(tail.traces), tail.held
}

// counts lists a family of counters, those at zero left out.
func counts(c *counters) map[string]int {
	out := map[string]int{}
	put := func(name string, counter selfstats.Counter) {
		if v := int(selfstats.Value(counter)); v != 0 {
			out[name] = v
		}
	}
	for r := keptError; r < reasons; r++ {
		name := reasonNames[r]
		if r == dropped {
			name = "out"
		}
		put("traces "+name, c.traces[r])
		put("spans "+name, c.spans[r])
	}
	for cause, name := range earlyNames {
		put("early "+name, c.early[cause])
	}
	put("late kept", c.lateKept)
	put("late out", c.lateDropped)
	put("displaced", c.displaced)
	put("after close", c.afterClose)
	return out
}

func want(t *testing.T, tail *Tail, wants map[string]int) {
	t.Helper()
	if got := counts(tail.count); fmt.Sprint(got) != fmt.Sprint(wants) {
		t.Errorf("counted %v, want %v", got, wants)
	}
}

func source() *rand.Rand { return rand.New(rand.NewPCG(7, 11)) }

// within fails the test if got is further from want than 4 standard errors.
func within(t *testing.T, what string, got, want, stderr float64) {
	t.Helper()
	if math.Abs(got-want) > 4*stderr {
		t.Errorf("%s: %.4g, want %.4g ± %.2g", what, got, want, 4*stderr)
	}
}
