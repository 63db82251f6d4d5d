package main

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"os/signal"
	"reflect"
	"strings"
	"syscall"

	"github.com/prometheus/client_golang/prometheus"

	"weft/internal/config"
	"weft/internal/selfstats"
	"weft/loader"
)

// reloads puts a changed configuration into force while weft traces.
type reloads struct {
	path    string
	current *config.Config
	level   *slog.LevelVar
	log     *slog.Logger
	signals chan os.Signal
	count   *prometheus.CounterVec
	done    chan struct{} // closed when follow has ended
}

// Results of a reload, labels of weft_reloads_total.
const (
	reloadApplied = "applied"
	reloadRefused = "refused" // a mistake in the configuration
	reloadFailed  = "failed"  // the kernel would not have it
)

// newReloads begins to catch SIGHUP, which ends a process otherwise.
func newReloads(path string, c *config.Config, level *slog.LevelVar, stats *selfstats.Stats, log *slog.Logger) (*reloads, error) {
	r := &reloads{path: path, current: c, level: level, log: log, signals: make(chan os.Signal, 1), done: make(chan struct{}),
		count: prometheus.NewCounterVec(prometheus.CounterOpts{Name: "weft_reloads_total",
			Help: "Reloads of the configuration by result: applied, refused (it has a mistake), failed (the kernel would not have it)."}, []string{"result"})}
	for _, result := range []string{reloadApplied, reloadRefused, reloadFailed} {
		r.count.WithLabelValues(result)
	}
	if err := stats.Register(r.count); err != nil {
		return nil, err
	}
	signal.Notify(r.signals, syscall.SIGHUP)
	return r, nil
}

// follow reloads at every SIGHUP until ctx is done.
func (r *reloads) follow(ctx context.Context, a *agent) {
	defer close(r.done)
	defer signal.Stop(r.signals)
	for {
		select {
		case <-ctx.Done():
			return
		case <-r.signals:
		}
		result := r.reload(ctx, a)
		if ctx.Err() == nil {
			r.count.WithLabelValues(result).Inc()
		}
	}
}

// reload reads the configuration anew and applies what can be applied. All mistakes
// are found before anything is touched.
func (r *reloads) reload(ctx context.Context, a *agent) string {
	next, err := config.Load(r.path, os.Environ())
	if err == nil {
		err = next.RequireTargets()
	}
	if err != nil {
		for line := range strings.Lines(err.Error()) {
			r.log.Error("configuration not reloaded; the one before stays in force", "mistake", strings.TrimSpace(line))
		}
		return reloadRefused
	}
	next, restart := r.current.Reload(next)
	change := loader.Change{Selector: newSelector(next.Targets, a.pods)}
	if !reflect.DeepEqual(next.Propagation, r.current.Propagation) || !reflect.DeepEqual(next.Baggage, r.current.Baggage) {
		policy := policyOptions(next.Propagation, next.Baggage)
		change.Policy = &policy
	}
	if !reflect.DeepEqual(head(next.Sampling), head(r.current.Sampling)) {
		sampling := samplingOptions(next.Sampling)
		change.Sampling = &sampling
	}
	err = a.loader.Reconfigure(ctx, change)
	if errors.Is(err, loader.ErrRestart) && change.Policy != nil {
		restart = append(restart, fmt.Sprintf("propagation and baggage (%v)", err))
		next.Propagation, next.Baggage, change.Policy = r.current.Propagation, r.current.Baggage, nil
		err = a.loader.Reconfigure(ctx, change)
	}
	if errors.Is(err, loader.ErrRestart) && change.Sampling != nil {
		restart = append(restart, fmt.Sprintf("sampling (%v)", err))
		next.Sampling, change.Sampling = r.current.Sampling, nil
		err = a.loader.Reconfigure(ctx, change)
	}
	if err != nil {
		if ctx.Err() == nil {
			r.log.Error("configuration not reloaded; the one before stays in force", "err", err)
		}
		return reloadFailed
	}
	if err := a.tail.Change(tailOptions(next.Sampling)); err != nil {
		restart = append(restart, fmt.Sprintf("sampling.tail (%v)", err))
		next.Sampling.Tail = r.current.Sampling.Tail
	}
	a.warnOfPods(next)
	r.level.Set(next.Log.Level)
	r.current = next
	if len(restart) > 0 {
		r.log.Warn("some changes need a restart; the rest is in force", "keys", strings.Join(restart, ", "))
	}
	r.log.Info("configuration reloaded")
	return reloadApplied
}

// head is the part of it that the kernel decides by.
func head(c config.Sampling) config.Sampling {
	c.Tail = config.Tail{Enabled: c.Tail.Enabled}
	return c
}
