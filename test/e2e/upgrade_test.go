package e2e

import (
	"fmt"
	"strings"
	"syscall"
	"testing"
	"time"

	"weft/test/apps/rawhttp/script"
)

// TestUpgrade: a standby takes over from an agent that ends in mid-load. No byte and
// no connection suffers, no request has two headers, and the wire is without a
// header for moments only, on connections that stay open.
func TestUpgrade(t *testing.T) {
	for _, signal := range []syscall.Signal{syscall.SIGTERM, syscall.SIGKILL} {
		t.Run(fmt.Sprint(signal), func(t *testing.T) { upgrade(t, signal) })
	}
}

// gapLimit is far above what a hand-over takes, for busy machines.
const gapLimit = 3 * time.Second

func upgrade(t *testing.T, signal syscall.Signal) {
	i := newIsland(t)
	addr, _ := startRawServer(t, i.apps)
	sink := startSink(t)
	old := i.agent(sink, islandOptions{})
	old.traces()
	stretch := patience(t, time.Second)
	begun := time.Now()
	l := startRawLoad(t, i.apps, addr, uint64(begun.UnixNano()), 300*stretch) // then it is ended

	next := i.agent(sink, islandOptions{telemetry: old.telemetry, flags: []string{"--standby"}})
	next.standsBy()
	if strings.Contains(next.out.String(), `msg="weft is tracing"`) {
		t.Fatalf("the standby did not wait:\n%s", next.out.tail())
	}
	time.Sleep(stretch)
	old.wanted.Store(true)
	signalled := time.Now()
	if err := old.cmd.Process.Signal(signal); err != nil {
		t.Fatal(err)
	}
	next.traces() // at the address that the old agent had
	if err := old.wait(patience(t, 15*time.Second)); signal == syscall.SIGTERM && err != nil {
		t.Errorf("old agent: %v\n%s", err, old.out.tail())
	}
	time.Sleep(3 * stretch)
	end := time.Now()
	l.kill()
	samples := l.samples(t)

	before := between(samples, signalled.Add(-stretch), signalled)
	after := between(samples, end.Add(-stretch), end)
	if a, b := injected(before), injected(after); a < 0.9 || b < 0.9 {
		t.Errorf("%.3f of %d requests have a traceparent before, %.3f of %d after", a, len(before), b, len(after))
	}
	for conn := range loadClients {
		gap := longestWithout(between(samples, signalled.Add(-stretch), end), conn)
		t.Logf("connection %d: %v without traceparent", conn, gap)
		if gap > patience(t, gapLimit) {
			t.Errorf("connection %d was without traceparent for %v", conn, gap)
		}
	}
	next.stop()
	noTrace(t, old.out.String())
}

// longestWithout is the longest time between two requests of a connection that have
// a traceparent, less that of a request without; at the ends what is known counts.
func longestWithout(samples []script.Sample, conn int) time.Duration {
	var longest time.Duration
	var first, last int64
	for _, s := range samples {
		if s.Conn != conn {
			continue
		}
		if first == 0 {
			first = s.At
		}
		last = s.At
		if s.Injected > 0 {
			longest = max(longest, time.Duration(s.At-first))
			first = s.At
		}
	}
	return max(longest, time.Duration(last-first))
}
