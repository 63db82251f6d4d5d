// Package selfstats is how weft observes itself: counters with a cause for
// every drop, gauges for every bounded queue, and the HTTP endpoints /metrics,
// /healthz and /readyz. It is a leaf that the middle packages and cmd/agent
// share; it imports nothing of weft.
package selfstats

import (
	"fmt"
	"sort"
	"strings"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/collectors"
	dto "github.com/prometheus/client_model/go"
)

// Stats owns a private registry: nothing is registered globally, so tests and
// several agents in one process do not meet. Its methods are safe for
// concurrent use. Callers on a hot path ask for a counter once and keep it.
type Stats struct {
	registry    *prometheus.Registry
	dropped     *prometheus.CounterVec
	spans       *prometheus.CounterVec
	parents     *prometheus.CounterVec
	queueLength *prometheus.GaugeVec
	queueLimit  *prometheus.GaugeVec
	exported    *prometheus.CounterVec
	attempts    *prometheus.CounterVec
	openGauge   prometheus.Gauge
	unknown     prometheus.Counter
}

// Counter is what the middle packages hold, so that they need not know who
// collects. It is safe for concurrent use.
type Counter = prometheus.Counter

// Gauge is a Counter that also goes down.
type Gauge = prometheus.Gauge

// Value reads a counter, for a summary or a test; 0 if it cannot be read.
func Value(c Counter) float64 {
	var m dto.Metric
	if err := c.Write(&m); err != nil {
		return 0
	}
	return m.GetCounter().GetValue()
}

// New returns Stats with the Go and process collectors registered.
func New() *Stats {
	s := &Stats{
		registry: prometheus.NewRegistry(),
		dropped: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "weft_dropped_total",
			Help: "Items weft saw and did not deliver, by stage and cause.",
		}, []string{"stage", "cause"}),
		spans: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "weft_spans_total",
			Help: "Spans finished by the correlator, by kind (server, client).",
		}, []string{"kind"}),
		parents: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "weft_span_parents_total",
			Help: "Finished spans by the rule that decided their parent.",
		}, []string{"rule"}),
		queueLength: prometheus.NewGaugeVec(prometheus.GaugeOpts{
			Name: "weft_export_queue_spans",
			Help: "Spans waiting in an exporter's queue, those being sent included.",
		}, []string{"exporter"}),
		queueLimit: prometheus.NewGaugeVec(prometheus.GaugeOpts{
			Name: "weft_export_queue_capacity_spans",
			Help: "Spans an exporter's queue holds before new ones are dropped.",
		}, []string{"exporter"}),
		exported: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "weft_exported_spans_total",
			Help: "Spans an exporter delivered.",
		}, []string{"exporter"}),
		attempts: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "weft_export_requests_total",
			Help: "Export requests by result: ok, retried (the spans are kept), refused (the spans are dropped).",
		}, []string{"exporter", "result"}),
		openGauge: prometheus.NewGauge(prometheus.GaugeOpts{
			Name: "weft_open_exchanges",
			Help: "Requests whose response has not ended yet.",
		}),
		unknown: prometheus.NewCounter(prometheus.CounterOpts{
			Name: "weft_spans_process_unknown_total",
			Help: "Finished spans whose process was not known; they are exported without its attributes.",
		}),
	}
	s.registry.MustRegister(
		collectors.NewGoCollector(),
		collectors.NewProcessCollector(collectors.ProcessCollectorOpts{}),
		s.dropped, s.spans, s.parents, s.queueLength, s.queueLimit,
		s.exported, s.attempts, s.openGauge, s.unknown,
	)
	return s
}

// Register adds a collector to /metrics. Its counters appear in Summary too
// when their names say that they count a loss (see Summary).
func (s *Stats) Register(c prometheus.Collector) error {
	if err := s.registry.Register(c); err != nil {
		return fmt.Errorf("register metrics: %w", err)
	}
	return nil
}

// Dropped counts items lost in a stage (correlate, otlp, tree, json, …) for a
// cause. The counter exists, at zero, from the first call on.
func (s *Stats) Dropped(stage, cause string) Counter {
	return s.dropped.WithLabelValues(stage, cause)
}

// Spans counts finished spans of a kind: server, client, unknown.
func (s *Stats) Spans(kind string) Counter { return s.spans.WithLabelValues(kind) }

// Parents counts finished spans whose parent was decided by rule.
func (s *Stats) Parents(rule string) Counter { return s.parents.WithLabelValues(rule) }

// ProcessUnknown counts spans that no process could be attached to.
func (s *Stats) ProcessUnknown() Counter { return s.unknown }

// OpenExchanges is the number of requests waiting for their response.
func (s *Stats) OpenExchanges() Gauge { return s.openGauge }

// QueueLength is the number of spans in an exporter's queue.
func (s *Stats) QueueLength(exporter string) Gauge {
	return s.queueLength.WithLabelValues(exporter)
}

// QueueCapacity is the bound of an exporter's queue, in spans.
func (s *Stats) QueueCapacity(exporter string) Gauge {
	return s.queueLimit.WithLabelValues(exporter)
}

// Exported counts spans an exporter delivered.
func (s *Stats) Exported(exporter string) Counter {
	return s.exported.WithLabelValues(exporter)
}

// ExportRequests counts export requests by result: ok, retried, refused.
func (s *Stats) ExportRequests(exporter, result string) Counter {
	return s.attempts.WithLabelValues(exporter, result)
}

// Row is one counter for the shutdown summary.
type Row struct {
	Name  string // as on /metrics: weft_dropped_total{cause="queue_full",stage="otlp"}
	Value float64
}

// lossSuffixes mark the counters that count something not done. A collector
// given to Register joins the summary by using one of them.
var lossSuffixes = []string{
	"dropped_total", "lost_total", "refused_total", "skipped_total", "failed_total", "errors_total",
	"missed_runs_total",
}

// Summary returns every non-zero counter that counts a loss, its own and those
// of registered collectors, sorted by name: counters named weft_… ending in
// dropped_total, lost_total, refused_total, skipped_total, failed_total,
// errors_total or missed_runs_total. Rows that could be read are returned
// together with the error of those that could not.
func (s *Stats) Summary() ([]Row, error) {
	families, err := s.registry.Gather()
	if err != nil {
		err = fmt.Errorf("gather metrics: %w", err)
	}
	var rows []Row
	for _, f := range families {
		if !countsLoss(f) {
			continue
		}
		for _, m := range f.GetMetric() {
			if v := m.GetCounter().GetValue(); v != 0 {
				rows = append(rows, Row{Name: f.GetName() + labels(m), Value: v})
			}
		}
	}
	sort.Slice(rows, func(i, j int) bool { return rows[i].Name < rows[j].Name })
	return rows, err
}

func countsLoss(f *dto.MetricFamily) bool {
	if f.GetType() != dto.MetricType_COUNTER || !strings.HasPrefix(f.GetName(), "weft_") {
		return false
	}
	for _, suffix := range lossSuffixes {
		if strings.HasSuffix(f.GetName(), suffix) {
			return true
		}
	}
	return false
}

func labels(m *dto.Metric) string {
	if len(m.GetLabel()) == 0 {
		return ""
	}
	pairs := make([]string, 0, len(m.GetLabel()))
	for _, l := range m.GetLabel() {
		pairs = append(pairs, fmt.Sprintf("%s=%q", l.GetName(), l.GetValue()))
	}
	sort.Strings(pairs)
	return "{" + strings.Join(pairs, ",") + "}"
}
