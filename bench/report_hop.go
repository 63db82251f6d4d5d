package main

import (
	"fmt"
	"strings"
)

// The project's targets, for the Go HTTP/1 hop.
const (
	wantedThroughput = 0.90 // of requests/s without an agent, at least
	wantedP99        = 1.05 // of that without an agent, at half load, at most
	wantedCPU        = 20.0 // µs per request: BPF programs and agent, at most
	wantedMemory     = 64.0 // MiB resident, at most
)

func metOrMissed(met bool) string {
	if met {
		return "met"
	}
	return "missed"
}

// target is one of them beside what was measured.
type target struct {
	what, wanted, measured string
	met                    bool
	sure                   bool // the whole interval says so
}

func (t target) String() string {
	doubt := ""
	if !t.sure {
		doubt = ", within the noise"
	}
	return fmt.Sprintf("| %s | %s | %s | **%s**%s |", t.what, t.wanted, t.measured, metOrMissed(t.met), doubt)
}

// atMost holds figures to a bound; the interval is least to most.
func atMost(what string, wanted float64, unit string, v []float64) target {
	least, most := v[0], v[0]
	for _, x := range v {
		least, most = min(least, x), max(most, x)
	}
	met := median(v) <= wanted
	return target{what, strings.TrimSpace("≤ " + number(wanted) + " " + unit), strings.TrimSpace(spread(v) + " " + unit), met, met == (least <= wanted) && met == (most <= wanted)}
}

// targets are those of the project, for the arm in which weft traces.
func (r *results) targets() []target {
	throughput, latency := r.kept(armTrace)
	out := []target{
		{"requests/s, as fast as it goes, to those without an agent", fmt.Sprintf("≥ %.2f×", wantedThroughput), throughput.String(),
			throughput.Mean >= wantedThroughput, (throughput.Low >= wantedThroughput) == (throughput.High >= wantedThroughput)},
		{fmt.Sprintf("p99 at %.0f requests/s, to that without an agent", r.rate), fmt.Sprintf("≤ %.2f×", wantedP99), latency.String(),
			latency.Mean <= wantedP99, (latency.Low <= wantedP99) == (latency.High <= wantedP99)},
	}
	programs := func(h hookReading) float64 {
		_, ns := h.total(0)
		return ns / 1000
	}
	// What the programs take is measured once for all rounds, the agent in each.
	with := func(h hookReading, agent []float64) []float64 {
		for i := range agent {
			agent[i] += programs(h)
		}
		return agent
	}
	half := r.each(armTrace, func(x round) float64 { return x.open.perRequest(x.open.agent) })
	full := r.each(armTrace, func(x round) float64 { return x.closed.perRequest(x.closed.agent) })
	out = append(out,
		atMost(fmt.Sprintf("CPU per request, at %.0f requests/s: BPF programs %s µs, and agent", r.rate, number(programs(r.hooks[armTrace]))),
			wantedCPU, "µs", with(r.hooks[armTrace], half)),
		atMost(fmt.Sprintf("the same as fast as it goes: BPF programs %s µs, and agent", number(programs(r.saturated[armTrace]))),
			wantedCPU, "µs", with(r.saturated[armTrace], full)),
		atMost("CPU of traced program and agent beyond that without an agent, as fast as it goes", wantedCPU, "µs", r.allTold(armTrace)),
		atMost("CPU of everything (untraced ends, too) beyond that without an agent, as fast as it goes", wantedCPU, "µs",
			r.more(armTrace, func(x round) float64 { return x.closed.perRequest(x.closed.told()) })),
		atMost("agent's largest resident set in these loads (at 20,000 requests/s: see the soak)", wantedMemory, "MiB",
			r.each(armTrace, func(x round) float64 { return float64(x.memory) / (1 << 20) })),
		atMost("events lost", 0, "", r.each(armTrace, func(x round) float64 { return x.seen.losses() })))
	return out
}

// kept is what an arm keeps of the throughput as fast as it goes, and how much longer
// its p99 at the fixed rate is.
func (r *results) kept(arm int) (throughput, latency ratio) {
	rate := func(x round) float64 { return x.closed.rate() }
	p99 := func(x round) float64 { return us(x.open.P99) }
	return compare(r.each(arm, rate), r.each(armWithout, rate)), compare(r.each(arm, p99), r.each(armWithout, p99))
}

// more is by how much a figure is larger in an arm than without an agent, round by
// round.
func (r *results) more(arm int, figure func(round) float64) []float64 {
	out, base := r.each(arm, figure), r.each(armWithout, figure)
	for i := range out {
		out[i] -= base[i]
	}
	return out
}

func (r *results) writeTargets(b *strings.Builder) {
	if !r.hop.targets {
		return
	}
	b.WriteString("#### Targets\n\n*Within the noise*: the interval reaches across the bound.\n\n| | wanted | measured | |\n|---|--:|--:|---|\n")
	for _, t := range r.targets() {
		b.WriteString(t.String() + "\n")
	}
	b.WriteString("\n")
	if at := r.budgetAt(); at >= 0 {
		throughput, latency := r.kept(at)
		fmt.Fprintf(b, "What the budget itself does: no agent, and a program that works %.0f µs more for each request, which is what these targets let an agent take. It keeps %s of the requests (wanted: %.2f×) and its p99 is %s (wanted: %.2f×).\n\n",
			wantedCPU, throughput, wantedThroughput, latency, wantedP99)
	}
}

// compared are the arms of the overview: weft tracing, and the peers.
func (r *results) compared() (out []int) {
	for at, a := range r.arms {
		if at == armTrace || a.peer != nil {
			out = append(out, at)
		}
	}
	return out
}

// hopCPU is the CPU time of the traced program and the agent, µs per request, as
// fast as it goes.
func hopCPU(x round) float64 { return x.closed.perRequest(x.closed.traced + x.closed.agent) }

// overview sets the hops beside each other.
func overview(measured []*results, doc, plot string) string {
	var b strings.Builder
	b.WriteString("### Hops\n\n")
	fmt.Fprintf(&b, "One program is traced, between a load generator and a service that are not. Ratios to the same without an agent: geometric mean of the rounds (95 %% confidence interval); CPU is that of the traced program and the agent together.\n\n")
	if plot != "" && doc != "" {
		fmt.Fprintf(&b, "![Throughput and CPU per request of each hop](%s)\n\n", relativeTo(doc, plot))
	}
	b.WriteString("| hop | agent | requests/s, as fast as it goes | p99 at half of it | CPU per request | CPU µs per request | traps per request |\n|---|---|--:|--:|--:|--:|--:|\n")
	for _, r := range measured {
		p99 := func(x round) float64 { return us(x.open.P99) }
		rate := func(x round) float64 { return x.closed.rate() }
		for _, at := range r.compared() {
			traps := "—"
			if n := r.hooks[at].traps(); n > 0 {
				traps = number(n)
			}
			fmt.Fprintf(&b, "| %s | %s | %s | %s | %s | %s → %s | %s |\n", r.hop.title, strings.TrimSuffix(r.arms[at].name, " traces"),
				compare(r.each(at, rate), r.each(armWithout, rate)), compare(r.each(at, p99), r.each(armWithout, p99)),
				compare(r.each(at, hopCPU), r.each(armWithout, hopCPU)), number(median(r.each(armWithout, hopCPU))), number(median(r.each(at, hopCPU))), traps)
		}
	}
	return b.String()
}
