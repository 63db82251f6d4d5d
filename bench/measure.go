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
	name     string
	targets  string // YAML; "" runs no agent
	inject   string // YAML: the headers that the agent writes
	selected int    // processes that the agent traces
	drops    bool   // head ratio 0: context, and no events
	relayed  bool   // the client asks relays, and brings a context
	bytes    int    // of tracestate and baggage in that
}

// Arms; the first is what the others are compared with.
const (
	armWithout = iota
	armOthers
	armObserve
	armTrace
	armSampledOut // in no table but its own
)

func arms(group string) []arm {
	own := fmt.Sprintf("[{cgroup: %q}]", "*/"+group)
	return []arm{
		armWithout:    {name: "without weft"},
		armOthers:     {name: "weft traces others", targets: `[{exe: "/nonexistent/*"}]`, inject: "[traceparent]"},
		armObserve:    {name: "weft observes", targets: own, inject: "[]", selected: 2},
		armTrace:      {name: "weft traces", targets: own, inject: "[traceparent]", selected: 2},
		armSampledOut: {name: "weft samples out", targets: own, inject: "[traceparent]", selected: 2, drops: true},
	}
}

func (a arm) config(sink string) string {
	text := fmt.Sprintf("targets: %s\npropagation: {inject: %s}\nexport: {otlp: {endpoint: %q, protocol: grpc}}\n", a.targets, a.inject, "http://"+sink)
	if a.drops {
		text += "sampling: {head: parentbased_traceidratio, ratio: 0}\n"
	}
	return text
}

// writes says whether requests leave with a traceparent of the agent's.
func (a arm) writes() bool { return a.selected > 0 && a.inject != "[]" }

// exports says whether requests leave spans.
func (a arm) exports() bool { return a.selected > 0 && !a.drops }

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
}

// results are everything measured.
type results struct {
	settings
	machine machine
	arms    []arm
	rounds  [][]round // by arm, then in order of time
	hooks   map[int]hookReading
	carried []carried
	empty   float64 // ns, emptyRun
	soak    *soakReading
}

type hookReading struct {
	hooks []hook
	reading
	rate float64 // requests/s wanted
}

type soakReading struct {
	reading
	wanted float64 // requests/s; 0: as fast as it goes
	memory uint64
	lost   samples
	unseen samples
}

// bench holds the processes of one run.
type bench struct {
	settings
	dir                  string
	group                *cgroup
	server, client, sink *child
	url, sinkAddress     string
	relays               []*child
	relayGroup           *cgroup
	relayURLs            []string
	agent                *agent // nil: none runs
	failed               []error
}

// path is what every request asks for.
const path = "/cart/items?page=2"

// measure runs everything and reports it.
func measure(ctx context.Context, s settings) (err error) {
	dir, err := os.MkdirTemp("", "weft-bench-")
	if err != nil {
		return fmt.Errorf("make a temporary folder: %w", err)
	}
	defer func() { err = errors.Join(err, os.RemoveAll(dir)) }()
	b := &bench{settings: s, dir: dir}
	if b.weft == "" {
		if b.weft, err = buildAgent(ctx, dir); err != nil {
			return err
		}
	}
	b.waitQuiet(ctx)
	if err := b.start(ctx); err != nil {
		return errors.Join(err, b.close())
	}
	res, err := b.all(ctx)
	if err := errors.Join(err, b.close()); err != nil {
		return err
	}
	text := res.markdown()
	fmt.Println(text)
	if len(b.failed) > 0 {
		return fmt.Errorf("the figures above are not what they seem, and were not written down: %w", errors.Join(b.failed...))
	}
	if b.doc == "" {
		return nil
	}
	return writeSection(b.doc, text)
}

func (b *bench) start(ctx context.Context) (err error) {
	if b.group, err = newCgroup("ends"); err != nil {
		return err
	}
	if b.server, err = startChild(ctx, roleServer, b.group); err != nil {
		return err
	}
	if b.client, err = startChild(ctx, roleClient, b.group); err != nil {
		return err
	}
	if b.sink, err = startChild(ctx, roleSink, nil); err != nil {
		return err
	}
	var at served
	if err := b.server.request(struct{}{}, &at); err != nil {
		return err
	}
	b.url = "http://" + at.Address + path
	var to received
	if err := b.sink.request(struct{}{}, &to); err != nil {
		return err
	}
	b.sinkAddress = to.Address
	return nil
}

func (b *bench) close() error {
	var errs []error
	if b.agent != nil {
		errs = append(errs, b.agent.cmd.Process.Kill(), ignoreExit(b.agent.cmd.Wait()))
	}
	errs = append(errs, b.stopRelays())
	for _, c := range []*child{b.client, b.server, b.sink} {
		if c != nil {
			errs = append(errs, c.stop())
		}
	}
	if b.group != nil {
		errs = append(errs, b.group.remove())
	}
	return errors.Join(errs...)
}

// say tells the user how far it is; the table alone goes to standard output.
func (b *bench) say(format string, args ...any) { fmt.Fprintf(os.Stderr, format+"\n", args...) }

func (b *bench) all(ctx context.Context) (*results, error) {
	res := &results{settings: b.settings, arms: arms(b.group.name), hooks: map[int]hookReading{}}
	res.rounds = make([][]round, len(res.arms))
	var err error
	if res.machine, err = describeMachine(); err != nil {
		return nil, err
	}
	if err := b.calibrate(); err != nil {
		return nil, err
	}
	res.rate = b.rate
	for n := range b.rounds {
		// Each round begins with another arm: what drifts falls on all alike.
		for i := range res.arms {
			at := (n + i) % len(res.arms)
			r, err := b.round(ctx, res.arms[at], &res.machine)
			if err != nil {
				return nil, err
			}
			b.say("round %d/%d  %-18s  %6.0f requests/s  p99 %v at %.0f/s", n+1, b.rounds, res.arms[at].name, r.closed.rate(), r.open.P99, b.rate)
			res.rounds[at] = append(res.rounds[at], r)
		}
	}
	if res.empty, err = emptyRun(); err != nil {
		return nil, err
	}
	for _, at := range []int{armOthers, armTrace, armSampledOut} {
		if res.hooks[at], err = b.watch(ctx, res.arms[at], b.rate); err != nil {
			return nil, err
		}
	}
	if res.carried, err = b.carry(ctx); err != nil {
		return nil, err
	}
	if err := b.stopRelays(); err != nil {
		return nil, err
	}
	if b.soak > 0 {
		if res.soak, err = b.runSoak(ctx, res); err != nil {
			return nil, err
		}
	}
	return res, nil
}

// calibrate finds the rate of the open loop: half of what is reached without
// weft, unless the user gave one.
func (b *bench) calibrate() error {
	reached := 0.0
	for range 2 { // the first warms both processes up
		o, err := b.load(arm{}, 0, b.phase)
		if err != nil {
			return err
		}
		reached = o.rate()
	}
	if b.rate == 0 {
		b.rate = max(100, math.Floor(reached/2/100)*100)
	}
	b.say("without weft %.0f requests/s; latency is measured at %.0f/s", reached, b.rate)
	return nil
}

// load makes the client send; rate 0 is as fast as it goes.
func (b *bench) load(a arm, rate float64, length time.Duration) (outcome, error) {
	l := load{URLs: []string{b.url}, Conns: b.conns, Header: map[string]string{}, Rate: rate, Warm: b.warm, For: length}
	if a.relayed {
		l.URLs, l.Conns, l.Header = b.relayURLs, len(b.relayURLs), carryHeader(a.bytes)
	}
	if b.header > 0 {
		l.Header["Cookie"] = strings.Repeat("x", b.header)
	}
	var o outcome
	err := b.client.request(l, &o)
	if err == nil && o.Failed > 0 {
		err = fmt.Errorf("%d of %d requests failed", o.Failed, o.Sent)
	}
	return o, err
}

// read makes a load and measures what it cost. It ends when the sink has got
// every span, so that the agent's work on them is counted.
func (b *bench) read(a arm, rate float64, length time.Duration) (reading, error) {
	before, err := b.used()
	if err != nil {
		return reading{}, err
	}
	was, err := b.spans()
	if err != nil {
		return reading{}, err
	}
	o, err := b.load(a, rate, length)
	if err != nil {
		return reading{}, err
	}
	if a.exports() {
		if err := b.delivered(was + 2*o.Sent); err != nil {
			return reading{}, err
		}
	}
	after, err := b.used()
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

func (b *bench) round(ctx context.Context, a arm, m *machine) (r round, err error) {
	_, err = b.under(ctx, a, func() (sent uint64, err error) {
		if r.closed, err = b.read(a, 0, b.phase); err != nil {
			return 0, err
		}
		if r.open, err = b.read(a, b.rate, b.phase); err != nil {
			return 0, err
		}
		if b.agent != nil {
			m.capture = b.agent.capture()
			if _, r.memory, err = b.agent.memory(); err != nil {
				return 0, err
			}
		}
		return r.closed.Sent + r.open.Sent, nil
	})
	return r, err
}

// watch measures the agent's BPF programs at a rate.
func (b *bench) watch(ctx context.Context, a arm, rate float64) (h hookReading, err error) {
	_, err = b.under(ctx, a, func() (uint64, error) {
		w, err := watchHooks(b.agent.cmd.Process.Pid)
		if err != nil {
			return 0, err
		}
		h.rate = rate
		h.reading, err = b.read(a, rate, b.phase)
		if err != nil {
			return 0, errors.Join(err, w.close())
		}
		h.hooks, err = w.finish()
		return h.Sent, err
	})
	b.say("BPF run time, %s: %d programs ran", a.name, len(h.hooks))
	return h, err
}

// runSoak holds the rate asked for, or the highest there is if tracing did not
// reach that in the rounds.
func (b *bench) runSoak(ctx context.Context, res *results) (*soakReading, error) {
	s := &soakReading{wanted: b.soakRate}
	if reached := median(res.each(armTrace, func(r round) float64 { return r.closed.rate() })); reached < b.soakRate {
		s.wanted = 0
	}
	lost, err := b.under(ctx, res.arms[armTrace], func() (_ uint64, err error) {
		if s.reading, err = b.read(res.arms[armTrace], s.wanted, b.soak); err != nil {
			return 0, err
		}
		_, s.memory, err = b.agent.memory()
		return s.Sent, err
	})
	s.lost, s.unseen = lost.above("lost", "dropped"), lost.above("skipped", "desync", "refused")
	b.say("soak: %.0f requests/s for %v", s.rate(), b.soak)
	return s, err
}

// under runs a load under an arm and checks that it was traced as the arm says.
// It returns the agent's metrics at the end.
func (b *bench) under(ctx context.Context, a arm, loads func() (sent uint64, err error)) (samples, error) {
	var before, after served
	if err := b.server.request(struct{}{}, &before); err != nil {
		return nil, err
	}
	spansBefore, err := b.spans()
	if err != nil {
		return nil, err
	}
	var first samples
	if a.targets != "" {
		if b.agent, err = startAgent(ctx, b.weft, b.dir, a.config(b.sinkAddress), float64(a.selected)); err != nil {
			return nil, err
		}
		// Its self-test sent requests of its own.
		if first, err = b.agent.metrics(); err != nil {
			return nil, err
		}
	}
	sent, err := loads()
	if err != nil {
		return nil, err
	}
	var last samples
	stopped := b.agent
	if stopped != nil {
		if last, err = stopped.metrics(); err != nil {
			return nil, err
		}
		b.agent = nil
		if err := stopped.stop(); err != nil {
			return nil, err
		}
	}
	if err := b.server.request(struct{}{}, &after); err != nil {
		return nil, err
	}
	spansAfter, err := b.spans()
	if err != nil {
		return nil, err
	}
	seen := evidence{
		requests:    after.Requests - before.Requests,
		traceparent: after.Traceparent - before.Traceparent,
		sampled:     after.Sampled - before.Sampled,
		repeated:    after.Repeated - before.Repeated,
		carried:     after.Carried - before.Carried,
		spans:       spansAfter - spansBefore,
		written:     uint64(last.sum(injectedTotal) - first.sum(injectedTotal)),
		lost:        last.above("lost", "dropped"),
	}
	if stopped != nil && !stopped.nothingLost() {
		seen.summary = stopped.summary()
	}
	b.failed = append(b.failed, seen.check(a, sent)...)
	return last, nil
}

// injectedTotal counts requests into which the agent wrote.
const injectedTotal = "weft_kernel_injected_total"

// evidence is what the server, the sink and the agent each say of a load.
type evidence struct {
	requests, traceparent, sampled, repeated uint64 // the server
	carried                                  uint64 // the server: bytes
	spans                                    uint64 // the sink
	written                                  uint64 // the agent
	lost                                     samples
	summary                                  string // of the agent, if something was lost
}

// check holds it to what the arm promises; figures of a load that was not traced
// would flatter.
func (e evidence) check(a arm, sent uint64) []error {
	var errs []error
	same := func(what string, got, want uint64) {
		if got != want {
			errs = append(errs, fmt.Errorf("%s: %s: %d, want %d", a.name, what, got, want))
		}
	}
	var headers, sampled, exported uint64
	if a.writes() {
		headers = sent
	}
	if a.exports() {
		exported = 2 * sent // a client's and a server's
		sampled = headers
	}
	same("requests the server saw", e.requests, sent)
	same("requests that carried traceparent", e.traceparent, headers)
	same("requests whose sampled flag was set", e.sampled, sampled)
	same("bytes of tracestate and baggage", e.carried, headers*uint64(a.bytes))
	same("requests that carried several", e.repeated, 0)
	same("spans delivered", e.spans, exported)
	same("traceparent written, by the agent's own count", e.written, headers)
	if len(e.lost) > 0 || e.summary != "" {
		errs = append(errs, fmt.Errorf("%s: lost: %s %s", a.name, e.lost.text(), e.summary))
	}
	return errs
}
