package main

import (
	"fmt"
	"os"
	"runtime"
	"slices"
	"strings"
	"time"
)

// Markers around what the benchmark writes in the document.
const (
	sectionBegin = "<!-- make bench writes from here -->"
	sectionEnd   = "<!-- to here -->"
)

// writeSection replaces what is between the markers of a document.
func writeSection(path, text string) error {
	raw, err := os.ReadFile(path)
	if err != nil {
		return fmt.Errorf("open the document: %w", err)
	}
	before, rest, ok := strings.Cut(string(raw), sectionBegin)
	_, after, ok2 := strings.Cut(rest, sectionEnd)
	if !ok || !ok2 {
		return fmt.Errorf("%s has no section for the table: put a line %q and a line %q there", path, sectionBegin, sectionEnd)
	}
	out := before + sectionBegin + "\n\n" + strings.TrimSpace(text) + "\n\n" + sectionEnd + after
	if err := os.WriteFile(path, []byte(out), 0o644); err != nil {
		return fmt.Errorf("write the table: %w", err)
	}
	return nil
}

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

// columns are the arms that the tables compare; armSampledOut has its own.
func (r *results) columns() []arm { return r.arms[:armSampledOut] }

// spread is the median of some figures, with the least and the largest.
func spread(v []float64) string {
	return fmt.Sprintf("%s (%s–%s)", number(median(v)), number(slices.Min(v)), number(slices.Max(v)))
}

func (x ratio) String() string { return fmt.Sprintf("%.2f× (%.2f–%.2f)", x.Mean, x.Low, x.High) }

// markdown is the generated section.
func (r *results) markdown() string {
	var b strings.Builder
	r.writeMachine(&b)
	r.writeComparison(&b)
	r.writeAgent(&b)
	r.writeHooks(&b)
	r.writeSampledOut(&b)
	r.writeCarried(&b)
	r.writeSoak(&b)
	return b.String()
}

func (r *results) writeMachine(b *strings.Builder) {
	m := r.machine
	virtual := ""
	if m.virtual {
		virtual = ", in a virtual machine"
	}
	header := ""
	if r.settings.header > 0 {
		header = fmt.Sprintf("a further request header of %d bytes, ", r.settings.header)
	}
	others, steal := r.noise()
	fmt.Fprintf(b, "### Machine\n\n")
	fmt.Fprintf(b, "| | |\n|---|---|\n")
	fmt.Fprintf(b, "| CPU | %s, %d cores%s, %.0f GiB |\n", m.cpu, m.cores, virtual, float64(m.memory)/(1<<30))
	fmt.Fprintf(b, "| kernel | %s, lockdown: %s |\n", m.kernel, m.lockdown)
	fmt.Fprintf(b, "| capture | %s |\n", m.capture)
	fmt.Fprintf(b, "| load | HTTP/1.1 keep-alive, %s net/http on both ends, %d connections, %s%d-byte bodies; %d rounds of each column, interleaved, %v of each load |\n",
		runtime.Version(), r.conns, header, len(page), r.settings.rounds, r.phase)
	fmt.Fprintf(b, "| quiet | load average %s at the start; during the rounds other processes had %.1f %% of the CPU, the hypervisor withheld %.1f %% |\n", m.load, 100*others, 100*steal)
	fmt.Fprintf(b, "| date | %s |\n\n", m.date)
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

// figures are the rows of the comparison.
func (r *results) figures() []struct {
	name, unit string
	of         func(round) float64
} {
	us := func(d time.Duration) float64 { return float64(d) / float64(time.Microsecond) }
	at := fmt.Sprintf("at %.0f requests/s", r.rate)
	return []struct {
		name, unit string
		of         func(round) float64
	}{
		{"requests/s, as fast as it goes", "", func(x round) float64 { return x.closed.rate() }},
		{"p50 " + at, "µs", func(x round) float64 { return us(x.open.P50) }},
		{"p99 " + at, "µs", func(x round) float64 { return us(x.open.P99) }},
		{"p99.9 " + at, "µs", func(x round) float64 { return us(x.open.P999) }},
		{"CPU of server and client per request, " + at, "µs", func(x round) float64 { return x.open.perRequest(x.open.traced) }},
		{"CPU of server and client per request, as fast as it goes", "µs", func(x round) float64 { return x.closed.perRequest(x.closed.traced) }},
	}
}

func (r *results) writeComparison(b *strings.Builder) {
	fmt.Fprintf(b, "### Requests\n\n")
	fmt.Fprintf(b, "The first column is measured; the others are ratios to it: geometric mean of the rounds (95 %% confidence interval).\n\n")
	b.WriteString("| |")
	for _, a := range r.columns() {
		fmt.Fprintf(b, " %s |", a.name)
	}
	b.WriteString("\n|---|" + strings.Repeat("--:|", len(r.columns())) + "\n")
	for _, f := range r.figures() {
		base := r.each(armWithout, f.of)
		fmt.Fprintf(b, "| %s | %s (%s–%s) |", f.name, strings.TrimSpace(number(median(base))+" "+f.unit), number(slices.Min(base)), number(slices.Max(base)))
		for at := range r.columns()[1:] {
			fmt.Fprintf(b, " %s |", compare(r.each(at+1, f.of), base))
		}
		b.WriteString("\n")
	}
	b.WriteString("\n")
	for at, a := range r.columns() {
		late, measured := 0.0, 0.0
		for _, x := range r.rounds[at] {
			late += float64(x.open.Late)
			measured += float64(x.open.Measured)
		}
		if late > 0.01*measured {
			fmt.Fprintf(b, "Not sustained: %s, %.0f %% of the requests at the fixed rate were unanswered at its end; its latencies are those of a growing queue.\n\n", a.name, 100*late/measured)
		}
	}
}

func (r *results) writeAgent(b *strings.Builder) {
	fmt.Fprintf(b, "### Agent\n\nMedian of the rounds (least–most). A request is two spans, delivered over OTLP/gRPC to a process that only counts them.\n\n")
	b.WriteString("| |")
	for _, a := range r.columns()[1:] {
		fmt.Fprintf(b, " %s |", a.name)
	}
	b.WriteString("\n|---|" + strings.Repeat("--:|", len(r.columns())-1) + "\n")
	rows := []struct {
		name string
		of   func(round) float64
	}{
		{fmt.Sprintf("CPU ms per 1,000 requests, at %.0f requests/s", r.rate), func(x round) float64 { return x.open.perRequest(x.open.agent) }},
		{"CPU ms per 1,000 requests, as fast as it goes", func(x round) float64 { return x.closed.perRequest(x.closed.agent) }},
		{"largest resident set, MiB (at most 64 wanted)", func(x round) float64 { return float64(x.memory) / (1 << 20) }},
	}
	for _, row := range rows {
		fmt.Fprintf(b, "| %s |", row.name)
		for at := range r.columns()[1:] {
			fmt.Fprintf(b, " %s |", spread(r.each(at+1, row.of)))
		}
		b.WriteString("\n")
	}
	b.WriteString("\n")
}

func (r *results) writeHooks(b *strings.Builder) {
	fmt.Fprintf(b, "### Hooks\n\nBPF run-time statistics at %.0f requests/s, in runs of their own: measuring costs time too. An empty program reads as %.0f ns; that is in every run below. What it costs to reach a program is not.\n\n", r.rate, r.empty)
	for _, at := range []int{armTrace, armSampledOut, armOthers} {
		h := r.hooks[at]
		fmt.Fprintf(b, "%s:\n\n| program | kind | runs per request | ns per run | ns per request |\n|---|---|--:|--:|--:|\n", capital(r.arms[at].name))
		for _, k := range h.hooks {
			perRequest := h.runs(k)
			if perRequest < oftenEnough {
				continue
			}
			fmt.Fprintf(b, "| `%s` | %s | %.2f | %s | %s |\n", k.Name, k.Kind, perRequest, number(k.perRun()), number(perRequest*k.perRun()))
		}
		runs, total := h.total(0)
		fmt.Fprintf(b, "| all | | %.2f | | %s |\n\n", runs, number(total))
		for _, k := range h.hooks {
			if k.Skipped > 0 {
				fmt.Fprintf(b, "`%s` was left out %d times because it was running on that CPU already.\n\n", k.Name, k.Skipped)
			}
		}
	}
}

func (r *results) writeSoak(b *strings.Builder) {
	s := r.soak
	if s == nil {
		return
	}
	fmt.Fprintf(b, "### Soak\n\n")
	if s.wanted > 0 {
		fmt.Fprintf(b, "%s requests/s wanted for %v: %s reached, ", number(s.wanted), r.settings.soak, number(s.rate()))
	} else {
		fmt.Fprintf(b, "Server, client, agent and sink together do not reach %s requests/s on this machine; as fast as they go for %v: %s requests/s, ",
			number(r.soakRate), r.settings.soak, number(s.rate()))
	}
	lost := 0.0
	for _, v := range s.lost {
		lost += v
	}
	fmt.Fprintf(b, "%d requests, %d spans, **%.0f events lost**, largest resident set %.0f MiB.\n", s.Sent, 2*s.Sent, lost, float64(s.memory)/(1<<20))
	if len(s.lost) > 0 {
		fmt.Fprintf(b, "\nLost: %s\n", s.lost.text())
	}
	if len(s.unseen) > 0 {
		fmt.Fprintf(b, "\nCounted besides: %s\n", s.unseen.text())
	}
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
