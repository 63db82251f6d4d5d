package e2e

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"net"
	"net/http"
	"os"
	"os/exec"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"weft/test/e2e/footprint"
	"weft/test/e2e/truth"
)

// soaked are what a soak prints and holds flat: by how much each may grow from
// the end of the warm-up to the end. What is used once or twice a second goes up
// and down by more than it should ever rise; the bounds leave room for that.
func soaked() []footprint.Quantity {
	entries := func(names ...string) func(footprint.Sample) float64 {
		return func(s footprint.Sample) float64 {
			n := 0
			for _, name := range names {
				n += s.Entries[name]
			}
			return float64(n)
		}
	}
	return []footprint.Quantity{
		{Name: "RSS MiB", Bound: 8, Of: func(s footprint.Sample) float64 { return float64(s.RSS) / mib }},
		{Name: "heap MiB", Bound: 8, Of: func(s footprint.Sample) float64 { return float64(s.Heap) / mib }},
		{Name: "descriptors", Bound: 3, Of: func(s footprint.Sample) float64 { return float64(s.FDs) }},
		{Name: "maps", Of: func(s footprint.Sample) float64 { return float64(s.Maps) }},
		{Name: "programs", Of: func(s footprint.Sample) float64 { return float64(s.Programs) }},
		{Name: "links", Of: func(s footprint.Sample) float64 { return float64(s.Links) }},
		{Name: "entries", Bound: 24, Of: func(s footprint.Sample) float64 { return float64(s.Total()) }},
		{Name: "targets", Bound: 6, Of: entries("targets")},
		{Name: "conns", Bound: 12, Of: entries("conns")},
		{Name: "threads", Bound: 12, Of: entries("threads")},
		{Name: "exchanges", Bound: 6, Of: entries("exchanges")},
		{Name: "sockets", Bound: 12, Of: entries("sockets")},
	}
}

// TestSoak is a steady load of everything that comes and goes in a node's life:
// kept connections, connections of one request, clients and servers that start,
// serve and end. What weft occupies must be flat once it is warm. WEFT_SOAK is how
// long: hours by `make soak`.
func TestSoak(t *testing.T) {
	long := faultFor(t, "WEFT_SOAK", patience(t, time.Minute))
	warm := min(max(long/4, 15*time.Second), 10*time.Minute)
	every := max(long/600, time.Second)
	g := newGroup(t)
	sink := startSink(t)
	leaf := place{port: freePort(t)}
	goService(t, g, leaf)
	front := place{port: freePort(t), downstream: fmt.Sprintf("http://127.0.0.1:%d/leaf", leaf.port)}
	goService(t, g, front)
	rawhttp := goProgram(t, "./test/apps/rawhttp")
	addr, _ := startRawServer(t, g)
	a := startAgent(t, g, sink, agentOptions{extra: "log: {level: warn}\n"})
	load := startSteadyLoad(t, g, addr, loadClients, 10*time.Millisecond)

	stop := make(chan struct{})
	var others sync.WaitGroup
	var calls, lives atomic.Int64
	others.Go(func() { call(t, stop, fmt.Sprintf("http://127.0.0.1:%d/call", front.port), &calls) })
	others.Go(func() { churn(t, stop, g, rawhttp, &lives) })
	ending := sync.OnceFunc(func() { close(stop); others.Wait() })
	defer ending()

	var samples []footprint.Sample
	spans := 0
	tick := time.NewTicker(every)
	defer tick.Stop()
	for began := time.Now(); time.Since(began) < warm+long && !t.Failed(); <-tick.C {
		for _, s := range sink.Take() {
			if spans++; s.End < s.Start {
				t.Errorf("a span ends before it begins: %s", &s)
			}
		}
		sample := a.footprint()
		if time.Since(began) >= warm {
			samples = append(samples, sample)
		}
	}
	ending()
	load.end(t)
	quantities := soaked()
	report(t, samples, quantities)
	for _, grew := range footprint.Grew(samples, quantities) {
		t.Error(grew)
	}
	requests, _ := load.tally.count()
	if requests == 0 || calls.Load() == 0 || lives.Load() == 0 || spans == 0 {
		t.Errorf("%d requests, %d calls, %d short lives, %d spans: nothing was at stake", requests, calls.Load(), lives.Load(), spans)
	}
	for name, n := range a.losses() {
		t.Errorf("%s is %v", name, n)
	}
	t.Logf("%d requests on kept connections, %d calls on new ones, %d programs that served and ended, %d spans", requests, calls.Load(), lives.Load(), spans)
	a.stop()
}

// report prints the table and the plots, also to the file of WEFT_SOAK_REPORT.
func report(t *testing.T, samples []footprint.Sample, quantities []footprint.Quantity) {
	t.Helper()
	var out strings.Builder
	if err := footprint.Table(&out, samples, quantities, 20); err != nil {
		t.Error(err)
	}
	for _, q := range quantities[:2] {
		out.WriteString("\n" + footprint.Plot(samples, q))
	}
	t.Logf("weft, from the end of the warm-up on:\n%s", out.String())
	if file := os.Getenv("WEFT_SOAK_REPORT"); file != "" {
		if err := os.WriteFile(file, []byte(out.String()), 0o644); err != nil {
			t.Errorf("write report: %v", err)
		}
	}
}

// call sends about 40 requests a second through two services, each hop on a
// connection of its own, until told to stop.
func call(t *testing.T, stop chan struct{}, url string, calls *atomic.Int64) {
	client := &http.Client{Transport: &http.Transport{DisableKeepAlives: true}, Timeout: patience(t, 30*time.Second)}
	tick := time.NewTicker(25 * time.Millisecond)
	defer tick.Stop()
	for i := 0; ; i++ {
		select {
		case <-stop:
			return
		case <-tick.C:
		}
		got, err := one(client, url, truth.Request{ID: fmt.Sprintf("soak-%d", i)})
		if err == nil && got.ID != fmt.Sprintf("soak-%d", i) {
			err = fmt.Errorf("the answer to soak-%d is for %q", i, got.ID)
		}
		if err == nil {
			_, err = truth.Single(got.Traceparents)
		}
		if err != nil {
			t.Errorf("call %d: %v", i, err)
			return
		}
		calls.Add(1)
	}
}

// churn starts servers and clients of theirs that live for a moment each, until
// told to stop.
func churn(t *testing.T, stop chan struct{}, g *group, rawhttp string, lives *atomic.Int64) {
	for {
		select {
		case <-stop:
			return
		default:
		}
		err := live(t, g, rawhttp)
		if errors.Is(err, errNotListening) {
			err = live(t, g, rawhttp)
		}
		if err != nil {
			t.Errorf("a server and its client that live for a moment: %v", err)
			return
		}
		lives.Add(2)
	}
}

func live(t *testing.T, g *group, rawhttp string) error {
	run := func(args ...string) *exec.Cmd {
		cmd := exec.Command(rawhttp, args...)
		cmd.Env = cleanEnv()
		cmd.SysProcAttr = &syscall.SysProcAttr{UseCgroupFD: true, CgroupFD: int(g.fd.Fd())}
		return cmd
	}
	addr := fmt.Sprintf("127.0.0.1:%d", freePort(t))
	server := run("server", addr)
	if err := server.Start(); err != nil {
		return err
	}
	defer func() {
		_ = server.Process.Kill()
		_ = server.Wait() // killed
	}()
	for deadline := time.Now().Add(patience(t, 20*time.Second)); ; time.Sleep(5 * time.Millisecond) {
		c, err := net.Dial("tcp", addr)
		if err == nil {
			_ = c.Close()
			break
		}
		if time.Now().After(deadline) {
			return fmt.Errorf("%w: %w", errNotListening, err)
		}
	}
	y := &tally{answered: map[int]time.Time{}}
	var said output
	client := run("load", addr, "3", fmt.Sprint(rand.Uint64()), "150ms", "5ms")
	client.Stdout, client.Stderr = y, &said
	err := client.Run()
	requests, _ := y.count()
	if err != nil || requests == 0 || y.bad > 0 {
		return fmt.Errorf("%d requests, %d not exact, %q: %w: %s", requests, y.bad, y.examples, err, said.tail())
	}
	return nil
}

// errNotListening: the server did not come up. In a soak of hours its port may
// have been taken by another connection since it was free.
var errNotListening = errors.New("the server does not listen")
