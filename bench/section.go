package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"slices"
	"strings"
	"time"
)

// section is a part of the page that can be measured by itself.
type section struct {
	name  string
	about string
	hop   *hop // nil: another kind
	takes func(settings) time.Duration
	run   func(ctx context.Context, b *bench) (*results, error)
}

// sections are all there are, in the order of the page.
func sections() []section {
	var out []section
	for _, h := range hops() {
		out = append(out, section{name: h.name, about: h.title + ", one traced program between a load generator and a service", hop: &h,
			takes: func(s settings) time.Duration {
				d := rigStarts + s.rounding(s.hopArms("", h))
				return d + s.watching() // as fast as it goes, too
			},
			run: func(ctx context.Context, b *bench) (*results, error) {
				return with(ctx, b, func(ctx context.Context) (*rig, error) { return b.hopRig(ctx, h) }, func(r *rig) (*results, error) {
					arms := b.hopArms(r.traced.name, h)
					res, err := b.compareArms(ctx, r, arms, watched(arms))
					if res != nil {
						res.hop = &h
						if r.dark {
							res.note = " **This kernel lets no program write another's memory**, so what is inside TLS leaves without context: spans only (`weft doctor`, row `go.writes`)."
						}
					}
					return res, err
				})
			}})
	}
	return append(out,
		section{name: "both-ends", about: "nothing but tracing: client and server, both traced",
			takes: func(s settings) time.Duration { return rigStarts + s.rounding(s.arms("", true)) },
			run: func(ctx context.Context, b *bench) (*results, error) {
				return with(ctx, b, b.bothEnds, func(r *rig) (*results, error) {
					arms := b.arms(r.traced.name, true)
					return b.compareArms(ctx, r, arms, watched(arms))
				})
			}},
		section{name: "carry", about: "tracestate and baggage of growing size",
			takes: func(s settings) time.Duration {
				d := rigStarts
				for _, size := range carrySizes() {
					without, with := carryArms("", size)
					d += s.watching() + time.Duration(s.rounds)*(s.oneLoad(without)+s.oneLoad(with))
				}
				return d
			},
			run: func(ctx context.Context, b *bench) (*results, error) {
				return with(ctx, b, b.relays, func(r *rig) (*results, error) {
					res := &results{settings: b.settings, machine: b.machine, empty: b.empty}
					var err error
					res.carried, err = b.carry(ctx, r)
					return res, err
				})
			}},
		section{name: "traps", about: "what a probe in a program costs, by kind of instruction",
			takes: func(s settings) time.Duration { return rigStarts + time.Duration(s.rounds*len(trapKinds()))*trapRound },
			run:   measureTraps},
		section{name: "soak", about: "a high rate for a while: memory and losses",
			takes: func(s settings) time.Duration { return 2 * (rigStarts + s.soaking()) },
			run:   soak})
}

// soak is with both ends traced, and with one where that does not reach the rate: a
// small machine may not have the processors for two traced programs.
func soak(ctx context.Context, b *bench) (*results, error) {
	res := &results{settings: b.settings, machine: b.machine, empty: b.empty}
	for _, start := range []func(context.Context) (*rig, error){b.bothEnds, b.oneEnd} {
		if _, err := with(ctx, b, start, func(r *rig) (*results, error) {
			s, err := b.runSoak(ctx, r)
			res.soaks = append(res.soaks, s)
			return nil, err
		}); err != nil {
			return nil, err
		}
		if res.reached(len(res.soaks) - 1) {
			break
		}
	}
	return res, nil
}

// with runs a measurement on a rig and ends the rig.
func with(ctx context.Context, b *bench, start func(context.Context) (*rig, error), measure func(*rig) (*results, error)) (*results, error) {
	r, err := start(ctx)
	if err != nil {
		return nil, err
	}
	res, err := measure(r)
	if err != nil {
		err = errors.Join(err, b.endTracer())
	}
	return res, errors.Join(err, r.close())
}

// choose picks sections by name; none is all of them.
func choose(names []string) ([]section, error) {
	all := sections()
	if len(names) == 0 {
		return all, nil
	}
	known := make([]string, len(all))
	for i, s := range all {
		known[i] = s.name
	}
	for _, name := range names {
		if !slices.Contains(known, name) {
			return nil, fmt.Errorf("-only: no section %q; there are %s", name, strings.Join(known, ", "))
		}
	}
	return slices.DeleteFunc(all, func(s section) bool { return !slices.Contains(names, s.name) }), nil
}

// measure runs the chosen sections. Each is written down when it has ended, so that
// a run that is cut short leaves what it has found.
func measure(ctx context.Context, s settings) (err error) {
	chosen, err := choose(s.only)
	if err != nil {
		return err
	}
	if err := missing(chosen); err != nil {
		return err
	}
	if s.doc != "" {
		if err := checkDocument(s.doc); err != nil {
			return err
		}
	}
	dir, err := os.MkdirTemp("", "weft-bench-")
	if err != nil {
		return fmt.Errorf("make a temporary folder: %w", err)
	}
	defer func() { err = errors.Join(err, os.RemoveAll(dir)) }()
	b := &bench{settings: s, dir: dir, progress: &progress{}}
	for _, sec := range chosen {
		b.progress.planned += sec.takes(s)
	}
	fmt.Fprintf(os.Stderr, "bench: %d sections, %d rounds, loads of %v: about %s\n", len(chosen), s.rounds, s.phase, minutes(b.progress.planned))
	if b.weft == "" {
		if b.weft, err = buildAgent(ctx, dir); err != nil {
			return err
		}
	}
	b.waitQuiet(ctx)
	if err := b.start(ctx); err != nil {
		return errors.Join(err, b.close())
	}
	defer func() { err = errors.Join(err, b.close()) }()
	if b.record, err = newRecord(s, b.machine); err != nil {
		return err
	}
	defer func() { err = errors.Join(err, b.record.close()) }()
	b.progress.begun = time.Now()
	return b.all(ctx, chosen)
}

// missing is what a chosen section lacks on this machine, before anything runs.
func missing(chosen []section) error {
	in, err := findInstalled()
	if err != nil {
		return err
	}
	for _, sec := range chosen {
		if sec.hop == nil || sec.hop.check == nil {
			continue
		}
		if err := sec.hop.check(in); err != nil {
			return fmt.Errorf("section %s: %w", sec.name, err)
		}
	}
	return nil
}

func (b *bench) all(ctx context.Context, chosen []section) error {
	var errs []error
	var measured []*results
	for _, sec := range chosen {
		planned := b.progress.done + sec.takes(b.settings)
		res, err := sec.run(ctx, b)
		b.progress.done = planned
		if ctx.Err() != nil {
			return errors.Join(append(errs, fmt.Errorf("section %s was cut short: %w", sec.name, ctx.Err()))...)
		}
		if err != nil {
			b.say("section %s failed: %v", sec.name, err)
			errs = append(errs, fmt.Errorf("section %s: %w", sec.name, err))
			b.failed = nil
			continue
		}
		text := res.markdown()
		fmt.Println(text)
		if len(b.failed) > 0 {
			errs = append(errs, fmt.Errorf("section %s: the figures above are not what they seem, and were not written down: %w", sec.name, errors.Join(b.failed...)))
			b.say("%v", errs[len(errs)-1])
			b.failed = nil
			continue
		}
		if res.hop != nil {
			measured = append(measured, res)
		}
		if b.doc != "" {
			if err := writeSection(b.doc, sec.name, text); err != nil {
				return errors.Join(append(errs, err)...)
			}
		}
	}
	return errors.Join(append(errs, b.overview(measured))...)
}

// overview sets the hops beside each other. In the document it stands only if all of
// them were measured in this run: it is to be one machine on one day.
func (b *bench) overview(measured []*results) error {
	if len(measured) == 0 {
		return nil
	}
	all := len(measured) == len(hops())
	plot := b.plot
	if plot == "" && b.doc != "" && all {
		plot = plotOf(b.doc)
	}
	if plot != "" {
		if err := writePlot(plot, measured); err != nil {
			return err
		}
		b.say("plot written to %s", plot)
	}
	if !all {
		return nil
	}
	text := overview(measured, b.doc, plot)
	fmt.Println(text)
	if b.doc == "" {
		return nil
	}
	return writeSection(b.doc, "overview", text)
}
