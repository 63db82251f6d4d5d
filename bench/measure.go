package main

import (
	"context"
	"errors"
	"fmt"
	"math"
	"os"
	"strings"
	"time"
)

// arm is one of the ways in which the same load is run.
type arm struct {
	name    string
	peer    *peer  // another agent than weft
	targets string // YAML; "" runs no weft
	inject  string // YAML: the headers that weft writes
	selects bool   // the targets are the rig's traced programs
	drops   bool   // head ratio 0: context, and no events
	spends  bool   // no agent: the program itself works longer
	bytes   int    // of tracestate and baggage that the client brings
	header  map[string]string
}

// Arms; the first is what the others are compared with. Peers come behind them.
const (
	armWithout = iota
	armOthers
	armObserve
	armTrace
	armSampledOut // with both ends only, and in no table but its own
)

// arms are those of a rig; sampledOut adds the one that only has a table of its own.
func (s settings) arms(group string, sampledOut bool) []arm {
	own := fmt.Sprintf("[{cgroup: %q}]", "*/"+group)
	out := []arm{
		armWithout: {name: "without weft"},
		armOthers:  {name: "weft traces others", targets: `[{exe: "/nonexistent/*"}]`, inject: "[traceparent]"},
		armObserve: {name: "weft observes", targets: own, inject: "[]", selects: true},
		armTrace:   {name: "weft traces", targets: own, inject: "[traceparent]", selects: true},
	}
	if sampledOut {
		out = append(out, arm{name: "weft samples out", targets: own, inject: "[traceparent]", selects: true, drops: true})
	}
	if len(s.peers) > 0 {
		out[armWithout].name = "no agent"
	}
	for i := range s.peers {
		out = append(out, arm{name: s.peers[i].name, peer: &s.peers[i]})
	}
	return out
}

// hopArms are those of a hop.
func (s settings) hopArms(group string, h hop) []arm {
	out := s.arms(group, false)
	if h.targets {
		out = append(out, armBudget())
	}
	return out
}

func (a arm) config(sink string) string {
	text := fmt.Sprintf("targets: %s\npropagation: {inject: %s}\nexport: {otlp: {endpoint: %q, protocol: grpc}}\n", a.targets, a.inject, "http://"+sink)
	if a.drops {
		text += "sampling: {head: parentbased_traceidratio, ratio: 0}\n"
	}
	return text
}

// agent says whether anything runs beside the programs.
func (a arm) agent() bool { return a.targets != "" || a.peer != nil }

// writes says whether requests leave with a traceparent of weft's.
func (a arm) writes() bool { return a.selects && a.inject != "[]" }

// exports says whether requests leave spans.
func (a arm) exports() bool { return a.selects && !a.drops }

// reading is one load and what it cost.
type reading struct {
	outcome
	usage
}

// perRequest is a CPU time in µs per request.
func (r reading) perRequest(cpu time.Duration) float64 {
	return float64(cpu) / float64(time.Microsecond) / float64(r.Sent)
}

// round is both loads in one arm.
type round struct {
	closed, open reading
	memory       uint64 // the agent's largest resident set, bytes
	seen         evidence
}

// results are everything measured in one section.
type results struct {
	settings
	machine   machine
	hop       *hop
	note      string // what holds for the hop on this kernel only
	arms      []arm
	rounds    [][]round           // by arm, then in order of time
	hooks     map[int]hookReading // by arm, at the fixed rate
	saturated map[int]hookReading // by arm, as fast as it goes
	carried   []carried
	empty     float64 // ns, emptyRun
	soaks     []soakReading
	traps     []trapReading
}

type hookReading struct {
	hooks []hook
	reading
	rate float64 // requests/s wanted; 0: as fast as it goes
}

type soakReading struct {
	reading
	of     string  // the rig
	spans  uint64  // of each request
	wanted float64 // requests/s; 0: as fast as it goes
	memory uint64
	lost   samples
	unseen samples
}

// bench holds what all sections share.
type bench struct {
	settings
	dir           string
	agents, sinks *cgroup
	sink          *child
	sinkAddress   string
	agent         *agent       // nil: weft does not run
	peer          *runningPeer // nil: none runs
	machine       machine
	empty         float64
	progress      *progress
	record        *record
	failed        []error // of this section: what was measured is not what its arm says
}

func (b *bench) start(ctx context.Context) (err error) {
	if b.agents, err = newCgroup("agent"); err != nil {
		return err
	}
	if b.sinks, err = newCgroup("sink"); err != nil {
		return err
	}
	if b.sink, err = startChild(ctx, roleSink, b.sinks); err != nil {
		return err
	}
	var to received
	if err := b.sink.request(struct{}{}, &to); err != nil {
		return err
	}
	b.sinkAddress = to.Address
	if b.machine, err = describeMachine(); err != nil {
		return err
	}
	b.empty, err = emptyRun()
	return err
}

func (b *bench) close() error {
	errs := []error{b.endTracer()}
	if b.sink != nil {
		errs = append(errs, b.sink.stop())
	}
	for _, g := range []*cgroup{b.agents, b.sinks} {
		if g != nil {
			errs = append(errs, g.remove())
		}
	}
	return errors.Join(errs...)
}

// say tells the user how far it is; the tables alone go to standard output.
func (b *bench) say(format string, args ...any) {
	fmt.Fprintf(os.Stderr, "%s "+format+"\n", append([]any{b.progress}, args...)...)
}

// compareArms measures every arm of a rig, interleaved, then the programs of those
// in watched.
func (b *bench) compareArms(ctx context.Context, r *rig, arms []arm, watched []int) (*results, error) {
	res := &results{settings: b.settings, machine: b.machine, arms: arms, rounds: make([][]round, len(arms)),
		hooks: map[int]hookReading{}, saturated: map[int]hookReading{}, empty: b.empty}
	rate, err := b.calibrate(ctx, r)
	if err != nil {
		return nil, err
	}
	res.rate = rate
	for n := range b.rounds {
		// Each round begins with another arm: what drifts falls on all alike.
		for i := range arms {
			at := (n + i) % len(arms)
			x, err := b.round(ctx, r, arms[at], rate, &res.machine)
			if err != nil {
				return nil, err
			}
			res.rounds[at] = append(res.rounds[at], x)
			b.say("%s, round %d/%d  %-18s  %6.0f requests/s  p99 %v at %.0f/s", r.name, n+1, b.rounds, arms[at].name, x.closed.rate(), x.open.P99, rate)
			if err := b.record.round(r.name, n, arms[at], x, rate); err != nil {
				return nil, err
			}
		}
	}
	for _, at := range watched {
		if res.hooks[at], err = b.watch(ctx, r, arms[at], rate); err != nil {
			return nil, err
		}
		if r.port == 0 || at != armTrace {
			continue // hops only
		}
		if res.saturated[at], err = b.watch(ctx, r, arms[at], 0); err != nil {
			return nil, err
		}
	}
	return res, nil
}

// calibrate finds the rate of the open loop: half of what is reached without
// an agent, unless the user gave one.
func (b *bench) calibrate(ctx context.Context, r *rig) (rate float64, err error) {
	reached := 0.0
	if r.fresh != nil {
		if err := r.fresh(ctx); err != nil {
			return 0, err
		}
	}
	for range 2 { // the first warms the programs up
		o, err := b.loaded(r, arm{}, 0, b.phase)
		if err != nil {
			return 0, err
		}
		reached = o.rate()
	}
	b.progress.add(b.calibration())
	if rate = b.rate; rate == 0 {
		rate = halfOf(reached)
	}
	b.say("%s: without an agent %.0f requests/s; latency is measured at %.0f/s", r.name, reached, rate)
	return rate, nil
}

// halfOf is half of a rate, rounded down to two digits or so.
func halfOf(reached float64) float64 {
	step := 100.0
	if reached < 4000 {
		step = 10
	}
	return max(step, math.Floor(reached/2/step)*step)
}

// loaded makes the client send; rate 0 is as fast as it goes.
func (b *bench) loaded(r *rig, a arm, rate float64, length time.Duration) (outcome, error) {
	l := r.load
	l.Rate, l.Warm, l.For, l.Header = rate, b.warm, length, map[string]string{}
	for name, value := range a.header {
		l.Header[name] = value
	}
	if b.header > 0 {
		l.Header["Cookie"] = strings.Repeat("x", b.header)
	}
	var o outcome
	if err := r.client.request(l, &o); err != nil {
		return o, err
	}
	r.count(o.Echo)
	if o.Failed > 0 {
		return o, fmt.Errorf("%s, %s: %d of %d requests failed, the first: %s", r.name, a.name, o.Failed, o.Sent, o.Why)
	}
	if o.Measured == 0 {
		return o, fmt.Errorf("%s, %s: nothing was answered within %v", r.name, a.name, length)
	}
	return o, nil
}

// read makes a load and measures what it cost. It ends when the sink has got
// every span, so that the agent's work on them is counted.
func (b *bench) read(r *rig, a arm, rate float64, length time.Duration) (reading, error) {
	before, err := b.used(r)
	if err != nil {
		return reading{}, err
	}
	was, err := b.spans()
	if err != nil {
		return reading{}, err
	}
	o, err := b.loaded(r, a, rate, length)
	if err != nil {
		return reading{}, err
	}
	if a.exports() {
		if err := b.delivered(was + r.spans*o.Sent); err != nil {
			return reading{}, err
		}
	}
	if b.peer != nil {
		if err := errors.Join(b.settled(), b.peer.alive()); err != nil {
			return reading{}, err
		}
	}
	after, err := b.used(r)
	if err != nil {
		return reading{}, err
	}
	return reading{o, after.since(before)}, nil
}

func (b *bench) spans() (uint64, error) {
	var r received
	err := b.sink.request(struct{}{}, &r)
	return r.Spans, err
}

// delivered waits for spans, but not for ever: what is missing the check at the
// end of the arm names.
func (b *bench) delivered(want uint64) error {
	for deadline := time.Now().Add(12 * time.Second); time.Now().Before(deadline); time.Sleep(20 * time.Millisecond) {
		if got, err := b.spans(); err != nil || got >= want {
			return err
		}
	}
	return nil
}

// settled waits until no spans have come for a while: how many a peer makes of a
// request is its own affair, and so is whether they come here.
func (b *bench) settled() error {
	const still = time.Second
	last, err := b.spans()
	since := time.Now()
	for deadline := since.Add(12 * time.Second); err == nil && time.Since(since) < still && time.Now().Before(deadline); time.Sleep(20 * time.Millisecond) {
		var got uint64
		if got, err = b.spans(); got != last {
			last, since = got, time.Now()
		}
	}
	return err
}

func (b *bench) round(ctx context.Context, r *rig, a arm, rate float64, m *machine) (x round, err error) {
	_, x.seen, err = b.under(ctx, r, a, func() (sent uint64, err error) {
		if x.closed, err = b.read(r, a, 0, b.phase); err != nil {
			return 0, err
		}
		if x.open, err = b.read(r, a, rate, b.phase); err != nil {
			return 0, err
		}
		if b.agent != nil {
			m.capture = b.agent.capture()
		}
		x.memory, err = b.agents.resident()
		return x.closed.Sent + x.open.Sent, err
	})
	b.progress.add(b.roundOf(a))
	return x, err
}

// watch measures an agent's BPF programs at a rate, 0 as fast as it goes.
func (b *bench) watch(ctx context.Context, r *rig, a arm, rate float64) (h hookReading, err error) {
	_, _, err = b.under(ctx, r, a, func() (uint64, error) {
		pids, err := b.agents.pids()
		if err != nil {
			return 0, err
		}
		w, err := watchHooks(pids)
		if err != nil {
			return 0, err
		}
		h.rate = rate
		h.reading, err = b.read(r, a, rate, b.phase)
		if err != nil {
			return 0, errors.Join(err, w.close())
		}
		h.hooks, err = w.finish()
		return h.Sent, err
	})
	b.progress.add(b.watching())
	if err == nil {
		b.say("%s, BPF run time, %s: %d programs ran", r.name, a.name, len(h.hooks))
		err = b.record.hooks(r.name, a, h)
	}
	return h, err
}

// runSoak holds the rate asked for, or the highest there is if tracing does not
// reach that.
func (b *bench) runSoak(ctx context.Context, r *rig) (s soakReading, err error) {
	traces := b.arms(r.traced.name, false)[armTrace]
	s = soakReading{of: r.name, spans: r.spans, wanted: b.soakRate}
	if err := b.soakTrial(ctx, r, traces, &s); err != nil {
		return s, err
	}
	last, _, err := b.under(ctx, r, traces, func() (_ uint64, err error) {
		if s.reading, err = b.read(r, traces, s.wanted, b.soak); err != nil {
			return 0, err
		}
		s.memory, err = b.agents.resident()
		return s.Sent, err
	})
	if err != nil {
		return s, err
	}
	s.lost, s.unseen = last.above("lost", "dropped"), last.above("skipped", "desync", "refused")
	b.progress.add(b.soaking())
	b.say("soak, %s: %.0f requests/s for %v", r.name, s.rate(), b.soak)
	return s, b.record.soak(r.name, &s)
}

// soakTrial finds out whether the rate is reached, in a load like those of a round.
func (b *bench) soakTrial(ctx context.Context, r *rig, a arm, s *soakReading) error {
	_, _, err := b.under(ctx, r, a, func() (uint64, error) {
		var sent uint64
		for range 2 { // the first warms the programs up
			o, err := b.read(r, a, 0, b.phase)
			if err != nil {
				return 0, err
			}
			sent += o.Sent
			if o.rate() < b.soakRate {
				s.wanted = 0
			} else {
				s.wanted = b.soakRate
			}
		}
		return sent, nil
	})
	return err
}

// watched are the arms whose programs are timed.
func watched(arms []arm) (out []int) {
	for at, a := range arms {
		if a.agent() && at != armObserve {
			out = append(out, at)
		}
	}
	return out
}

// columns are the arms that the tables compare; what is sampled out has its own.
func (r *results) columns() (out []int) {
	for at, a := range r.arms {
		if !a.drops {
			out = append(out, at)
		}
	}
	return out
}
