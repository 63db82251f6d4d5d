package main

import (
	"context"
	"errors"
	"io"
	"log/slog"
	"sync/atomic"
	"time"

	"weft/correlate"
	"weft/export"
	"weft/internal/config"
	"weft/internal/event"
	"weft/internal/selfstats"
	"weft/kube"
	"weft/loader"
	"weft/sample"
)

// drainTimeout bounds the delivery of queued spans at shutdown.
const drainTimeout = 5 * time.Second

// agent is everything wired: kernel → loader → correlator → exporters.
type agent struct {
	log    *slog.Logger
	stats  *selfstats.Stats
	loader *loader.Loader
	pods   *kube.Pods // nil: nothing is selected by configuration
	corr   *correlate.Correlator
	tail   *sample.Tail // before the exporters
	server *telemetry
	waits  atomic.Bool // in standby
}

// handler passes the loader's events to the correlator; all calls come from the
// loader's one goroutine.
type handler struct{ *correlate.Correlator }

func (h handler) Process(p *event.Process)         { h.Correlator.Process(p) }
func (h handler) ProcessExit(pid uint32, s uint64) { h.Correlator.ProcessExit(pid, s) }

// newLogger writes to w as log.level and log.format say.
func newLogger(w io.Writer, c config.Log) *slog.Logger {
	return newLoggerAt(w, c.Format, c.Level)
}

// newLoggerAt is newLogger where the level may change.
func newLoggerAt(w io.Writer, format config.Format, level slog.Leveler) *slog.Logger {
	options := &slog.HandlerOptions{Level: level}
	if format == config.FormatJSON {
		return slog.New(slog.NewJSONHandler(w, options))
	}
	return slog.New(slog.NewTextHandler(w, options))
}

// selector adapts the configured targets to what the loader asks.
type selector struct {
	targets config.Targets
	ports   bool
	pods    *kube.Pods // nil: no target asks for them
}

func newSelector(targets config.Targets, pods *kube.Pods) loader.Selector {
	s := &selector{targets: targets}
	if asksForPods(targets) {
		s.pods = pods
	}
	for i := range targets {
		s.ports = s.ports || len(targets[i].Ports) > 0
	}
	return s
}

func (s *selector) NeedsPorts() bool { return s.ports }

func (s *selector) Select(c loader.Candidate) (string, bool) {
	candidate := config.Candidate{PID: c.PID, Exe: c.Exe, Args: c.Args, Cgroup: c.Cgroup, Ports: c.Ports}
	if s.pods != nil {
		addPod(&candidate, s.pods)
	}
	t, ok := s.targets.Select(candidate)
	if !ok {
		return "", false
	}
	return t.Name, true
}

// newAgent builds all parts but starts no tracing; close undoes it. record, if
// not nil, gets the kernel's raw records.
func newAgent(ctx context.Context, c *config.Config, targets config.Targets, role role, sinks export.Fanout, record io.Writer, stats *selfstats.Stats, log *slog.Logger) (*agent, error) {
	a := &agent{log: log, stats: stats, tail: sample.Idle(sinks, stats)}
	if err := a.tail.Change(tailOptions(c.Sampling)); err != nil {
		return nil, err
	}
	a.corr = correlate.New(correlate.Options{}, a.tail, stats)
	options := loader.Options{
		Capture:  loader.Capture(c.Capture),
		Policy:   policyOptions(c.Propagation, c.Baggage),
		Sampling: samplingOptions(c.Sampling),
		Handler:  handler{a.corr},
		Log:      log,
		RunTime:  c.Telemetry.BPFStats,
		Record:   record,
		Standby:  role.standby,
		Alone:    role.alone,
	}
	if len(targets) > 0 {
		a.pods = kube.New(podOptions(c.Kubernetes, log))
		options.Selector, options.Attributes = newSelector(targets, a.pods), attributesOf(a.pods)
	}
	l, err := loader.New(options)
	if err != nil {
		return nil, usage(notLoaded(err))
	}
	a.loader = l
	if err := errors.Join(stats.Register(newBuildInfo()), stats.Register(newKernelCollector(l))); err != nil {
		return nil, errors.Join(err, l.Close())
	}
	a.server, err = listen(ctx, stats, c.Telemetry.Listen, role.standby, a.ready, log)
	if err != nil {
		return nil, usage(errors.Join(err, l.Close()))
	}
	return a, nil
}

// close stops in the order detach → drain → flush → close maps; run has detached
// and drained already.
func (a *agent) close() error {
	if a.pods != nil {
		a.pods.Close()
	}
	a.corr.Flush()
	ctx, cancel := context.WithTimeout(context.Background(), drainTimeout)
	defer cancel()
	return errors.Join(a.tail.Close(ctx), a.server.Close(ctx))
}
