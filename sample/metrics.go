package sample

import (
	"github.com/prometheus/client_golang/prometheus"

	"weft/internal/selfstats"
)

// early says why a trace was decided before it was quiet for Options.Wait.
const (
	earlyFull  = iota // MaxSpans are held
	earlyLarge        // it alone holds the most one trace may
	earlyLong         // its spans kept coming for too long
	earlyCauses
)

var earlyNames = [earlyCauses]string{earlyFull: "full", earlyLarge: "trace_large", earlyLong: "trace_long"}

// counters are resolved once; the hot path looks none of them up.
type counters struct {
	traces, spans         [reasons]selfstats.Counter
	early                 [earlyCauses]selfstats.Counter
	lateKept, lateDropped selfstats.Counter
	displaced, afterClose selfstats.Counter
	held, capacity        selfstats.Gauge
}

func newCounters(stats *selfstats.Stats) (*counters, error) {
	byReason := []string{"decision", "reason"}
	traces := prometheus.NewCounterVec(prometheus.CounterOpts{
		Name: "weft_tail_traces_total",
		Help: "Traces decided by tail sampling, by decision (kept, sampled_out) and what decided.",
	}, byReason)
	spans := prometheus.NewCounterVec(prometheus.CounterOpts{
		Name: "weft_tail_spans_total",
		Help: "Spans of decided traces, late ones included, by decision (kept, sampled_out) and what decided.",
	}, byReason)
	early := prometheus.NewCounterVec(prometheus.CounterOpts{
		Name: "weft_tail_early_total",
		Help: "Traces decided before they were quiet, by cause.",
	}, []string{"cause"})
	late := prometheus.NewCounterVec(prometheus.CounterOpts{
		Name: "weft_tail_late_spans_total",
		Help: "Spans that came after their trace was decided, by decision (kept, sampled_out).",
	}, []string{"decision"})
	displaced := prometheus.NewCounter(prometheus.CounterOpts{
		Name: "weft_tail_routes_displaced_total",
		Help: "Routes in use that were forgotten to make room; for a minute no new route counts as rare.",
	})
	held := prometheus.NewGauge(prometheus.GaugeOpts{
		Name: "weft_tail_held_spans",
		Help: "Spans whose trace is not decided yet.",
	})
	capacity := prometheus.NewGauge(prometheus.GaugeOpts{
		Name: "weft_tail_capacity_spans",
		Help: "Spans tail sampling holds before traces are decided early.",
	})
	c := &counters{
		lateKept:    late.WithLabelValues(kept(true)),
		lateDropped: late.WithLabelValues(kept(false)),
		displaced:   displaced,
		afterClose:  stats.Dropped("sample", "after_close"),
		held:        held,
		capacity:    capacity,
	}
	for r := keptError; r < reasons; r++ {
		c.traces[r] = traces.WithLabelValues(kept(r != dropped), reasonNames[r])
		c.spans[r] = spans.WithLabelValues(kept(r != dropped), reasonNames[r])
	}
	for cause, name := range earlyNames {
		c.early[cause] = early.WithLabelValues(name)
	}
	for _, m := range []prometheus.Collector{traces, spans, early, late, displaced, held, capacity} {
		if err := stats.Register(m); err != nil {
			return nil, err
		}
	}
	return c, nil
}

func kept(yes bool) string {
	if yes {
		return "kept"
	}
	return "sampled_out"
}
