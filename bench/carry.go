package main

import (
	"context"
	"errors"
	"fmt"
	"math"
	"strings"
)

// relayCount is how many relays share the load, with one connection each.
const relayCount = 4

// carrySizes are the bytes of tracestate and baggage that a request brings.
func carrySizes() []int { return []int{0, 100, 1000, 8000} }

// split says how much of n bytes is tracestate: half, but no more than the 512
// that W3C Trace Context 3.3.1.5 wants carried at least. The rest is baggage.
func split(n int) (tracestate, baggage int) {
	tracestate = min(n/2, 512)
	return tracestate, n - tracestate
}

// list is members with commas between, exactly n bytes in all and each no longer
// than longest.
func list(key string, n, longest int) string {
	if n == 0 {
		return ""
	}
	count := (n + longest + 1) / (longest + 1)
	text := n - (count - 1) // without the commas
	members := make([]string, count)
	for i := range members {
		size := text / count
		if i < text%count {
			size++
		}
		name := fmt.Sprintf("%s%d=", key, i)
		members[i] = name + strings.Repeat("x", max(0, size-len(name)))
	}
	return strings.Join(members, ",")
}

// carryHeader is what the client of an arm sends: a parent, so that its
// tracestate counts, and n bytes besides.
func carryHeader(n int) map[string]string {
	header := map[string]string{"Traceparent": "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"}
	tracestate, baggage := split(n)
	if tracestate > 0 {
		header["Tracestate"] = list("vendor", tracestate, 80)
	}
	if baggage > 0 {
		header["Baggage"] = list("key", baggage, 120)
	}
	return header
}

// carried is what was measured of one size.
type carried struct {
	bytes         int
	without, with []reading // by round; the load is as fast as it goes
	hooks         hookReading
}

// carryArms are a size without and with weft. It traces the relays alone: what is
// measured is one service that takes a context in and writes it on.
func carryArms(group string, bytes int) (without, with arm) {
	without = arm{name: fmt.Sprintf("%d bytes, without weft", bytes), bytes: bytes, header: carryHeader(bytes)}
	with = without
	with.name = fmt.Sprintf("%d bytes, carried by weft", bytes)
	with.targets, with.inject, with.selects = fmt.Sprintf("[{cgroup: %q}]", "*/"+group), "[traceparent, tracestate, baggage]", true
	return without, with
}

// relays are programs of blocking calls between a client and a server; they alone
// are traced.
func (b *bench) relays(ctx context.Context) (_ *rig, err error) {
	r, err := newRig("carry", promise{spans: 2, sends: true}, load{Conns: relayCount})
	if err != nil {
		return nil, err
	}
	defer func() {
		if err != nil {
			err = errors.Join(err, r.close())
		}
	}()
	behind, err := r.backend(ctx, roleServer)
	if err != nil {
		return nil, err
	}
	for range relayCount {
		c, err := r.child(ctx, roleRelay, r.traced)
		if err != nil {
			return nil, err
		}
		var at passedOn
		if err := c.request(passOn{Upstream: behind.Address}, &at); err != nil {
			return nil, err
		}
		r.load.URLs = append(r.load.URLs, "http://"+at.Address+path)
	}
	r.client, err = startChild(ctx, roleClient, r.plain)
	return r, err
}

// carry measures every size, without and with weft by turns.
func (b *bench) carry(ctx context.Context, r *rig) ([]carried, error) {
	var out []carried
	for _, size := range carrySizes() {
		out = append(out, carried{bytes: size})
		without, _ := carryArms(r.traced.name, size)
		if _, err := b.loaded(r, without, 0, b.warm); err != nil { // warms all up
			return nil, err
		}
	}
	for n := range b.rounds {
		for i := range out {
			c := &out[(n+i)%len(out)]
			if err := b.carryRound(ctx, r, c, n); err != nil {
				return nil, err
			}
			without, with := c.without[n], c.with[n]
			b.say("carry, round %d/%d  %5d bytes  %6.0f requests/s without weft, %6.0f with", n+1, b.rounds, c.bytes, without.rate(), with.rate())
			if err := b.record.carried(r.name, n, c.bytes, without, with); err != nil {
				return nil, err
			}
		}
	}
	rate := carryRate(out)
	for i := range out {
		_, with := carryArms(r.traced.name, out[i].bytes)
		var err error
		if out[i].hooks, err = b.watch(ctx, r, with, rate); err != nil {
			return nil, err
		}
	}
	return out, nil
}

// carryRound is one round of one size; who comes first changes from round to round.
func (b *bench) carryRound(ctx context.Context, r *rig, c *carried, n int) error {
	without, with := carryArms(r.traced.name, c.bytes)
	measure := func(a arm, into *[]reading) error {
		_, _, err := b.under(ctx, r, a, func() (uint64, error) {
			x, err := b.read(r, a, 0, b.phase)
			*into = append(*into, x)
			return x.Sent, err
		})
		b.progress.add(b.oneLoad(a))
		return err
	}
	first, second := func() error { return measure(without, &c.without) }, func() error { return measure(with, &c.with) }
	if n%2 == 1 {
		first, second = second, first
	}
	if err := first(); err != nil {
		return err
	}
	return second()
}

// carryRate is half of what every size reached with weft: programs are timed at
// one rate, or their caches would differ with it.
func carryRate(sizes []carried) float64 {
	least := math.Inf(1)
	for _, c := range sizes {
		least = min(least, median(each(c.with, reading.rate)))
	}
	return halfOf(least)
}
