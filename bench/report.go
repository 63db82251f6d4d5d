package main

import (
	"fmt"
	"maps"
	"runtime"
	"slices"
	"strings"
	"time"
)

// each is one figure of every round of an arm.
func (r *results) each(arm int, figure func(round) float64) []float64 {
	return each(r.rounds[arm], figure)
}

func each[T any](rounds []T, figure func(T) float64) []float64 {
	out := make([]float64, len(rounds))
	for i, x := range rounds {
		out[i] = figure(x)
	}
	return out
}

// spread is the median of some figures, with the least and the largest.
func spread(v []float64) string {
	return fmt.Sprintf("%s (%s–%s)", number(median(v)), number(slices.Min(v)), number(slices.Max(v)))
}

func (x ratio) String() string {
	if !(x.High < 100*x.Low) {
		return fmt.Sprintf("%.2f× (no telling)", x.Mean) // two rounds, and a busy machine
	}
	return fmt.Sprintf("%.2f× (%.2f–%.2f)", x.Mean, x.Low, x.High)
}

// markdown is a section of the document.
func (r *results) markdown() string {
	var b strings.Builder
	switch {
	case r.hop != nil:
		fmt.Fprintf(&b, "### Hop: %s\n\n%s%s\n\n", r.hop.title, r.hop.about, r.note)
		r.writeMachine(&b)
		r.writeComparison(&b)
		r.writeTargets(&b)
		r.writeHooks(&b)
	case len(r.rounds) > 0:
		fmt.Fprintf(&b, "### Nothing but tracing\n\nServer and client, both traced: the worst case.\n\n")
		r.writeMachine(&b)
		r.writeComparison(&b)
		r.writeHooks(&b)
		r.writeSampledOut(&b)
	case len(r.carried) > 0:
		fmt.Fprintf(&b, "### Carrying tracestate and baggage\n\n")
		r.writeMachine(&b)
		r.writeCarried(&b)
	case len(r.traps) > 0:
		fmt.Fprintf(&b, "### Traps\n\n")
		r.writeMachine(&b)
		r.writeTraps(&b)
	case len(r.soaks) > 0:
		fmt.Fprintf(&b, "### Soak\n\n")
		r.writeMachine(&b)
		r.writeSoak(&b)
	}
	return b.String()
}

// writeMachine says what the figures hold for: each section may be of another day.
func (r *results) writeMachine(b *strings.Builder) {
	m := r.machine
	fmt.Fprintf(b, "%s: %s, %d cores", m.date, m.cpu, m.cores)
	if m.virtual {
		b.WriteString(" of a virtual machine")
	}
	fmt.Fprintf(b, ", %.0f GiB, Linux %s, lockdown %s", float64(m.memory)/(1<<30), m.kernel, m.lockdown)
	if m.capture != "" {
		fmt.Fprintf(b, ", capture %s", m.capture)
	}
	fmt.Fprintf(b, "; %s", runtime.Version())
	if r.settings.header > 0 {
		fmt.Fprintf(b, "; a further request header of %d bytes", r.settings.header)
	}
	if len(r.rounds) > 0 {
		others, steal := r.noise()
		fmt.Fprintf(b, "; %d connections; %d rounds of each column, %v of each load; meanwhile other processes had %.1f %% of the CPU, and the hypervisor withheld %.1f %%",
			r.conns, r.settings.rounds, r.phase, 100*others, 100*steal)
	}
	b.WriteString(".\n\n")
}

// noise is how much of the machine others had while loads were measured.
func (r *results) noise() (others, steal float64) {
	var length, o, s time.Duration
	for _, rounds := range r.rounds {
		for _, x := range rounds {
			for _, u := range []usage{x.closed.usage, x.open.usage} {
				length += u.length
				o += u.others()
				s += u.steal
			}
		}
	}
	cores := float64(r.machine.cores)
	return float64(o) / float64(length) / cores, float64(s) / float64(length) / cores
}

// figure is a row of the comparison.
type figure struct {
	name, unit string
	of         func(round) float64
	ratio      bool // beside the first column; else as it is, of agents only
}

func us(d time.Duration) float64 { return float64(d) / float64(time.Microsecond) }

func (r *results) figures() []figure {
	at := fmt.Sprintf("at %.0f requests/s", r.rate)
	const most = "as fast as it goes"
	who := "server and client"
	if r.hop != nil {
		who = "the traced program"
	}
	rows := []figure{
		{"requests/s, " + most, "", func(x round) float64 { return x.closed.rate() }, true},
		{"p50 " + at, "µs", func(x round) float64 { return us(x.open.P50) }, true},
		{"p99 " + at, "µs", func(x round) float64 { return us(x.open.P99) }, true},
		{"p99.9 " + at, "µs", func(x round) float64 { return us(x.open.P999) }, true},
		{"CPU of " + who + " per request, " + at, "µs", func(x round) float64 { return x.open.perRequest(x.open.traced) }, true},
		{"CPU of " + who + " per request, " + most, "µs", func(x round) float64 { return x.closed.perRequest(x.closed.traced) }, true},
	}
	if r.hop != nil {
		rows = append(rows,
			figure{"CPU of both untraced ends per request, " + most, "µs", func(x round) float64 { return x.closed.perRequest(x.closed.plain) }, true},
			figure{"CPU of all of it, agent included, per request, " + at, "µs", func(x round) float64 { return x.open.perRequest(x.open.told()) }, true},
			figure{"CPU of all of it, agent included, per request, " + most, "µs", func(x round) float64 { return x.closed.perRequest(x.closed.told()) }, true})
	}
	return append(rows,
		figure{"agent: CPU ms per 1,000 requests, " + at, "", func(x round) float64 { return x.open.perRequest(x.open.agent) }, false},
		figure{"agent: CPU ms per 1,000 requests, " + most, "", func(x round) float64 { return x.closed.perRequest(x.closed.agent) }, false},
		figure{"agent: largest resident set, MiB", "", func(x round) float64 { return float64(x.memory) / (1 << 20) }, false},
		figure{"spans delivered per request", "", func(x round) float64 { return x.seen.perRequest(x.seen.spans) }, false},
		figure{"requests that left with one `traceparent`, per request", "", func(x round) float64 { return x.seen.perRequest(x.seen.traceparent) }, false},
		figure{"events lost, by the agent's count", "", func(x round) float64 { return x.seen.losses() }, false})
}

func (r *results) writeComparison(b *strings.Builder) {
	fmt.Fprintf(b, "The first column is measured: median of the rounds (least–most). Beside it `×` is a ratio to that: geometric mean of the rounds (95 %% confidence interval); the agent's own figures are medians (least–most).\n\n")
	columns := r.columns()
	b.WriteString("| |")
	for _, at := range columns {
		fmt.Fprintf(b, " %s |", r.arms[at].name)
	}
	b.WriteString("\n|---|" + strings.Repeat("--:|", len(columns)) + "\n")
	for _, f := range r.figures() {
		base := r.each(armWithout, f.of)
		if f.ratio {
			fmt.Fprintf(b, "| %s | %s (%s–%s) |", f.name, strings.TrimSpace(number(median(base))+" "+f.unit), number(slices.Min(base)), number(slices.Max(base)))
		} else {
			fmt.Fprintf(b, "| %s | |", f.name)
		}
		for _, at := range columns[1:] {
			switch values := r.each(at, f.of); {
			case f.ratio:
				fmt.Fprintf(b, " %s |", compare(values, base))
			case strings.HasPrefix(f.name, "events lost") && r.arms[at].peer != nil:
				b.WriteString(" not known |")
			default:
				fmt.Fprintf(b, " %s |", spread(values))
			}
		}
		b.WriteString("\n")
	}
	b.WriteString("\n")
	for _, at := range columns {
		late, measured := 0.0, 0.0
		for _, x := range r.rounds[at] {
			late += float64(x.open.Late)
			measured += float64(x.open.Measured)
		}
		if late > 0.01*measured {
			fmt.Fprintf(b, "Not sustained: %s, %.0f %% of the requests at the fixed rate were unanswered at its end; its latencies are those of a growing queue.\n\n", r.arms[at].name, 100*late/measured)
		}
	}
}

func (r *results) writeHooks(b *strings.Builder) {
	fmt.Fprintf(b, "#### Hooks\n\nBPF run-time statistics at %.0f requests/s, in runs of their own: measuring costs time too. An empty program reads as %.0f ns; that is in every run below. What it costs to reach a program is not.\n\n", r.rate, r.empty)
	for _, at := range slices.Sorted(maps.Keys(r.hooks)) {
		h := r.hooks[at]
		if len(h.hooks) == 0 {
			fmt.Fprintf(b, "%s: its processes hold no BPF program that ran.\n\n", capital(r.arms[at].name))
			continue
		}
		entries := ""
		fmt.Fprintf(b, "%s:\n\n| program | kind | runs per request | ns per run | ns per request |\n|---|---|--:|--:|--:|\n", capital(r.arms[at].name))
		for _, k := range h.hooks {
			perRequest := h.runs(k)
			if perRequest < oftenEnough {
				continue
			}
			fmt.Fprintf(b, "| `%s` | %s | %.2f | %s | %s |\n", k.Name, k.Kind, perRequest, number(k.perRun()), number(perRequest*k.perRun()))
		}
		if traps := h.traps(); traps > 0 {
			entries = fmt.Sprintf("**%.2f traps per request**: runs of `%s…`, one for each probe hit. Reaching them is not in their time; see [traps](#traps).\n\n", traps, entryPrefix)
		}
		runs, total := h.total(0)
		fmt.Fprintf(b, "| all | | %.2f | | %s |\n\n%s", runs, number(total), entries)
		for _, k := range h.hooks {
			if k.Skipped > 0 {
				fmt.Fprintf(b, "`%s` was left out %d times because it was running on that CPU already.\n\n", k.Name, k.Skipped)
			}
		}
	}
}

// reached says whether a soak was at the rate asked for.
func (r *results) reached(n int) bool { return r.soaks[n].rate() >= 0.99*r.soakRate }

func (r *results) writeSoak(b *strings.Builder) {
	programs := map[string]string{"both ends": "Client and server, both traced", "one end": "A traced server, and a client that is not"}
	for _, s := range r.soaks {
		fmt.Fprintf(b, "%s, ", programs[s.of])
		if s.wanted > 0 {
			fmt.Fprintf(b, "%s requests/s wanted for %v: %s reached, ", number(s.wanted), r.settings.soak, number(s.rate()))
		} else {
			fmt.Fprintf(b, "together with agent and receiver, do not reach %s requests/s on this machine; as fast as they go for %v: %s requests/s, ",
				number(r.soakRate), r.settings.soak, number(s.rate()))
		}
		fmt.Fprintf(b, "%d requests, %d spans, **%.0f events lost**, largest resident set %.0f MiB.\n\n", s.Sent, s.spans*s.Sent, s.losses(), s.mebibytes())
		if len(s.lost) > 0 {
			fmt.Fprintf(b, "Lost: %s\n\n", s.lost.text())
		}
		if len(s.unseen) > 0 {
			fmt.Fprintf(b, "Counted besides: %s\n\n", s.unseen.text())
		}
	}
	// The last soak is the one at the rate, if any is.
	last := len(r.soaks) - 1
	s := r.soaks[last]
	met := "**" + metOrMissed(s.mebibytes() <= wantedMemory) + "**"
	if !r.reached(last) {
		met = fmt.Sprintf("not decided: %s requests/s were not reached here; at %s %s", number(r.soakRate), number(s.rate()), met)
	}
	lost := 0.0
	for _, s := range r.soaks {
		lost += s.losses()
	}
	b.WriteString("| target | wanted | measured | |\n|---|--:|--:|---|\n")
	fmt.Fprintf(b, "| agent's largest resident set at %s requests/s | ≤ %.0f MiB | %.1f MiB | %s |\n", number(r.soakRate), wantedMemory, s.mebibytes(), met)
	fmt.Fprintf(b, "| events lost | 0 | %.0f | **%s** |\n", lost, metOrMissed(lost == 0))
}

func (s soakReading) mebibytes() float64 { return float64(s.memory) / (1 << 20) }

func (s soakReading) losses() (total float64) {
	for _, v := range s.lost {
		total += v
	}
	return total
}

// text lists samples in the order of their names.
func (s samples) text() string {
	var out []string
	for name, v := range s {
		out = append(out, fmt.Sprintf("%s %.0f", name, v))
	}
	slices.Sort(out)
	return strings.Join(out, ", ")
}

func capital(s string) string { return strings.ToUpper(s[:1]) + s[1:] }

// number has about three digits, and commas between thousands.
func number(v float64) string {
	switch {
	case v < 0:
		return "−" + number(-v)
	case v < 10:
		return fmt.Sprintf("%.2f", v)
	case v < 100:
		return fmt.Sprintf("%.1f", v)
	}
	digits := fmt.Sprintf("%.0f", v)
	for at := len(digits) - 3; at > 0; at -= 3 {
		digits = digits[:at] + "," + digits[at:]
	}
	return digits
}
