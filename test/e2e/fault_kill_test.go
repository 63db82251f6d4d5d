package e2e

import (
	"fmt"
	"io"
	"math/rand/v2"
	"testing"
	"time"

	"weft/test/e2e/footprint"
)

// TestFaultKilled ends weft by SIGKILL at random moments, over and over, before
// it is ready as well as in full work, and starts it again. Connections that were
// open all the time, and those opened under one agent and closed under the next,
// must not notice; when the last is dead, nothing of any of them may be left in
// the kernel. WEFT_FAULT_KILLS is how long: 10m by `make soak`.
func TestFaultKilled(t *testing.T) {
	g := newGroup(t)
	sink := startSink(t)
	server := goProgram(t, "./test/apps/rawhttp")
	addr := fmt.Sprintf("127.0.0.1:%d", freePort(t))
	serving := g.start("rawhttp server", launch{argv: []string{server, "server", addr}}, nil)
	serving.listens(addr)
	load := startSteadyLoad(t, g, addr, loadClients, 5*time.Millisecond)

	var left []footprint.Objects
	var killed time.Time
	agents, ready, injected := 0, 0, 0
	deadline := time.Now().Add(faultFor(t, "WEFT_FAULT_KILLS", patience(t, 40*time.Second)))
	for ; agents < 4 || time.Now().Before(deadline); agents++ {
		a := launchAgent(t, g, sink, agentOptions{})
		// Every other one dies while it loads and tests itself, or soon after;
		// the others at work.
		if agents%2 == 1 {
			a.until(func() error { return a.get("/readyz", io.Discard) })
			ready++
		}
		life := time.Duration(rand.Float64() * float64(patience(t, 2*time.Second)))
		alive := func(d time.Duration) {
			select {
			case <-time.After(d):
			case <-a.ended:
				t.Errorf("weft ended by itself: %v\n%s", a.err, a.out.tail())
			}
		}
		alive(life * 3 / 4)
		young := startBurst(g, server, addr)
		alive(life / 4)
		if held, err := footprint.Held(a.cmd.Process.Pid); err == nil { // it may have just ended
			left = append(left, held)
		}
		a.kill()
		killed = time.Now()
		noTrace(t, a.out.String())
		injected += young.finish(t)
		sink.Take()
		if t.Failed() {
			break
		}
	}
	load.sends(t, loadClients)
	if ready == 0 {
		t.Errorf("none of %d agents was ready: too few to judge", agents)
	}

	// Injection ends by itself, and for good.
	time.Sleep(time.Until(killed.Add(1200 * time.Millisecond)))
	quiet := time.Now()
	load.sends(t, 20*loadClients)
	if last := load.tally.lastInjected(); last.After(quiet) {
		t.Errorf("a request has a traceparent %v after the last agent was killed", last.Sub(killed))
	}
	requests, n := load.tally.count()
	injected += n
	if injected == 0 {
		t.Error("no request has a traceparent: nothing was at stake")
	}
	load.end(t)
	serving.kill()
	eventually(t, 30*time.Second, func() error { return nothingLeft(left) })
	t.Logf("%d agents killed, %d of them ready; %d requests and %d with a traceparent, all exact", agents, ready, requests, injected)
}

// burst is a load on connections of its own, for a moment.
type burst struct {
	*program
	tally *tally
}

func startBurst(g *group, rawhttp, addr string) *burst {
	g.t.Helper()
	b := &burst{tally: &tally{answered: map[int]time.Time{}}}
	b.program = g.start("rawhttp load, a moment", launch{argv: []string{rawhttp, "load", addr, "4", fmt.Sprint(rand.Uint64()),
		"400ms", "2ms"}}, b.tally)
	return b
}

// finish judges it, and returns how many requests had a traceparent.
func (b *burst) finish(t *testing.T) int {
	t.Helper()
	err := b.wait(patience(t, 30*time.Second))
	requests, injected := b.tally.count()
	if err != nil || b.tally.bad > 0 || requests == 0 {
		t.Errorf("a moment's load: %v; %d of %d requests not exact, such as: %q", err, b.tally.bad, requests, b.tally.examples)
	}
	return injected
}

// nothingLeft says what of these objects the kernel still has.
func nothingLeft(all []footprint.Objects) error {
	maps, programs := 0, 0
	for _, o := range all {
		m, p, err := o.Left()
		if err != nil {
			return err
		}
		maps, programs = maps+m, programs+p
	}
	if maps+programs > 0 {
		return fmt.Errorf("%d maps and %d programs of agents that are dead are still in the kernel", maps, programs)
	}
	return nil
}
