package main

import (
	"github.com/prometheus/client_golang/prometheus"

	"weft/loader"
)

// kernelCollector shows the kernel's counters on /metrics.
type kernelCollector struct{ loader *loader.Loader }

// Describe sends nothing: the names come from the BPF object at run time.
func (kernelCollector) Describe(chan<- *prometheus.Desc) {}

func (k kernelCollector) Collect(out chan<- prometheus.Metric) {
	counts, err := k.loader.Counts()
	if err != nil {
		out <- prometheus.NewInvalidMetric(prometheus.NewDesc("weft_kernel", "kernel counters", nil, nil), err)
		return
	}
	descs := map[string]*prometheus.Desc{}
	for _, c := range counts {
		d := descs[c.Metric]
		if d == nil {
			d = prometheus.NewDesc("weft_kernel_"+c.Metric+"_total", kernelHelp(c.Metric), []string{"cause"}, nil)
			descs[c.Metric] = d
		}
		out <- prometheus.MustNewConstMetric(d, prometheus.CounterValue, float64(c.Value), c.Cause)
	}
	out <- prometheus.MustNewConstMetric(prometheus.NewDesc("weft_processes_selected", "Processes traced now.", nil, nil),
		prometheus.GaugeValue, float64(k.loader.Selected()))
}

func kernelHelp(metric string) string {
	switch metric {
	case "events":
		return "Records handed to the event ring."
	case "tracestate":
		return "Inbound tracestate, by outcome."
	case "baggage":
		return "Inbound baggage: headers kept, members left out or made of other headers."
	case "written":
		return "Requests into which weft wrote more than traceparent, by header."
	case "withheld":
		return "Headers that did not leave, by policy or for want of space."
	case "limited":
		return "Roots sampled out by sampling.max_per_second."
	case "lost":
		return "Records, connections or contexts that did not fit, by cause."
	case "skipped":
		return "Sends and receives whose bytes were not read, by cause."
	case "desync":
		return "Connections that fell out of step and wait for a boundary, by cause."
	case "resync":
		return "Connections followed again after a whole response was seen."
	case "handsoff":
		return "Connections left alone for good, by cause."
	case "requests":
		return "Request heads completed, by role."
	case "unsampled":
		return "Exchanges that the head sampler left out, by role."
	case "context":
		return "Inbound traceparent of server requests, by outcome."
	case "parent":
		return "Parents of client requests, by the rule that decided."
	case "injected":
		return "Requests into which weft wrote traceparent, by tier."
	case "refused":
		return "Requests weft left unedited, by the guard that refused."
	case "migrates":
		return "Processes found to move requests between threads."
	case "sockhash":
		return "Client sockets put where their sends are seen."
	}
	return "Kernel counter."
}
