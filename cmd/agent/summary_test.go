package main

import (
	"bytes"
	"log/slog"
	"strings"
	"testing"

	"github.com/prometheus/client_golang/prometheus"

	"weft/internal/selfstats"
)

// What was lost is told at the end; that nothing was to be written is no loss.
func TestSummary(t *testing.T) {
	for name, c := range map[string]struct {
		counted map[string]float64
		says    []string
		not     string
	}{
		"nothing":       {nil, []string{"weft: stopped; nothing was lost"}, "not seen"},
		"as was wanted": {map[string]float64{"refused off": 8398}, []string{"weft: stopped; nothing was lost"}, "off"},
		"a loss beside": {map[string]float64{"refused off": 3, "refused room": 2, "lost ring_full": 1},
			[]string{"not seen or not delivered", `weft_kernel_refused_total{cause="room"}`, `weft_kernel_lost_total{cause="ring_full"}`}, `"off"`},
	} {
		t.Run(name, func(t *testing.T) {
			var said bytes.Buffer
			a := &agent{stats: selfstats.New(), log: slog.New(slog.DiscardHandler)}
			if err := a.stats.Register(kernelCounts(c.counted)); err != nil {
				t.Fatal(err)
			}
			a.summary(&streams{err: &said})
			for _, want := range c.says {
				if !strings.Contains(said.String(), want) {
					t.Errorf("said %q, want %q", said.String(), want)
				}
			}
			if strings.Contains(said.String(), c.not) {
				t.Errorf("said %q, with %q in it", said.String(), c.not)
			}
		})
	}
}

// kernelCounts are metrics of the kernel side, with their cause.
type kernelCounts map[string]float64

func (kernelCounts) Describe(chan<- *prometheus.Desc) {}

func (k kernelCounts) Collect(out chan<- prometheus.Metric) {
	for of, n := range k {
		metric, cause, _ := strings.Cut(of, " ")
		counter(out, "weft_kernel_"+metric+"_total", kernelHelp(metric), n, "cause", cause)
	}
}
