package truth

import (
	"fmt"
	"slices"
)

// Expect says what evidence there is for the parent of a call.
type Expect int

// What must become of a call.
const (
	Child  Expect = iota // evidence: a child of its own request
	Root                 // none: a root, even where a guess would be right
	Either               // it may be gone: a child of its own request, or a root
	Own                  // the program's own traceparent, adopted
)

// Call is one call that a request makes.
type Call struct {
	Name     string
	Expect   Expect
	Rules    []string // of a child: those allowed, empty for any
	Optional bool     // may be given up before it is sent, or not be made
}

// Relayed is a request to a program that makes calls on its behalf.
type Relayed struct {
	ID           string
	Traceparents []string // sent with it
	Own          string   // traceparent that the program sets on its calls
	Calls        []Call
	Unserved     bool // no request: the program calls by itself
}

// CallArrival is a call as it reached the back end.
type CallArrival struct {
	ID           string   `json:"id"`
	Call         string   `json:"call"`
	Traceparents []string `json:"traceparents"`
	Bad          string   `json:"bad"` // what the back end found wrong
}

// Calls is the evidence of CheckCalls.
type Calls struct {
	Requests []Relayed
	Arrivals []CallArrival
	Spans    []Span
	// Key tells the request and call of a span, "" if its attributes do not name
	// them; the wire does then. Nil: SpanKey.
	Key func(*Span) (id, call string)
	// Unwritten is set where memory cannot be written: no call may carry a
	// header, and all else must hold.
	Unwritten bool
	// Inexact leaves out what only a Go program's own tier decides: a missing
	// child is counted, and is no problem; nor is the rule, or a guess.
	Inexact bool
}

// SpanKey reads ?id= and ?call= of the URL.
func SpanKey(s *Span) (id, call string) {
	_, q := s.target()
	return q.Get("id"), q.Get("call")
}

// Tally is the outcome of CheckCalls.
type Tally struct {
	Report
	Calls   int            // that arrived
	Right   int            // children of their own request, or adopted
	Missing int            // roots although there is evidence
	Rooted  int            // roots because there is none
	Rules   map[string]int // of client spans
}

type callChecker struct {
	e        Calls
	t        *Tally
	byID     map[string]*Span
	children map[string][]*Span // by parent span id
	keyed    map[[3]string][]*Span
	used     map[*Span]bool
	requests map[string]*Relayed
	wires    map[string]wire
	servers  map[string]*Span
	traces   map[string]string // trace that was sent → request
}

// CheckCalls judges every call of every request, and every span.
func CheckCalls(e Calls) *Tally {
	if e.Key == nil {
		e.Key = SpanKey
	}
	c := &callChecker{
		e: e, t: &Tally{Rules: map[string]int{}},
		byID: map[string]*Span{}, children: map[string][]*Span{}, keyed: map[[3]string][]*Span{},
		used: map[*Span]bool{}, requests: map[string]*Relayed{}, wires: map[string]wire{}, servers: map[string]*Span{},
		traces: map[string]string{},
	}
	c.t.Requests = len(e.Requests)
	for i := range e.Spans {
		s := &e.Spans[i]
		if prev := c.byID[s.SpanID]; prev != nil {
			c.t.add("duplicate-span-id", "%s and %s", prev, s)
		}
		c.byID[s.SpanID] = s
		if s.ParentID != "" {
			c.children[s.ParentID] = append(c.children[s.ParentID], s)
		}
		if id, call := e.Key(s); id != "" {
			k := [3]string{s.Kind, id, call}
			c.keyed[k] = append(c.keyed[k], s)
		}
	}
	for i := range e.Requests {
		r := &e.Requests[i]
		c.requests[r.ID] = r
		in := c.sent(r)
		c.wires[r.ID] = in
		if in.present {
			c.traces[in.trace] = r.ID
		}
		if !r.Unserved {
			c.servers[r.ID] = c.server(r, in)
		}
	}
	arrived := map[[2]string]int{}
	for _, a := range e.Arrivals {
		arrived[[2]string{a.ID, a.Call}]++
		c.arrival(a)
	}
	for _, r := range e.Requests {
		for _, call := range r.Calls {
			if n := arrived[[2]string{r.ID, call.Name}]; n > 1 || n == 0 && !call.Optional {
				c.t.add("arrival", "%s: %d arrivals of call %s", r.ID, n, call.Name)
			}
		}
	}
	c.rest()
	return c.t
}

func (c *callChecker) sent(r *Relayed) wire {
	if len(r.Traceparents) == 0 {
		return wire{}
	}
	tp, err := Single(r.Traceparents)
	if err != nil {
		c.t.add("harness", "%s: sent with %v", r.ID, err)
		return wire{}
	}
	return wire{present: true, trace: tp.TraceID, span: tp.SpanID, sampled: tp.Sampled()}
}

// server finds the relay's own span of a request.
func (c *callChecker) server(r *Relayed, in wire) *Span {
	found := c.keyed[[3]string{Server, r.ID, ""}]
	if len(found) == 0 && in.present {
		found = slices.DeleteFunc(slices.Clone(c.children[in.span]), func(s *Span) bool { return s.Kind != Server })
	}
	for _, s := range found {
		c.used[s] = true
	}
	if in.present && !in.sampled {
		c.t.Unsampled++
		if len(found) > 0 {
			c.t.add("unsampled-span", "%s: unsampled, yet exported: %s", r.ID, found[0])
		}
		return nil
	}
	if len(found) != 1 {
		kind := "lost"
		if len(found) > 1 {
			kind = "duplicate"
		}
		c.t.add(kind, "%s: %d server spans of the request", r.ID, len(found))
		return nil
	}
	s := found[0]
	switch {
	case in.present && (s.TraceID != in.trace || s.ParentID != in.span || s.Rule != "wire"):
		c.t.add("wrong-edge", "%s: came from span %s of trace %s: %s", r.ID, in.span, in.trace, s)
	case !in.present && s.ParentID != "":
		c.t.add("wrong-edge", "%s: no inbound context, yet: %s", r.ID, s)
	}
	if s.End < s.Start {
		c.t.add("time", "%s: ends before it starts: %s", r.ID, s)
	}
	return s
}

// arrival judges a call from both of its ends.
func (c *callChecker) arrival(a CallArrival) {
	c.t.Calls++
	name := a.ID + "/" + a.Call
	if a.Bad != "" {
		c.t.add("content", "%s: %s", name, a.Bad)
	}
	r := c.requests[a.ID]
	var call *Call
	if r != nil {
		if i := slices.IndexFunc(r.Calls, func(k Call) bool { return k.Name == a.Call }); i >= 0 {
			call = &r.Calls[i]
		}
	}
	if call == nil {
		c.t.add("harness", "%s: a call that nobody was asked to make", name)
		return
	}
	if c.e.Unwritten {
		c.unwritten(name, a, call)
		return
	}
	tp, err := Single(a.Traceparents)
	if err != nil {
		c.t.add("header", "%s: %v", name, err)
		return
	}
	in := c.wires[a.ID]
	switch {
	case call.Expect == Own:
		c.own(name, r, in, tp)
	case in.present && !in.sampled && tp.TraceID == in.trace:
		// Its spans are left out, and the rest must know.
		if tp.Sampled() {
			c.t.add("wire-flags", "%s: sampled flag under an unsampled request", name)
		}
		if call.Expect == Root && !c.e.Inexact {
			c.t.add("guess", "%s: no evidence, yet in the trace of its request", name)
		}
		c.t.Right++
	default:
		c.sampled(name, call, in, tp)
	}
}

// sampled judges a call whose spans are exported.
func (c *callChecker) sampled(name string, call *Call, in wire, tp Traceparent) {
	s := c.byID[tp.SpanID]
	id, _, _ := cut(name)
	if owner := c.traces[tp.TraceID]; s == nil && owner != "" && owner != id {
		c.t.add("wrong-trace", "%s: carries the trace of request %s", name, owner)
		return
	}
	if s == nil {
		c.t.add("lost", "%s: span %s on the wire was not exported", name, tp.SpanID)
		return
	}
	c.used[s] = true
	if s.Kind != Client || s.TraceID != tp.TraceID {
		c.t.add("wire-span", "%s: %s-%s on the wire is %s", name, tp.TraceID, tp.SpanID, s)
		return
	}
	if id, key := c.e.Key(s); id != "" && id+"/"+key != name {
		c.t.add("wire-span", "%s: carries the span of %s/%s: %s", name, id, key, s)
		return
	}
	if !tp.Sampled() {
		c.t.add("wire-flags", "%s: flags %02x on the wire, yet exported", name, tp.Flags)
	}
	c.next(name, wire{present: true, trace: tp.TraceID, span: tp.SpanID, sampled: true})
	c.edge(name, call, in, s)
}

// next judges the back end's span.
func (c *callChecker) next(name string, in wire) {
	n := 0
	for _, s := range c.children[in.span] {
		if s.Kind != Server {
			continue
		}
		if id, call := c.e.Key(s); id != "" && id+"/"+call != name {
			continue // reported as left over, unless it belongs to another call
		}
		n++
		c.used[s] = true
		if s.TraceID != in.trace || s.Rule != "wire" {
			c.t.add("wrong-trace", "%s: came in trace %s: %s", name, in.trace, s)
		}
	}
	if n != 1 {
		kind := "lost"
		if n > 1 {
			kind = "duplicate"
		}
		c.t.add(kind, "%s: %d server spans at the back end", name, n)
	}
}

// edge judges whose child a client span is.
func (c *callChecker) edge(name string, call *Call, in wire, s *Span) {
	c.t.Rules[s.Rule]++
	id, _, _ := cut(name)
	server := c.servers[id]
	if s.ParentID == "" {
		if call.Expect == Child {
			c.t.Missing++
			if !c.e.Inexact {
				c.t.add("missing", "%s: evidence, yet a root: %s", name, s)
			}
		} else {
			c.t.Rooted++
		}
		if s.Rule != "none" && s.Rule != "ambiguous" {
			c.t.add("rule", "%s: root, but not by rule none or ambiguous: %s", name, s)
		}
		return
	}
	if server == nil || s.ParentID != server.SpanID || s.TraceID != server.TraceID {
		c.t.add("wrong-edge", "%s: not a child of its own request (%v): %s", name, server, s)
		return
	}
	c.t.Right++
	if call.Expect == Root && !c.e.Inexact {
		c.t.add("guess", "%s: no evidence, yet a child: %s", name, s)
	}
	if len(call.Rules) > 0 && !slices.Contains(call.Rules, s.Rule) && !c.e.Inexact {
		c.t.add("rule", "%s: child by rule %s, want %q: %s", name, s.Rule, call.Rules, s)
	}
	if s.Start < server.Start-slack || call.Expect == Child && s.Start > server.End+slack {
		c.t.add("time", "%s: call starts at %d, outside of its request %d..%d", name, s.Start, server.Start, server.End)
	}
}

// own judges a call that carries the program's own traceparent, or, by a proxy,
// the inbound one.
func (c *callChecker) own(name string, r *Relayed, in wire, tp Traceparent) {
	want := in
	if r.Own != "" {
		o, err := ParseTraceparent(r.Own)
		if err != nil {
			c.t.add("harness", "%s: own %v", name, err)
			return
		}
		want = wire{present: true, trace: o.TraceID, span: o.SpanID, sampled: o.Sampled()}
	}
	if tp.TraceID != want.trace || tp.SpanID != want.span || tp.Sampled() != want.sampled {
		c.t.add("wire-span", "%s: %s-%s-%02x on the wire, the program wrote %s-%s", name, tp.TraceID, tp.SpanID, tp.Flags, want.trace, want.span)
		return
	}
	if !want.sampled {
		c.t.Right++
		return
	}
	n := 0
	for _, s := range c.children[want.span] {
		if s.Kind != Client {
			continue
		}
		n++
		c.used[s] = true
		c.t.Rules[s.Rule]++
		if s.TraceID != want.trace || s.Rule != "adopted" {
			c.t.add("wrong-edge", "%s: own traceparent not adopted: %s", name, s)
		}
	}
	if n != 1 {
		c.t.add("lost", "%s: %d client spans of its own context, want 1", name, n)
		return
	}
	c.t.Right++
	c.next(name, want)
}

// unwritten judges a call where nothing may be written: the edges inside the
// program hold all the same, and the back end begins a trace of its own.
func (c *callChecker) unwritten(name string, a CallArrival, call *Call) {
	in := c.wires[a.ID]
	if call.Expect != Own && len(a.Traceparents) != 0 {
		c.t.add("header", "%s: %q, although memory cannot be written here", name, a.Traceparents)
	}
	if call.Expect == Own || in.present && !in.sampled {
		// What is carried on by the program, or sampled by nobody, is told by the
		// wire, which is not written.
		for _, k := range []string{Client, Server} {
			for _, s := range c.keyed[[3]string{k, a.ID, a.Call}] {
				c.used[s] = true
			}
		}
		return
	}
	for _, s := range c.keyed[[3]string{Server, a.ID, a.Call}] {
		c.used[s] = true
		if s.ParentID != "" {
			c.t.add("wrong-edge", "%s: nothing on the wire, yet: %s", name, s)
		}
	}
	found := c.keyed[[3]string{Client, a.ID, a.Call}]
	if len(found) != 1 {
		kind := "lost"
		if len(found) > 1 {
			kind = "duplicate"
		}
		c.t.add(kind, "%s: %d client spans", name, len(found))
	}
	for _, s := range found {
		c.used[s] = true
		c.edge(name, call, in, s)
	}
}

// rest judges what no arrival shows: calls given up, and strange spans.
func (c *callChecker) rest() {
	owners := map[string]*Relayed{}
	for id, s := range c.servers {
		if s != nil {
			owners[s.SpanID] = c.requests[id]
		}
	}
	for i := range c.e.Spans {
		s := &c.e.Spans[i]
		if c.used[s] {
			continue
		}
		// A call may be given up before the back end's program sees it, and yet
		// have reached the back end's protocol.
		client := s
		if s.Kind == Server {
			client = c.byID[s.ParentID]
		}
		if client == nil || client.Kind != Client {
			c.t.add("strange", "span of no known call: %s", s)
			continue
		}
		id, name := c.e.Key(client)
		r := c.requests[id]
		if id == "" {
			r = owners[client.ParentID]
		}
		if r == nil {
			c.t.add("strange", "span of no known call: %s", s)
			continue
		}
		k := slices.IndexFunc(r.Calls, func(k Call) bool { return k.Optional && (id == "" || k.Name == name) })
		if k < 0 {
			c.t.add("strange", "span of a call that did not arrive: %s", s)
			continue
		}
		if s == client {
			c.edge(r.ID+"/"+name, &r.Calls[k], c.wires[r.ID], s)
		}
	}
}

func cut(name string) (id, call string, ok bool) {
	for i := len(name) - 1; i >= 0; i-- {
		if name[i] == '/' {
			return name[:i], name[i+1:], true
		}
	}
	return name, "", false
}

// String is one line for a log.
func (t *Tally) String() string {
	return fmt.Sprintf("%d requests, %d calls: %d right, %d missing, %d roots, %d wrong; rules %v",
		t.Requests, t.Calls, t.Right, t.Missing, t.Rooted, t.Wrong(), t.Rules)
}
