package main

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"slices"

	"weft/export"
	"weft/internal/config"
	"weft/internal/selfstats"
)

type runCmd struct {
	Config  string `help:"YAML configuration file; every key also as WEFT_…." placeholder:"FILE" type:"path"`
	Standby bool   `help:"If another agent traces this host: load everything, and take over when it ends." xor:"other"`
	Force   bool   `help:"If another agent traces this host: trace beside it." xor:"other"`
}

// Run is `weft run`: until SIGTERM or SIGINT, then it drains and prints a summary.
func (r *runCmd) Run(ctx context.Context, s *streams) error {
	c, err := config.Load(r.Config, os.Environ())
	if err != nil {
		return usage(err)
	}
	if err := c.RequireTargets(); err != nil {
		return usage(err)
	}
	if err := requirePrivilege("run"); err != nil {
		return err
	}
	s = s.skipUnread()
	level := &slog.LevelVar{}
	level.Set(c.Log.Level)
	log := newLoggerAt(s.err, c.Log.Format, level)
	if c.Agent.Background {
		background(log)
	}
	place, role, err := r.claim(log)
	if err != nil {
		return err
	}
	return errors.Join(r.trace(ctx, s, c, place, role, level, log), place.leave())
}

// trace traces, once it is this agent's turn.
func (r *runCmd) trace(ctx context.Context, s *streams, c *config.Config, place *host, role role, level *slog.LevelVar, log *slog.Logger) error {
	logConditions(ctx, log, slog.LevelWarn)
	stats := selfstats.New()
	reloads, err := newReloads(r.Config, c, level, stats, log)
	if err != nil {
		return err
	}
	sinks, err := otlpSinks(c, stats, log, "")
	if err != nil {
		return usage(err)
	}
	if len(sinks) == 0 {
		log.Warn("spans are not exported; set export.otlp.endpoint or OTEL_EXPORTER_OTLP_ENDPOINT")
	}
	a, err := newAgent(ctx, c, c.Targets, role, sinks, nil, stats, log)
	if err != nil {
		return err
	}
	if err := a.followPods(ctx, c); err != nil {
		return errors.Join(usage(err), a.close(), a.loader.Close())
	}
	go reloads.follow(ctx, a)
	if role.standby {
		if turn, err := a.await(ctx, place); err != nil || !turn {
			return errors.Join(err, a.close(), a.loader.Close())
		}
	}
	logListen(log, a.server.Addr())
	log.Info("weft is tracing", "capture", a.loader.Capture(), "injecting", a.loader.Observing() == "",
		"sockmap_receive", a.loader.Receiving(), "go_memory", a.loader.WritesGo(), "telemetry", a.server.Addr())
	err = a.loader.Run(ctx)
	// Nothing of this agent touches a program any more: the next one need not wait
	// until the last spans are delivered.
	err = errors.Join(err, place.leave(), a.close())
	a.summary(s)
	<-reloads.done
	return errors.Join(err, a.loader.Close())
}

// otlpSinks is the OTLP exporter, if an endpoint is set anywhere. endpoint, if
// not empty, is the one of --otlp.
func otlpSinks(c *config.Config, stats *selfstats.Stats, log *slog.Logger, endpoint string) (export.Fanout, error) {
	options := export.OTLPOptions{Endpoint: c.Export.OTLP.Endpoint, Protocol: string(c.Export.OTLP.Protocol)}
	if endpoint != "" {
		options.Endpoint, options.Protocol = endpoint, ""
	}
	settings, err := export.ResolveOTLP(options)
	if err != nil || settings.Off != "" {
		return nil, err
	}
	// The node's name is its host's; weft's own, in a pod, is the pod's.
	convert, err := export.NewConverter(export.ConverterOptions{Version: version, HostName: c.Kubernetes.Node})
	if err != nil {
		return nil, err
	}
	otlp, err := export.NewOTLP(settings, convert, stats, log)
	if err != nil {
		return nil, err
	}
	return export.Fanout{otlp}, nil
}

// summary prints what was lost, by cause, if anything.
func (a *agent) summary(s *streams) {
	rows, err := a.stats.Summary()
	if err != nil {
		a.log.Warn("summary not complete", "err", err)
	}
	rows = slices.DeleteFunc(rows, asked)
	if len(rows) == 0 {
		fmt.Fprintln(s.err, "weft: stopped; nothing was lost") //nolint:errcheck // last words
		return
	}
	fmt.Fprintln(s.err, "weft: stopped; not seen or not delivered:") //nolint:errcheck // last words
	for _, r := range rows {
		fmt.Fprintf(s.err, "  %-60s %.0f\n", r.Name, r.Value) //nolint:errcheck // last words
	}
}

// asked says that what was not done was not wanted: with propagation.inject empty no
// request is written into. Where it was wanted, the log has said why it is off.
func asked(r selfstats.Row) bool { return r.Name == `weft_kernel_refused_total{cause="off"}` }
