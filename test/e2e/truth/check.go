// Package truth judges exported spans and received headers against what is
// known to have happened: every request carries its own id in its URL, through
// all hops.
package truth

import (
	"fmt"
	"time"
)

// Hop is one program on the way of a request.
type Hop struct {
	Path     string // URL path at which this hop serves; differs from hop to hop
	Selected bool   // weft traces it
	Roots    bool   // its outgoing call may be a root (an event loop, a goroutine)
	Forwards bool   // a proxy: it passes an inbound traceparent on as it came
}

// Request is what the driver sent to the first hop.
type Request struct {
	ID           string
	Traceparents []string // header lines sent, none for most
}

// Arrival is what the last hop received.
type Arrival struct {
	ID           string
	Traceparents []string
}

// Evidence is everything a check looks at.
type Evidence struct {
	Hops []Hop
	// Caller is set where the program that sends the first request is selected
	// too (curl): it has a client span and its header is not known beforehand.
	Caller   bool
	Requests []Request
	Arrivals []Arrival
	Spans    []Span
}

// slack allows for converting kernel time to wall time span by span.
const slack = int64(2 * time.Millisecond)

// Check judges every request, and every span. It never stops at the first
// problem: the counts of all of them say what kind of mistake was made.
func Check(e Evidence) *Report {
	c := &checker{
		e:        e,
		report:   &Report{Requests: len(e.Requests)},
		arrivals: map[string][]Arrival{},
		spans:    map[string]map[key][]*Span{},
		used:     map[*Span]bool{},
	}
	for _, a := range e.Arrivals {
		c.arrivals[a.ID] = append(c.arrivals[a.ID], a)
	}
	for i := range e.Spans {
		s := &e.Spans[i]
		id := s.ID()
		if c.spans[id] == nil {
			c.spans[id] = map[key][]*Span{}
		}
		k := key{s.Kind, s.Path()}
		c.spans[id][k] = append(c.spans[id][k], s)
	}
	for _, r := range e.Requests {
		c.request(r)
	}
	c.all()
	return c.report
}

type key struct{ kind, path string }

type checker struct {
	e        Evidence
	report   *Report
	arrivals map[string][]Arrival
	spans    map[string]map[key][]*Span
	used     map[*Span]bool
}

// wire is the context on its way into a hop, as far as it is known.
type wire struct {
	present bool // a valid header
	invalid bool // header lines, but no valid context
	trace   string
	span    string // "": not exported, so not known
	sampled bool
}

// one returns the only span of that kind and path; want says how many there
// must be, 0 or 1.
func (c *checker) one(id string, k key, want int) *Span {
	found := c.spans[id][k]
	for _, s := range found {
		c.used[s] = true
	}
	switch {
	case len(found) > want && want == 0:
		c.report.add("unsampled-span", "%s: unsampled, yet exported: %s", id, found[0])
	case len(found) > want:
		c.report.add("duplicate", "%s: %d %s spans at %s", id, len(found), k.kind, k.path)
	case len(found) < want:
		c.report.add("lost", "%s: no %s span at %s", id, k.kind, k.path)
	}
	if len(found) == 0 {
		return nil
	}
	return found[0]
}

func (c *checker) request(r Request) {
	in := c.sent(r)
	if c.e.Caller {
		in = c.caller(r, in)
	}
	linked := true
	for i, hop := range c.e.Hops {
		last := i == len(c.e.Hops)-1
		var server *Span
		if hop.Selected {
			server = c.server(r.ID, hop, in)
		}
		if last {
			break
		}
		if !hop.Selected {
			// An untraced program in the middle: nothing is known behind it.
			in = wire{}
			continue
		}
		var ok bool
		in, ok = c.client(r.ID, hop, c.e.Hops[i+1], in, server)
		linked = linked && ok
	}
	c.arrival(r.ID, in)
	switch {
	case linked:
		c.report.Linked++
	default:
		c.report.Roots++
	}
}

func (c *checker) sent(r Request) wire {
	if len(r.Traceparents) == 0 {
		return wire{}
	}
	tp, err := Single(r.Traceparents)
	if err != nil {
		return wire{invalid: true}
	}
	return wire{present: true, trace: tp.TraceID, span: tp.SpanID, sampled: tp.Sampled()}
}

func (c *checker) caller(r Request, in wire) wire {
	s := c.one(r.ID, key{Client, c.e.Hops[0].Path}, 1)
	if s == nil {
		return wire{}
	}
	if in.present {
		if s.TraceID != in.trace || s.ParentID != in.span || s.Rule != "adopted" {
			c.report.add("wrong-edge", "%s: caller's own traceparent not adopted: %s", r.ID, s)
		}
		return in
	}
	if s.ParentID != "" {
		c.report.add("wrong-edge", "%s: caller has a parent: %s", r.ID, s)
	}
	return wire{present: true, trace: s.TraceID, span: s.SpanID, sampled: true}
}

// server judges the server span of a hop against the context that came in.
func (c *checker) server(id string, hop Hop, in wire) *Span {
	want := 1
	if in.present && !in.sampled {
		want = 0
		c.report.Unsampled++
	}
	s := c.one(id, key{Server, hop.Path}, want)
	if s == nil || want == 0 {
		return nil
	}
	switch {
	case in.present:
		if s.TraceID != in.trace {
			c.report.add("wrong-trace", "%s: came in trace %s: %s", id, in.trace, s)
		}
		if in.span != "" && s.ParentID != in.span {
			c.report.add("wrong-edge", "%s: came from span %s: %s", id, in.span, s)
		}
		if s.Rule != "wire" {
			c.report.add("rule", "%s: inbound context, but not rule wire: %s", id, s)
		}
	case in.invalid:
		if s.ParentID != "" || s.Rule != "invalid" {
			c.report.add("invalid-context", "%s: invalid inbound context must make a root by rule invalid: %s", id, s)
		}
	default:
		if s.ParentID != "" || s.Rule != "none" {
			c.report.add("invented-parent", "%s: no inbound context, yet: %s", id, s)
		}
	}
	if s.End < s.Start {
		c.report.add("time", "%s: ends before it starts: %s", id, s)
	}
	return s
}

// client judges the outgoing call of a hop and returns the context that must
// be on the wire to the next, and whether it is linked to what came in.
func (c *checker) client(id string, hop, next Hop, in wire, server *Span) (wire, bool) {
	k := key{Client, next.Path}
	if hop.Forwards && in.present {
		return c.forwarded(id, k, in)
	}
	unsampled := in.present && !in.sampled
	if unsampled && (!hop.Roots || len(c.spans[id][k]) == 0) {
		c.one(id, k, 0)
		return wire{present: true, trace: in.trace}, true
	}
	s := c.one(id, k, 1)
	if s == nil {
		return wire{}, false
	}
	out := wire{present: true, trace: s.TraceID, span: s.SpanID, sampled: true}
	if s.ParentID == "" {
		if !hop.Roots {
			c.report.add("unlinked", "%s: a synchronous server's call is a root: %s", id, s)
		}
		if s.Rule != "none" && s.Rule != "ambiguous" {
			c.report.add("rule", "%s: root, but not by rule none or ambiguous: %s", id, s)
		}
		return out, false
	}
	if server == nil || s.ParentID != server.SpanID || s.TraceID != server.TraceID {
		c.report.add("wrong-edge", "%s: not a child of its own request (%v): %s", id, server, s)
		return out, false
	}
	switch s.Rule {
	case "thread", "sole", "context", "goroutine", "creator":
	default:
		c.report.add("rule", "%s: child by a rule that finds no parent here: %s", id, s)
	}
	if s.Start < server.Start-slack || s.End > server.End+slack {
		c.report.add("time", "%s: call %d..%d outside of its request %d..%d", id, s.Start, s.End, server.Start, server.End)
	}
	return out, true
}

// forwarded judges a proxy's call which carries the inbound header as it came:
// weft adopts it, and the next hop's parent is the proxy's caller.
func (c *checker) forwarded(id string, k key, in wire) (wire, bool) {
	if !in.sampled {
		c.one(id, k, 0)
		return in, true
	}
	s := c.one(id, k, 1)
	if s != nil && (s.TraceID != in.trace || s.ParentID != in.span || s.Rule != "adopted") {
		c.report.add("wrong-edge", "%s: forwarded traceparent not adopted: %s", id, s)
	}
	return in, true
}

func (c *checker) arrival(id string, want wire) {
	got := c.arrivals[id]
	if len(got) != 1 {
		c.report.add("arrival", "%s: %d arrivals at the last hop", id, len(got))
		return
	}
	tp, err := Single(got[0].Traceparents)
	if err != nil {
		c.report.add("header", "%s: %v", id, err)
		return
	}
	if !want.present {
		return
	}
	if tp.TraceID != want.trace {
		c.report.add("wire-trace", "%s: trace %s on the wire, %s exported", id, tp.TraceID, want.trace)
	}
	if want.span != "" && tp.SpanID != want.span {
		c.report.add("wire-span", "%s: span %s on the wire, %s exported", id, tp.SpanID, want.span)
	}
	if tp.Sampled() != want.sampled {
		c.report.add("wire-flags", "%s: flags %02x on the wire, sampled is %v", id, tp.Flags, want.sampled)
	}
}

// all judges what no single request shows: foreign edges and strange spans.
func (c *checker) all() {
	byID := map[string]*Span{}
	for i := range c.e.Spans {
		s := &c.e.Spans[i]
		if prev := byID[s.SpanID]; prev != nil {
			c.report.add("duplicate-span-id", "%s and %s", prev, s)
		}
		byID[s.SpanID] = s
	}
	for i := range c.e.Spans {
		s := &c.e.Spans[i]
		if !c.used[s] {
			c.report.add("strange", "span of no known request: %s", s)
		}
		if s.ParentID == "" {
			continue
		}
		p := byID[s.ParentID]
		switch {
		case p == nil && s.Kind == Client && s.Rule != "adopted":
			c.report.add("wrong-edge", "parent was never exported: %s", s)
		case p == nil:
		case p.ID() != s.ID():
			c.report.add("wrong-edge", "parent belongs to request %s: %s", p.ID(), s)
		case p.TraceID != s.TraceID:
			c.report.add("wrong-trace", "parent is in trace %s: %s", p.TraceID, s)
		case p.Kind == s.Kind && s.Rule != "adopted":
			c.report.add("wrong-edge", "%s span under a %s span: %s", s.Kind, p.Kind, s)
		}
	}
}

// Report is the outcome of a check.
type Report struct {
	Requests  int
	Linked    int // every hop's call is a child of its request
	Roots     int // some hop's call is a root
	Unsampled int // server hops that were told not to sample
	problems  map[string][]string
	counts    map[string]int
}

const examples = 3

func (r *Report) add(kind, format string, args ...any) {
	if r.counts == nil {
		r.counts, r.problems = map[string]int{}, map[string][]string{}
	}
	r.counts[kind]++
	if len(r.problems[kind]) < examples {
		r.problems[kind] = append(r.problems[kind], fmt.Sprintf(format, args...))
	}
}
