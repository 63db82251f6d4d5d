package e2e

import (
	"bufio"
	"encoding/json"
	"fmt"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"weft/test/apps/rawhttp/script"
)

// loadClients is how many connections a raw load keeps; every other one has
// Nagle's algorithm on and sends each request at once.
const loadClients = 6

// rawLoad is a running `rawhttp load`: random requests, every byte checked.
type rawLoad struct {
	*program
	stdout *output
}

func startRawLoad(t *testing.T, g *group, addr string, seed uint64, d time.Duration) *rawLoad {
	t.Helper()
	l := &rawLoad{stdout: &output{}}
	l.program = g.start("rawhttp load", launch{argv: []string{goProgram(t, "./test/apps/rawhttp"), "load", addr,
		fmt.Sprint(loadClients), fmt.Sprint(seed), d.String()}}, l.stdout)
	l.wanted.Store(true)
	return l
}

// finish waits for the end and returns all samples in order of time. Every
// request must have been answered and every byte exact.
func (l *rawLoad) finish(t *testing.T, limit time.Duration) []script.Sample {
	t.Helper()
	stuck := l.wait(limit)
	samples := l.samples(t)
	if stuck != nil {
		last := map[int]int64{}
		for _, s := range samples {
			last[s.Conn] = max(last[s.Conn], s.At)
		}
		t.Errorf("load: %v; connections stand still since (by number): %v\n%s", stuck, ago(last), l.out.tail())
	}
	return samples
}

// samples are those of a load that has ended, in order of time; every byte must be
// exact.
func (l *rawLoad) samples(t *testing.T) []script.Sample {
	t.Helper()
	var samples []script.Sample
	sc := bufio.NewScanner(strings.NewReader(l.stdout.String()))
	bad := 0
	for sc.Scan() {
		var s script.Sample
		if err := json.Unmarshal(sc.Bytes(), &s); err != nil {
			t.Fatalf("sample %q: %v", sc.Text(), err)
		}
		if s.Bad != "" {
			if bad++; bad <= 5 {
				t.Errorf("request at %v: %s", time.Unix(0, s.At), s.Bad)
			}
		}
		samples = append(samples, s)
	}
	if bad > 0 {
		t.Errorf("%d of %d requests not exact", bad, len(samples))
	}
	if len(samples) < loadClients {
		t.Fatalf("only %d requests", len(samples))
	}
	slices.SortFunc(samples, func(a, b script.Sample) int { return int(a.At - b.At) })
	return samples
}

// ago says how long ago each connection's last answered request began.
func ago(last map[int]int64) map[int]time.Duration {
	out := map[int]time.Duration{}
	for conn, at := range last {
		out[conn] = time.Since(time.Unix(0, at)).Round(time.Millisecond)
	}
	return out
}

func injected(samples []script.Sample) float64 {
	n := 0
	for _, s := range samples {
		n += s.Injected
	}
	return float64(n) / float64(max(len(samples), 1))
}

// between keeps the samples that started in [from, to).
func between(samples []script.Sample, from, to time.Time) []script.Sample {
	var out []script.Sample
	for _, s := range samples {
		if s.At >= from.UnixNano() && s.At < to.UnixNano() {
			out = append(out, s)
		}
	}
	return out
}

// over is the share of samples slower than d, and the 99th percentile.
func over(samples []script.Sample, d time.Duration) (float64, time.Duration) {
	took := make([]int64, len(samples))
	n := 0
	for i, s := range samples {
		took[i] = s.Micros
		if time.Duration(s.Micros)*time.Microsecond > d {
			n++
		}
	}
	slices.Sort(took)
	return float64(n) / float64(len(samples)), time.Duration(took[len(took)*99/100]) * time.Microsecond
}

// stalls says how much slower the second samples are where a stall of a delayed
// ACK (40 ms) would show; empty: they are not.
func stalls(off, on []script.Sample) string {
	slowOff, p99Off := over(off, 40*time.Millisecond)
	slowOn, p99On := over(on, 40*time.Millisecond)
	text := fmt.Sprintf("p99 %v with weft, %v without; over 40 ms: %.4f of %d with, %.4f of %d without",
		p99On, p99Off, slowOn, len(on), slowOff, len(off))
	if p99On > p99Off+40*time.Millisecond || slowOn > slowOff+0.01 {
		return text
	}
	return ""
}

// TestByteExact compares the same random traffic with and without weft.
func TestByteExact(t *testing.T) {
	g := newGroup(t)
	addr, _ := startRawServer(t, g)
	seed := uint64(time.Now().UnixNano())
	t.Logf("seed %d", seed)
	long := time.Duration(max(2, 8*scale(t))) * time.Second

	// A stall of weft's is there every time; one of a busy machine is not.
	for attempt := range 3 {
		off := startRawLoad(t, g, addr, seed, long).finish(t, patience(t, 30*time.Second))
		if share := injected(off); share != 0 {
			t.Fatalf("without weft %.3f of the requests have a traceparent: is another agent running?", share)
		}
		a := startAgent(t, g, startSink(t), agentOptions{})
		on := startRawLoad(t, g, addr, seed, long).finish(t, patience(t, 30*time.Second))
		a.stop()
		after := startRawLoad(t, g, addr, seed, time.Second).finish(t, patience(t, 30*time.Second))

		// The line is left out where the blank line left in pieces.
		share := injected(on)
		if share < 0.9 {
			t.Errorf("only %.3f of %d requests have a traceparent", share, len(on))
		}
		if share := injected(after); share != 0 {
			t.Errorf("%.3f of the requests have a traceparent after weft has stopped", share)
		}
		slow := stalls(off, on)
		t.Logf("%d requests without weft, %d with, %.3f injected; stalls: %q", len(off), len(on), share, slow)
		if scale(t) != 1 || slow == "" {
			return
		}
		if attempt == 2 {
			t.Errorf("stalls, three times over: %s", slow)
		}
	}
}

// TestStopInMidLoad starts weft while traffic flows on kept connections, and
// ends it there. The programs must not notice, and the header must end.
func TestStopInMidLoad(t *testing.T) {
	tests := []struct {
		name   string
		signal syscall.Signal
		grace  time.Duration // from the signal until no header may be written
	}{
		// Injection ends by the deadline that only a living agent renews.
		{"SIGKILL", syscall.SIGKILL, 1200 * time.Millisecond},
		{"SIGTERM", syscall.SIGTERM, 0},
		{"SIGINT", syscall.SIGINT, 0},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			g := newGroup(t)
			addr, _ := startRawServer(t, g)
			stretch := patience(t, time.Second)
			l := startRawLoad(t, g, addr, uint64(time.Now().UnixNano()), 14*stretch)
			time.Sleep(stretch)
			begun := time.Now()
			a := startAgent(t, g, startSink(t), agentOptions{})
			time.Sleep(2 * stretch)
			a.wanted.Store(true)
			signalled := time.Now()
			if err := a.cmd.Process.Signal(tt.signal); err != nil {
				t.Fatal(err)
			}
			err := a.wait(patience(t, 15*time.Second))
			ended := time.Now()
			if tt.signal != syscall.SIGKILL && err != nil {
				t.Errorf("weft after %v: %v\n%s", tt.signal, err, a.out.tail())
			}
			noTrace(t, a.out.String())
			quiet := ended
			if tt.grace > 0 {
				quiet = signalled.Add(tt.grace)
			}
			samples := l.finish(t, 40*stretch)

			before := between(samples, time.Unix(0, 0), begun)
			during := between(samples, signalled.Add(-stretch), signalled)
			after := between(samples, quiet, time.Now())
			if len(before) == 0 || len(during) == 0 || len(after) == 0 {
				t.Fatalf("%d requests before, %d with, %d after weft: too few to judge", len(before), len(during), len(after))
			}
			if injected(before) != 0 {
				t.Errorf("traceparent before weft was started")
			}
			judgeAdopted(t, a, during)
			if share := injected(after); share != 0 {
				last := after[0]
				for _, s := range after {
					if s.Injected > 0 {
						last = s
					}
				}
				t.Errorf("%.4f of %d requests have a traceparent after weft was gone, the last %v after the signal",
					share, len(after), time.Unix(0, last.At).Sub(signalled))
			}
		})
	}
}

// polled are the samples of connections whose client waits in poll(2).
func polled(samples []script.Sample) (in, out []script.Sample) {
	for _, s := range samples {
		if s.Conn >= loadClients/2 {
			in = append(in, s)
		} else {
			out = append(out, s)
		}
	}
	return in, out
}

// receives says whether this kernel makes weft receive through the sockmap, where
// a connection whose reader may sleep in recv cannot be taken over (ADR 1).
func (a *agent) receives() bool {
	return strings.Contains(a.out.String(), "sockmap_receive=true")
}

// judgeAdopted: these samples are of connections that were open before weft was.
func judgeAdopted(t *testing.T, a *agent, samples []script.Sample) {
	t.Helper()
	polled, blocked := polled(samples)
	if share := injected(polled); len(polled) == 0 || share < 0.9 {
		t.Errorf("only %.3f of %d requests on existing connections have a traceparent", share, len(polled))
	}
	share := injected(blocked)
	switch {
	case len(blocked) == 0:
		t.Error("connections that block in recv stand still")
	case a.receives() && share != 0:
		t.Errorf("%.3f of the requests on connections that block in recv have a traceparent; they cannot be adopted safely here", share)
	case !a.receives() && share < 0.9:
		t.Errorf("only %.3f of the requests on blocking connections have a traceparent", share)
	}
}

// TestRestart: what one agent leaves behind must not disturb the next.
func TestRestart(t *testing.T) {
	g := newGroup(t)
	addr, _ := startRawServer(t, g)
	stretch := patience(t, time.Second)
	// Longer than four agents take to start on a busy machine; then it is ended.
	l := startRawLoad(t, g, addr, uint64(time.Now().UnixNano()), 300*stretch)
	for i := range 3 {
		a := startAgent(t, g, startSink(t), agentOptions{})
		time.Sleep(stretch)
		a.kill()
		t.Logf("agent %d killed", i+1)
	}
	a := startAgent(t, g, startSink(t), agentOptions{})
	fresh := startRawLoad(t, g, addr, 1, 2*stretch).finish(t, 40*stretch)
	end := time.Now()
	a.stop()
	l.kill()
	samples := between(l.samples(t), end.Add(-stretch), end)
	if share := injected(fresh); share < 0.9 {
		t.Errorf("only %.3f of the requests on new connections have a traceparent under the fourth agent", share)
	}
	// Where weft receives they stay in the first agent's sockmap, and its heir sees
	// them.
	judgeAdopted(t, a, samples)
	if len(samples) == 0 {
		t.Error("old connections stand still under the fourth agent")
	}
}

// TestAdoptsConnection: a connection that was idle when weft started is
// injected into within a few requests, and stays so.
func TestAdoptsConnection(t *testing.T) {
	for _, nonBlocking := range []bool{true, false} {
		t.Run(fmt.Sprintf("nonblocking=%v", nonBlocking), func(t *testing.T) { adopts(t, nonBlocking) })
	}
}

func adopts(t *testing.T, nonBlocking bool) {
	g := newGroup(t)
	r := &rig{sink: startSink(t)}
	r.addr, r.addr6 = startRawServer(t, g)
	r.client = startRawClient(t, g)
	for i := range 3 {
		x := r.ask("POST", "/leaf", "body")
		s := script.Step{Send: x.bytes(), Reads: make([]script.Read, 1), NonBlocking: nonBlocking}
		if i == 0 {
			s.Connect = r.addr
		}
		if lines := x.exact(t, r.client.do(t, s).Got[0]); len(lines) != 0 {
			t.Fatalf("traceparent %q without weft", lines)
		}
	}
	r.agent = startAgent(t, g, r.sink, agentOptions{})
	const tries = 5
	adopted := false
	for i := 0; i < tries && !adopted; i++ {
		x := r.ask("POST", "/leaf", "body")
		got := r.client.do(t, script.Step{Send: x.bytes(), Reads: make([]script.Read, 1)}).Got
		if adopted = len(x.exact(t, got[0])) > 0; adopted {
			t.Logf("injected from request %d on", i+1)
		}
	}
	if !nonBlocking && r.agent.receives() {
		if adopted {
			t.Error("adopted, although a reader may sleep in recv")
		}
		return // it answered five times: that is all this kernel allows
	}
	if !adopted {
		t.Fatalf("no traceparent in %d requests on a connection opened before weft", tries)
	}
	r.await(t, 2*tries, exchange{}) // what came until now is not judged
	r.spans = nil
	r.simple(t, "", r.ask("POST", "/leaf", "body"), r.ask("GET", "/leaf", ""), r.ask("GET", "/chunked", ""), r.ask("GET", "/leaf", ""))
}

// TestScope: a program outside of the targets is not touched and not seen.
func TestScope(t *testing.T) {
	g, other := newGroup(t), newGroup(t)
	r := &rig{sink: startSink(t)}
	r.addr, _ = startRawServer(t, other)
	r.client = startRawClient(t, other)
	selected := startRawClient(t, g)
	r.agent = startAgent(t, g, r.sink, agentOptions{})

	for i := range 5 {
		x := r.ask("POST", "/leaf", "body")
		s := script.Step{Send: x.bytes(), Reads: make([]script.Read, 1)}
		if i == 0 {
			s.Connect = r.addr
		}
		if lines := x.exact(t, r.client.do(t, s).Got[0]); len(lines) != 0 {
			t.Errorf("traceparent %q from a program outside of the targets", lines)
		}
	}
	x := r.ask("POST", "/leaf", "body")
	got := selected.do(t, script.Step{Connect: r.addr, Send: x.bytes(), Reads: make([]script.Read, 1)}).Got
	if lines := x.exact(t, got[0]); len(lines) != 1 {
		t.Errorf("traceparent %q from a selected program", lines)
	}
	r.sink.Wait(1, patience(t, 8*time.Second))
	spans := r.sink.Take()
	if len(spans) != 1 || spans[0].ID() != x.id || spans[0].Kind != "CLIENT" {
		t.Errorf("want the selected client's span alone, got %v", spans)
	}
}
