// Package correlate turns the two halves of an exchange into a span: it pairs
// requests with responses and attaches the process they belong to. Ids, flags
// and parents were decided in the kernel and are on the wire already; nothing
// here revises them.
//
// Everything is bounded by count and by age, and what leaves by a bound is
// counted with its cause under weft_dropped_total{stage="correlate"}.
package correlate

import (
	"time"

	"weft/internal/event"
	"weft/internal/queue"
	"weft/internal/selfstats"
	"weft/internal/w3c"
)

// Defaults of Options.
const (
	DefaultMaxOpen      = 65536
	DefaultMaxAge       = 15 * time.Minute
	DefaultMaxEarly     = 4096
	DefaultMaxEarlyAge  = 2 * time.Second
	DefaultMaxProcesses = 16384
	DefaultExitGrace    = 30 * time.Second
)

// Options bound the correlator; a zero field takes its default.
type Options struct {
	// MaxOpen is the number of requests waiting for their response. When it is
	// reached the oldest is dropped: a stuck exchange must not keep new ones out.
	MaxOpen int
	// MaxAge is how long a request waits for its response.
	MaxAge time.Duration
	// MaxEarly is the number of responses held for a request that has not come yet,
	// and MaxEarlyAge how long one is held.
	MaxEarly    int
	MaxEarlyAge time.Duration
	// MaxProcesses is the number of known processes, exited ones in their
	// grace period included.
	MaxProcesses int
	// ExitGrace is how long an exited process is remembered, for events that
	// were in the ring when it exited.
	ExitGrace time.Duration
}

func (o Options) withDefaults() Options {
	if o.MaxOpen <= 0 {
		o.MaxOpen = DefaultMaxOpen
	}
	if o.MaxAge <= 0 {
		o.MaxAge = DefaultMaxAge
	}
	if o.MaxEarly <= 0 {
		o.MaxEarly = DefaultMaxEarly
	}
	if o.MaxEarlyAge <= 0 {
		o.MaxEarlyAge = DefaultMaxEarlyAge
	}
	if o.MaxProcesses <= 0 {
		o.MaxProcesses = DefaultMaxProcesses
	}
	if o.ExitGrace <= 0 {
		o.ExitGrace = DefaultExitGrace
	}
	return o
}

// Sink takes finished spans. A span is not changed after it was handed over,
// so a sink may keep it. Span must not block: it is called from the goroutine
// that drains the ring.
type Sink interface {
	Span(*event.Span)
}

// Correlator pairs requests and responses. It is not safe for concurrent use:
// one goroutine calls all its methods, so the hot path takes no lock.
type Correlator struct {
	opts  Options
	sink  Sink
	count counters

	open  map[exchangeKey]*exchange
	queue queue.Queue[exchange, *exchange] // the same, in order of arrival

	early      map[exchangeKey]*early
	earlyQueue queue.Queue[early, *early] // the same, in order of arrival
	answered   []exchangeKey              // open, and their response is here; the next Tick ends them

	processes map[processKey]*process
	exited    []exit // in order of exit
	now       time.Time
}

// exchangeKey has the role because the two ends of one hop may both be traced
// by this agent, and a program may pass an inbound id on unchanged.
type exchangeKey struct {
	span event.SpanID
	role event.Role
}

// exchange is one allocation per request: the span that will be handed to the
// sink and its place in the queue. Its links are cleared when it leaves: the sink
// must not keep its former neighbours alive.
type exchange struct {
	queue.Links[exchange]
	span event.Span
	at   time.Time // of the last Tick when it was opened; zero: there was none

	early *event.Response // came before the request; nil: none did
}

type processKey struct {
	pid   uint32
	start uint64 // ns since boot
}

type process struct {
	info   *event.Process
	exited bool
}

type exit struct {
	key   processKey
	at    time.Time
	ended bool // by endExited
}

type counters struct {
	spans          [event.Roles]selfstats.Counter
	parents        [event.ParentRules]selfstats.Counter
	unknownRule    selfstats.Counter
	processUnknown selfstats.Counter
	open           selfstats.Gauge

	openFull, maxAge, noRequest, duplicate, atShutdown, processesFull selfstats.Counter
	carriedUnknown, baggageInvalid, baggageFull                       selfstats.Counter
	routeUnknown, routeCut                                            selfstats.Counter
}

func newCounters(s *selfstats.Stats) counters {
	const stage = "correlate"
	c := counters{
		unknownRule:    s.Parents("unknown"),
		processUnknown: s.ProcessUnknown(),
		open:           s.OpenExchanges(),
		openFull:       s.Dropped(stage, "open_full"),
		maxAge:         s.Dropped(stage, "max_age"),
		noRequest:      s.Dropped(stage, "response_without_request"),
		duplicate:      s.Dropped(stage, "duplicate_request"),
		atShutdown:     s.Dropped(stage, "open_at_shutdown"),
		processesFull:  s.Dropped(stage, "process_table_full"),
		carriedUnknown: s.Dropped(stage, "carried_without_request"),
		baggageInvalid: s.Dropped(stage, "baggage_member_invalid"),
		baggageFull:    s.Dropped(stage, "baggage_full"),
		routeUnknown:   s.Dropped(stage, "route_without_request"),
		routeCut:       s.Dropped(stage, "route_cut"),
	}
	for role := range c.spans {
		c.spans[role] = s.Spans(event.Role(role).String())
	}
	for rule := range c.parents {
		c.parents[rule] = s.Parents(event.ParentRule(rule).String())
	}
	return c
}

// New returns a Correlator that hands finished spans to sink.
func New(opts Options, sink Sink, stats *selfstats.Stats) *Correlator {
	return &Correlator{
		opts:      opts.withDefaults(),
		sink:      sink,
		count:     newCounters(stats),
		open:      make(map[exchangeKey]*exchange),
		early:     make(map[exchangeKey]*early),
		processes: make(map[processKey]*process),
	}
}

// Request opens an exchange. A request whose key is open already replaces it:
// the later one is what the next response belongs to.
func (c *Correlator) Request(r event.Request) {
	key := exchangeKey{r.SpanID, r.Role}
	if old, ok := c.open[key]; ok {
		c.queue.Remove(old)
		c.count.duplicate.Inc()
	} else if len(c.open) >= c.opts.MaxOpen {
		c.drop(c.queue.Oldest())
		c.count.openFull.Inc()
	}
	x := &exchange{span: event.Span{Request: r}, at: c.now}
	if p, ok := c.processes[processKey{r.PID, r.PIDStart}]; ok {
		x.span.Process = p.info
	}
	if x.early = c.takeEarly(key); x.early != nil {
		if len(c.answered) >= c.opts.MaxEarly {
			c.settle()
		}
		c.answered = append(c.answered, key) // what the request carries is still to come
	}
	c.open[key] = x
	c.queue.Push(x)
	c.count.open.Set(float64(len(c.open)))
}

// Carried adds what travels beside the traceparent of a request that is open:
// tracestate, and baggage members that become attributes, decoded. Members that
// are no baggage are left out and counted. Values are never logged.
func (c *Correlator) Carried(e event.Carried) {
	x, ok := c.open[exchangeKey{e.SpanID, e.Role}]
	if !ok {
		c.count.carriedUnknown.Inc()
		return
	}
	x.span.TraceState = e.TraceState
	x.span.Baggage = nil
	if e.Baggage == "" {
		return
	}
	read := w3c.ParseBaggage(nil, e.Baggage)
	c.count.baggageInvalid.Add(float64(read.Malformed))
	c.count.baggageFull.Add(float64(read.Dropped))
	for _, m := range read.Members {
		x.span.Baggage = append(x.span.Baggage, event.Member{Key: m.Key, Value: m.Value})
	}
}

// Route adds the route a server's request took. One that was cut names another
// route, and is left out.
func (c *Correlator) Route(e event.Route) {
	switch x, ok := c.open[exchangeKey{e.SpanID, event.RoleServer}]; {
	case !ok:
		c.count.routeUnknown.Inc()
	case e.Cut:
		c.count.routeCut.Inc()
	default:
		x.span.Route = e.Text
	}
}

// Response ends an exchange and hands its span to the sink. A response that comes
// before its request waits for it; one whose request was lost, aged out or never
// sampled is counted.
func (c *Correlator) Response(r event.Response) {
	key := exchangeKey{r.SpanID, r.Role}
	x, ok := c.open[key]
	if !ok || x.early != nil {
		c.hold(key, r)
		return
	}
	c.end(key, x, r)
}

func (c *Correlator) end(key exchangeKey, x *exchange, r event.Response) {
	delete(c.open, key)
	c.queue.Remove(x)
	c.count.open.Set(float64(len(c.open)))

	span := &x.span
	// The wall clock may have been stepped in between: both ends are told by the
	// request's, so that the time between them is the true one.
	if shift := span.Clock - r.Clock; shift != 0 {
		r.Clock, r.End = span.Clock, r.End.Add(shift)
		if !r.FirstByte.IsZero() {
			r.FirstByte = r.FirstByte.Add(shift)
		}
	}
	span.Response = r
	// An end that was not seen, or that two CPUs stamped in the other order,
	// must not become a span that ends before it starts.
	if r.End.Before(span.Start) {
		span.Response.End = span.Start
		if r.FirstByte.After(span.Start) {
			span.Response.End = r.FirstByte
		}
	}
	if span.Process == nil {
		if p, ok := c.processes[processKey{span.PID, span.PIDStart}]; ok {
			span.Process = p.info
		} else {
			c.count.processUnknown.Inc()
		}
	}
	if int(span.Role) < len(c.count.spans) {
		c.count.spans[span.Role].Inc()
	} else {
		c.count.spans[event.RoleUnknown].Inc()
	}
	if int(span.Rule) < len(c.count.parents) {
		c.count.parents[span.Rule].Inc()
	} else {
		c.count.unknownRule.Inc()
	}
	c.sink.Span(span)
}

// Tick ages out what waited too long. Call it about once a second with
// time.Now(): ages are by its monotonic reading, which no step of the wall clock
// moves, and exact to the interval of the calls.
func (c *Correlator) Tick(now time.Time) {
	if c.now.IsZero() {
		for x := c.queue.Oldest(); x != nil; x = c.queue.Newer(x) {
			x.at = now
		}
		for e := c.earlyQueue.Oldest(); e != nil; e = c.earlyQueue.Newer(e) {
			e.at = now
		}
	}
	c.now = now
	c.settle()
	c.endExited(now)
	for x := c.queue.Oldest(); x != nil && now.Sub(x.at) > c.opts.MaxAge; x = c.queue.Oldest() {
		c.drop(x)
		c.count.maxAge.Inc()
	}
	n := 0
	for ; n < len(c.exited) && now.Sub(c.exited[n].at) > c.opts.ExitGrace; n++ {
		c.forget(c.exited[n].key)
	}
	if n > 0 {
		c.exited = append(c.exited[:0], c.exited[n:]...)
	}
	c.count.open.Set(float64(len(c.open)))
}

// Flush ends the correlator's work: requests still open are not spans and are
// counted as open_at_shutdown.
func (c *Correlator) Flush() {
	c.settle()
	for e := c.earlyQueue.Oldest(); e != nil; e = c.earlyQueue.Oldest() {
		c.dropEarly(e)
	}
	for x := c.queue.Oldest(); x != nil; x = c.queue.Oldest() {
		c.drop(x)
		c.count.atShutdown.Inc()
	}
	c.count.open.Set(0)
}

// Open is the number of requests waiting for their response.
func (c *Correlator) Open() int { return len(c.open) }

func (c *Correlator) drop(x *exchange) {
	delete(c.open, exchangeKey{x.span.SpanID, x.span.Role})
	c.queue.Remove(x)
}
