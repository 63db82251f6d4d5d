package main

import (
	"errors"
	"runtime"

	"github.com/prometheus/client_golang/prometheus"

	"weft/loader"
)

// Metrics of what weft is, and of what the loader knows. docs/metrics.md names
// them all; TestMetricsDocumented holds it to that.

// newBuildInfo is 1, with what was built.
func newBuildInfo() prometheus.Collector {
	return prometheus.NewGaugeFunc(prometheus.GaugeOpts{
		Name: "weft_build_info",
		Help: "1, labelled with the version of weft, the revision of its source, and the Go that built it.",
		ConstLabels: prometheus.Labels{"version": version, "revision": commit(),
			"goversion": runtime.Version(), "goos": runtime.GOOS, "goarch": runtime.GOARCH},
	}, func() float64 { return 1 })
}

// kernelCollector shows what the loader knows on /metrics.
type kernelCollector struct {
	loader *loader.Loader
}

func newKernelCollector(l *loader.Loader) kernelCollector {
	return kernelCollector{loader: l}
}

// Describe sends nothing: the names of the kernel's counters come from the BPF
// object at run time.
func (kernelCollector) Describe(chan<- *prometheus.Desc) {}

// Collect sends what can be read, and what could not as an error of its own.
func (k kernelCollector) Collect(out chan<- prometheus.Metric) {
	k.collectState(out)
	err := errors.Join(k.collectCounts(out), k.collectCost(out))
	if err != nil {
		out <- prometheus.NewInvalidMetric(prometheus.NewDesc("weft_kernel", "What the kernel tells.", nil, nil), err)
	}
}

func (k kernelCollector) collectState(out chan<- prometheus.Metric) {
	ready, _ := k.loader.Ready()
	gauge(out, "weft_ready", "1 while /readyz answers 200: every selected running process is attached.", truth(ready))
	gauge(out, "weft_injecting", "1 if weft writes context into requests, 0 if it only observes; the log says why.", truth(k.loader.Observing() == ""))
	gauge(out, "weft_sockmap_receive", "1 if client sockets receive through the sockmap, which this kernel's FIONREAD needs.", truth(k.loader.Receiving()))
	gauge(out, "weft_capture_info", "1, labelled with the way of capture in use.", 1, "way", string(k.loader.Capture()))
	gauge(out, "weft_processes_selected", "Processes traced now.", float64(k.loader.Selected()))
	emulated, stepped := k.loader.GoProbes()
	for instruction, n := range map[string]int64{"emulated": emulated, "stepped": stepped} {
		gauge(out, "weft_go_probes", "Probes attached to Go programs, by what the kernel does with the instruction: to step over it costs several times as much.",
			float64(n), "instruction", instruction)
	}
	for _, f := range k.loader.Failures() {
		counter(out, "weft_attach_failures_total", "What could not be attached, by cause. At start, ways of capture that are tried and refused count too.",
			float64(f.Value), "attach", f.Attach, "cause", f.Cause)
	}
}

func (k kernelCollector) collectCounts(out chan<- prometheus.Metric) error {
	counts, err := k.loader.Counts()
	for _, c := range counts {
		counter(out, "weft_kernel_"+c.Metric+"_total", kernelHelp(c.Metric), float64(c.Value), "cause", c.Cause)
	}
	return err
}

func (k kernelCollector) collectCost(out chan<- prometheus.Metric) error {
	const counted = " Counted while weft_bpf_stats_enabled is 1, else it stands still: set telemetry.bpf_stats."
	cost, err := k.loader.Cost()
	gauge(out, "weft_bpf_stats_enabled", "1 while the kernel counts the run time of BPF programs, for weft or for somebody else.", truth(cost.Counting))
	for _, p := range cost.Programs {
		counter(out, "weft_bpf_program_run_seconds_total", "Time spent in a BPF program, on all CPUs."+counted, p.RunTime.Seconds(), "program", p.Name)
		counter(out, "weft_bpf_program_runs_total", "Runs of a BPF program."+counted, float64(p.Runs), "program", p.Name)
		counter(out, "weft_bpf_program_missed_runs_total", "Runs that did not take place because the program was already running on that CPU; at most so many where hooks have spares.", float64(p.Missed), "program", p.Name)
		gauge(out, "weft_bpf_program_verified_instructions", "Instructions the verifier walked to accept a BPF program; 0 before Linux 5.16.", float64(p.Verified), "program", p.Name)
		gauge(out, "weft_bpf_program_memory_bytes", "Memory of a translated BPF program.", float64(p.Bytes), "program", p.Name)
	}
	for _, m := range cost.Maps {
		if !m.Ring {
			gauge(out, "weft_bpf_map_capacity_entries", "Entries a BPF map holds at most.", float64(m.Capacity), "map", m.Name)
		}
		gauge(out, "weft_bpf_map_memory_bytes", "Memory of a BPF map as the kernel accounts it: in use since Linux 6.4, at most before.", float64(m.Bytes), "map", m.Name)
	}
	return err
}

// gauge and counter send one sample; labels are names and values in turn.
func gauge(out chan<- prometheus.Metric, name, help string, value float64, labels ...string) {
	send(out, prometheus.GaugeValue, name, help, value, labels)
}

func counter(out chan<- prometheus.Metric, name, help string, value float64, labels ...string) {
	send(out, prometheus.CounterValue, name, help, value, labels)
}

func send(out chan<- prometheus.Metric, kind prometheus.ValueType, name, help string, value float64, labels []string) {
	var names, values []string
	for i := 0; i+1 < len(labels); i += 2 {
		names, values = append(names, labels[i]), append(values, labels[i+1])
	}
	out <- prometheus.MustNewConstMetric(prometheus.NewDesc(name, help, names, nil), kind, value, values...)
}

func truth(yes bool) float64 {
	if yes {
		return 1
	}
	return 0
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
	case "http2":
		return "HTTP/2 connections and requests that the sk_msg program met, by outcome."
	case "unproven":
		return "Calls of Go programs that are roots for want of evidence, by what was missing."
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
