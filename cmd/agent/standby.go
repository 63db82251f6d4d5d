package main

import (
	"context"
	"errors"
	"log/slog"
	"os"
	"sync"
	"syscall"
	"time"

	"weft/internal/selfstats"
)

// role is what an agent may do when it has started.
type role struct {
	standby bool // wait until the agent before it has ended
	alone   bool // no other agent traces when this one does
}

// standsBy says why an agent in standby is ready: what it needs is loaded and tested.
const standsBy = "standby: takes over when the agent before it ends"

// occupantEvery is how often a standby looks who it is that it waits for.
const occupantEvery = time.Second

// await waits for the place, and keeps what the agent that has it would take along
// when it ends. It returns whether the place is this agent's.
func (a *agent) await(ctx context.Context, h *host) (bool, error) {
	a.waits.Store(true)
	taken := make(chan error, 1)
	go func() { taken <- h.await() }()
	tick := time.NewTicker(occupantEvery)
	defer tick.Stop()
	before := 0
	for {
		pid, err := h.occupant()
		if err == nil && pid != 0 && pid != before && pid != os.Getpid() {
			a.log.Info("weft stands by", "for", occupantName(pid))
			err = a.loader.Inherit(pid)
			before = pid
		}
		if err != nil {
			a.log.Warn("connections that are bound to the agent before this one carry no context until they are opened again", "err", err)
		}
		select {
		case err := <-taken:
			a.waits.Store(false)
			return err == nil, err
		case <-ctx.Done():
			return false, nil
		case <-tick.C:
		}
	}
}

// ready is what /readyz says.
func (a *agent) ready() (bool, string) {
	if a.waits.Load() {
		return true, standsBy
	}
	return a.loader.Ready()
}

// telemetry is the listener of /metrics, /healthz and /readyz. That of a standby
// waits for its address, which the agent before it may have.
type telemetry struct {
	mu     sync.Mutex
	server *selfstats.Server // nil: off, or still waiting
	stop   context.CancelFunc
	done   chan struct{}
}

// listenEvery is how often a standby tries to get its telemetry address.
const listenEvery = 100 * time.Millisecond

// listen begins to serve. patient says to wait for an address that is in use.
func listen(ctx context.Context, stats *selfstats.Stats, address string, patient bool, ready selfstats.Ready, log *slog.Logger) (*telemetry, error) {
	server, err := stats.Server(ctx, address, ready, log)
	t := &telemetry{server: server, stop: func() {}, done: make(chan struct{})}
	if err == nil {
		close(t.done)
		return t, nil
	}
	if !patient || !errors.Is(err, syscall.EADDRINUSE) {
		return nil, err
	}
	log.Info("telemetry waits for its address", "listen", address)
	waiting, stop := context.WithCancel(ctx)
	t.stop = stop
	go func() {
		defer close(t.done)
		tick := time.NewTicker(listenEvery)
		defer tick.Stop()
		for {
			select {
			case <-waiting.Done():
				return
			case <-tick.C:
			}
			server, err := stats.Server(ctx, address, ready, log)
			if err == nil {
				t.mu.Lock()
				defer t.mu.Unlock()
				t.server = server
				return
			}
			if !errors.Is(err, syscall.EADDRINUSE) {
				log.Error("no telemetry", "err", err)
				return
			}
		}
	}()
	return t, nil
}

func (t *telemetry) current() *selfstats.Server {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.server
}

// Addr is the bound address, "" where there is none.
func (t *telemetry) Addr() string { return t.current().Addr() }

// Close stops serving, or waiting for the address.
func (t *telemetry) Close(ctx context.Context) error {
	t.stop()
	<-t.done
	return t.current().Close(ctx)
}
