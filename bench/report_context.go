package main

import (
	"cmp"
	"fmt"
	"slices"
	"strings"
	"time"
)

// sampledOutWanted is the most that a request sampled out may cost, as a share of
// one sampled in.
const sampledOutWanted = 1.0 / 3

// beyond is the CPU time, µs per request, that an arm costs server and client more
// than no weft does, round by round, as fast as it goes.
func (r *results) beyond(arm int) []float64 {
	traced := func(x round) float64 { return x.closed.perRequest(x.closed.traced) }
	out, base := r.each(arm, traced), r.each(armWithout, traced)
	for i := range out {
		out[i] -= base[i]
	}
	return out
}

// allTold is that with the agent's own.
func (r *results) allTold(arm int) []float64 {
	out := r.beyond(arm)
	for i, x := range r.rounds[arm] {
		out[i] += x.closed.perRequest(x.closed.agent)
	}
	return out
}

// longer is the time, µs per request, by which an arm's requests/s are fewer than
// without weft: with the processors saturated, all that anybody spends on tracing.
func (r *results) longer(arm int) []float64 {
	took := func(x round) float64 { return 1e6 / x.closed.rate() }
	out, base := r.each(arm, took), r.each(armWithout, took)
	for i := range out {
		out[i] -= base[i]
	}
	return out
}

// shares divides round by round. A round in which noise made the divisor nothing
// or less says nothing and is left out.
func shares(of, by []float64) (out []float64) {
	for i := range of {
		if by[i] > 0 {
			out = append(out, of[i]/by[i])
		}
	}
	return out
}

func (r *results) writeSampledOut(b *strings.Builder) {
	fmt.Fprintf(b, "#### Sampled out\n\n")
	fmt.Fprintf(b, "Head ratio 0 beside ratio 1: the same requests leave with `traceparent` all the same, its sampled flag clear, and there is no event of them. The loads are of the rounds above. What is no ratio of rates is the median of the rounds (least–most); a quotient is taken round by round.\n\n")
	b.WriteString("| | sampled in | sampled out | out to in |\n|---|--:|--:|--:|\n")
	rate := func(x round) float64 { return x.closed.rate() }
	base, in, out := r.each(armWithout, rate), r.each(armTrace, rate), r.each(armSampledOut, rate)
	fmt.Fprintf(b, "| requests/s, as fast as it goes, to those without weft | %s | %s | %s |\n", compare(in, base), compare(out, base), compare(out, in))
	_, kernelIn := r.hooks[armTrace].total(everyRequest)
	_, kernelOut := r.hooks[armSampledOut].total(everyRequest)
	fmt.Fprintf(b, "| BPF programs, ns per request | %s | %s | %.2f× |\n", number(kernelIn), number(kernelOut), kernelOut/kernelIn)
	row := func(name string, in, out []float64) []float64 {
		of := shares(out, in)
		quotient := "not to be told"
		if len(of) > 0 {
			quotient = fmt.Sprintf("%.2f× (%.2f–%.2f)", median(of), slices.Min(of), slices.Max(of))
		}
		fmt.Fprintf(b, "| %s | %s | %s | %s |\n", name, spread(in), spread(out), quotient)
		return of
	}
	agentAt := func(x round) float64 { return x.open.perRequest(x.open.agent) }
	agent := func(x round) float64 { return x.closed.perRequest(x.closed.agent) }
	row(fmt.Sprintf("agent, CPU ms per 1,000 requests, at %.0f requests/s", r.rate), r.each(armTrace, agentAt), r.each(armSampledOut, agentAt))
	row("agent, CPU ms per 1,000 requests, as fast as it goes", r.each(armTrace, agent), r.each(armSampledOut, agent))
	row("server and client, CPU µs per request more than without weft, as fast as it goes", r.beyond(armTrace), r.beyond(armSampledOut))
	cpu := row("**weft's CPU, all told**: the last two, µs per request", r.allTold(armTrace), r.allTold(armSampledOut))
	all := row("**time, all told**: what the requests/s above lose, µs per request, the receiver's work on the spans included", r.longer(armTrace), r.longer(armSampledOut))
	fmt.Fprintf(b, "\nWanted: at most %.2f×. Weft's CPU: %s. Time: %s.\n\n", sampledOutWanted, verdict(cpu), verdict(all))
}

// verdict holds the quotients of the rounds to what is wanted.
func verdict(of []float64) string {
	switch {
	case len(of) == 0:
		return "the rounds differ too much to tell"
	case median(of) <= sampledOutWanted:
		return fmt.Sprintf("**met, %.2f×**", median(of))
	}
	return fmt.Sprintf("**missed, %.2f×**", median(of))
}

func (r *results) writeCarried(b *strings.Builder) {
	if len(r.carried) == 0 {
		return
	}
	fmt.Fprintf(b, "A client asks a server through %d relays, over one connection each. A relay is a program of blocking calls that answers with what it gets for a request of its own and forwards no header; the relays alone are traced. The client brings a `traceparent` and so many bytes of `tracestate` and `baggage`: half of each, but no more than the 512 bytes of `tracestate` that the specification wants carried at least. The sizes fall into the three classes of memory in which weft keeps what it carries (up to 248 bytes, 2,040, more). The server counted every byte: with weft all of them, without it none. Every load is as fast as it goes; ratios are geometric means of the rounds (95 %% confidence interval).\n\n", relayCount)
	var sizes, parts []string
	for _, c := range r.carried {
		tracestate, baggage := split(c.bytes)
		sizes = append(sizes, number0(c.bytes)+" bytes")
		parts = append(parts, number0(tracestate)+" + "+number0(baggage))
	}
	fmt.Fprintf(b, "| | %s |\n|---|%s\n", strings.Join(sizes, " | "), strings.Repeat("--:|", len(sizes)))
	row := func(name string, cell func(c carried) string) {
		fmt.Fprintf(b, "| %s |", name)
		for _, c := range r.carried {
			fmt.Fprintf(b, " %s |", cell(c))
		}
		b.WriteString("\n")
	}
	none := r.carried[0]
	rates := func(v []reading) []float64 { return each(v, reading.rate) }
	relays := func(v []reading) []float64 {
		return each(v, func(x reading) float64 { return x.perRequest(x.traced) })
	}
	agents := func(v []reading) []float64 {
		return each(v, func(x reading) float64 { return x.perRequest(x.agent) })
	}
	fmt.Fprintf(b, "| tracestate + baggage | %s |\n", strings.Join(parts, " | "))
	row("requests/s without weft", func(c carried) string { return spread(rates(c.without)) })
	row("with weft, to that", func(c carried) string { return compare(rates(c.with), rates(c.without)).String() })
	row("without weft, to 0 bytes", func(c carried) string { return compareTo(none, c, rates(c.without), rates(none.without)) })
	row("with weft, to 0 bytes", func(c carried) string { return compareTo(none, c, rates(c.with), rates(none.with)) })
	row("CPU of the relay without weft, µs per request", func(c carried) string { return spread(relays(c.without)) })
	row("with weft, to that", func(c carried) string { return compare(relays(c.with), relays(c.without)).String() })
	row("CPU of the agent, ms per 1,000 requests", func(c carried) string { return spread(agents(c.with)) })
	_, nothing := none.hooks.total(everyRequest)
	row("BPF programs, ns per request", func(c carried) string {
		_, ns := c.hooks.total(everyRequest)
		return number(ns)
	})
	row("of which for what is carried", func(c carried) string {
		_, ns := c.hooks.total(everyRequest)
		if c.bytes == none.bytes {
			return "—"
		}
		return signed(ns - nothing)
	})
	fmt.Fprintf(b, "\nThe BPF programs, by run-time statistics at %.0f requests/s: runs per request × ns per run. Those that see every socket run for the client and the server, too, and return at once; that is in their mean. Relay and server read 4 KiB at a time, so more bytes are more runs. An empty program reads as %.0f ns.\n\n", none.hooks.rate, r.empty)
	fmt.Fprintf(b, "| program | %s |\n|---|%s\n", strings.Join(sizes, " | "), strings.Repeat("--:|", len(sizes)))
	for _, name := range r.carryPrograms() {
		row("`"+name+"`", func(c carried) string {
			at := slices.IndexFunc(c.hooks.hooks, func(k hook) bool { return k.Name == name })
			if at < 0 {
				return "—"
			}
			k := c.hooks.hooks[at]
			return fmt.Sprintf("%.2f × %s", c.hooks.runs(k), number(k.perRun()))
		})
	}
	b.WriteString("\n")
}

// compareTo leaves out the comparison of a size with itself.
func compareTo(none, c carried, with, without []float64) string {
	if c.bytes == none.bytes {
		return "1"
	}
	return compare(with, without).String()
}

// carryPrograms are those that run for requests of any size, the dearest at the
// largest first.
func (r *results) carryPrograms() []string {
	cost := map[string]time.Duration{}
	for _, c := range r.carried {
		for _, k := range c.hooks.hooks {
			if c.hooks.runs(k) >= everyRequest {
				cost[k.Name] = time.Duration(c.hooks.runs(k) * k.perRun())
			}
		}
	}
	var names []string
	for name := range cost {
		names = append(names, name)
	}
	slices.SortFunc(names, func(a, b string) int { return cmp.Or(cmp.Compare(cost[b], cost[a]), cmp.Compare(a, b)) })
	return names
}

// number0 is a whole number with commas between thousands.
func number0(n int) string {
	if n < 100 {
		return fmt.Sprint(n)
	}
	return number(float64(n))
}

func signed(v float64) string {
	if v < 0 {
		return number(v)
	}
	return "+" + number(v)
}
