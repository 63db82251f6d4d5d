package main

import (
	"context"
	"errors"
	"fmt"
	"regexp"
	"strings"
	"time"
)

// injectedTotal counts requests into which the agent wrote.
const injectedTotal = "weft_kernel_injected_total"

// refusedTLS is what the agent says at its end of requests inside TLS, in the words
// that begin with nothingElse.
var refusedTLS = regexp.MustCompile(`weft_kernel_refused_total\{cause="tls"\} \d+`)

const nothingElse = "not seen or not delivered:"

// overtaken: of so many spans one may be missing where weft only observes. There a
// request is seen when its send has returned, and on a busy machine the response is
// now and then read by another thread before that.
const overtaken = 5000

const (
	primeWait  = 20 * time.Second
	spansLeave = 3 * time.Second // the agent sends them a second after the first at the latest
)

// evidence is what the service behind, the sink and the agent each say of a load.
type evidence struct {
	requests, traceparent, sampled, repeated uint64 // the service behind
	carried                                  uint64 // that: bytes
	spans                                    uint64 // the sink
	written                                  uint64 // the agent
	lost                                     samples
	summary                                  string // of the agent, if something was lost
}

// check holds it to what the arm promises; figures of a load that was not traced
// would flatter. Of a peer nothing is known but that requests arrive.
func (e evidence) check(a arm, sent uint64, p promise) []error {
	var errs []error
	same := func(what string, got, want uint64) {
		if got != want {
			errs = append(errs, fmt.Errorf("%s: %s: %d, want %d", a.name, what, got, want))
		}
	}
	same("requests the server saw", e.requests, sent)
	if a.peer != nil {
		return errs
	}
	var headers, sampled, exported uint64
	if a.writes() && p.sends {
		headers = sent
	}
	if a.exports() {
		exported = p.spans * sent
		sampled = headers
	}
	same("requests that carried traceparent", e.traceparent, headers)
	same("requests whose sampled flag was set", e.sampled, sampled)
	same("bytes of tracestate and baggage", e.carried, headers*uint64(a.bytes))
	same("requests that carried several", e.repeated, 0)
	same("traceparent written, by the agent's own count", e.written, headers)
	if few := exported / overtaken; !a.writes() && e.spans < exported && e.spans+few >= exported && e.losses() <= float64(few) {
		return errs
	}
	same("spans delivered", e.spans, exported)
	if p.dark && a.writes() {
		e.summary = strings.TrimSpace(strings.TrimPrefix(refusedTLS.ReplaceAllString(e.summary, ""), nothingElse))
	}
	if len(e.lost) > 0 || e.summary != "" {
		errs = append(errs, fmt.Errorf("%s: lost: %s %s", a.name, e.lost.text(), e.summary))
	}
	return errs
}

// perRequest is how many of something there were for a request.
func (e evidence) perRequest(of uint64) float64 { return float64(of) / float64(max(e.requests, 1)) }

// losses is how many items the agent says it lost.
func (e evidence) losses() (total float64) {
	for _, v := range e.lost {
		total += v
	}
	return total
}

// under runs a load under an arm and checks that it was traced as the arm says.
// It returns the agent's metrics at the end.
func (b *bench) under(ctx context.Context, r *rig, a arm, loads func() (sent uint64, err error)) (last samples, seen evidence, err error) {
	if r.fresh != nil {
		if err := r.fresh(ctx); err != nil {
			return nil, seen, err
		}
	}
	if err := b.startTracer(ctx, r, a); err != nil {
		return nil, seen, err
	}
	defer func() {
		if err != nil { // whatever went wrong: no agent stays for the next arm
			err = errors.Join(err, b.endTracer())
		}
	}()
	if err := b.prime(ctx, r, a); err != nil {
		return nil, seen, err
	}
	before, err := r.saw()
	if err != nil {
		return nil, seen, err
	}
	spansBefore, err := b.spans()
	if err != nil {
		return nil, seen, err
	}
	var first samples
	if b.agent != nil {
		// Its self-test sent requests of its own, and so did we.
		if first, err = b.agent.metrics(); err != nil {
			return nil, seen, err
		}
	}
	sent, err := loads()
	if err != nil {
		return nil, seen, err
	}
	if b.agent != nil {
		if last, err = b.agent.metrics(); err != nil {
			return nil, seen, err
		}
	}
	stopped := b.agent
	if err := b.stopTracer(); err != nil {
		return nil, seen, err
	}
	after, err := r.saw()
	if err != nil {
		return nil, seen, err
	}
	spansAfter, err := b.spans()
	if err != nil {
		return nil, seen, err
	}
	was := after.since(before)
	seen = evidence{requests: was.Requests, traceparent: was.Traceparent, sampled: was.Sampled, repeated: was.Repeated, carried: was.Carried,
		spans: spansAfter - spansBefore, written: uint64(last.sum(injectedTotal) - first.sum(injectedTotal)), lost: last.above("lost", "dropped")}
	if stopped != nil && !stopped.nothingLost() {
		seen.summary = stopped.summary()
	}
	for _, wrong := range seen.check(a, sent, r.promise) {
		b.failed = append(b.failed, fmt.Errorf("%s: %w", r.name, wrong))
	}
	return last, seen, nil
}

// prime sends requests until they leave all their spans: what a program turns out to
// use, such as TLS, is attached when it is seen. That they never do the check tells.
func (b *bench) prime(ctx context.Context, r *rig, a arm) error {
	if !a.exports() || r.spans == 0 {
		return nil
	}
	l := r.load
	l.For, l.Header = 200*time.Millisecond, a.header
	for deadline := time.Now().Add(primeWait); time.Now().Before(deadline) && ctx.Err() == nil; {
		was, err := b.spans()
		if err != nil {
			return err
		}
		var o outcome
		if err := r.client.request(l, &o); err != nil {
			return err
		}
		r.count(o.Echo)
		// Spans leave once a second or so.
		for until := time.Now().Add(spansLeave); time.Now().Before(until); time.Sleep(20 * time.Millisecond) {
			got, err := b.spans()
			if err != nil {
				return err
			}
			if o.Sent > 0 && got >= was+r.spans*o.Sent {
				return nil
			}
		}
	}
	return ctx.Err()
}

// startTracer runs what the arm says, if anything.
func (b *bench) startTracer(ctx context.Context, r *rig, a arm) (err error) {
	switch {
	case a.peer != nil:
		b.peer, err = startPeer(ctx, *a.peer, r, b.agents, b.sinkAddress, b.dir)
	case a.targets != "":
		selected := 0
		if a.selects {
			pids, err := r.traced.pids()
			if err != nil {
				return err
			}
			selected = len(pids)
		}
		b.agent, err = startAgent(ctx, b.weft, b.dir, a.config(b.sinkAddress), float64(selected), b.agents)
	}
	return err
}

// stopTracer ends it as a service manager would.
func (b *bench) stopTracer() (err error) {
	switch {
	case b.agent != nil:
		err, b.agent = b.agent.stop(), nil
	case b.peer != nil:
		err, b.peer = b.peer.stop(b.grace), nil
	}
	return err
}

// endTracer ends it now.
func (b *bench) endTracer() error {
	var err error
	if b.agents != nil {
		err = b.agents.empty()
	}
	if b.agent != nil {
		err = errors.Join(err, ignoreExit(b.agent.cmd.Wait()))
	}
	b.agent, b.peer = nil, nil
	return err
}
