package main

import (
	"context"
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// TestMain plays the roles that a benchmark under test gives its children.
func TestMain(m *testing.M) {
	if len(os.Args) == 2 {
		if play := role(os.Args[1]); play != nil {
			if err := play(os.Stdin, os.Stdout); err != nil {
				fmt.Fprintln(os.Stderr, err)
				os.Exit(1)
			}
			os.Exit(0)
		}
	}
	os.Exit(m.Run())
}

// startBench is a benchmark that is ready to measure; it ends with the test.
func startBench(t *testing.T, s settings) *bench {
	t.Helper()
	needRoot(t)
	b := &bench{settings: s, dir: t.TempDir(), progress: &progress{planned: time.Minute, begun: time.Now()}}
	t.Cleanup(func() {
		if err := b.close(); err != nil {
			t.Error(err)
		}
	})
	// Not the test's context: that ends before what is to be cleaned up.
	if err := b.start(context.Background()); err != nil {
		t.Fatal(err)
	}
	return b
}

func needRoot(t *testing.T) {
	t.Helper()
	if os.Geteuid() == 0 && !testing.Short() {
		return
	}
	const why = "makes cgroups and loads a BPF program: run as root and without -short"
	if os.Getenv("CI") == "true" {
		t.Fatal("CI must run this test; it " + why)
	}
	t.Skip(why)
}

// short loads show that something works, and measure nothing.
func short() settings {
	s := quick(defaults())
	s.phase, s.warm, s.conns, s.grace = 700*time.Millisecond, 50*time.Millisecond, 4, 30*time.Second
	return s
}

// Every hop must answer all requests, and the service behind must see each of them,
// without a header that nobody wrote.
func TestHops(t *testing.T) {
	for _, h := range hops() {
		t.Run(h.name, func(t *testing.T) {
			s := short()
			if h.check != nil {
				s.phase = 3 * time.Second // interpreters on a busy machine
			}
			b := startBench(t, s)
			in, err := findInstalled()
			if err != nil {
				t.Fatal(err)
			}
			if h.check != nil {
				if err := h.check(in); err != nil {
					t.Skipf("this machine lacks what the hop is made of: %v", err)
				}
			}
			r, err := b.hopRig(t.Context(), h)
			if err != nil {
				t.Fatal(err)
			}
			defer func() {
				if err := r.close(); err != nil {
					t.Error(err)
				}
			}()
			for n := range 2 { // the second time on a program that was started anew
				var x reading
				_, seen, err := b.under(t.Context(), r, arm{name: "nobody"}, func() (uint64, error) {
					var err error
					x, err = b.read(r, arm{}, 0, b.phase)
					return x.Sent, err
				})
				if err != nil {
					t.Fatal(err)
				}
				if seen.requests != x.Sent || x.Sent == 0 || len(b.failed) > 0 {
					t.Errorf("run %d: %d sent, %+v seen, %v", n, x.Sent, seen, b.failed)
				}
				if x.traced <= 0 || x.plain <= 0 || x.agent != 0 {
					t.Errorf("run %d: CPU of the traced program %v, of the ends %v, of no agent %v", n, x.traced, x.plain, x.agent)
				}
			}
		})
	}
}

// What answers say of the headers must be counted as a server counts them.
func TestCountEcho(t *testing.T) {
	var echo sight
	for _, body := range []string{
		`{"id":"7","headers":[["Host","x"],["traceparent","00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"]]}`,
		`{"headers":[["Traceparent","00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-00"]]}`,
		`{"headers":[["traceparent","a"],["traceparent","b"]]}`,
		`{"headers":[]}`,
	} {
		if err := countEcho(strings.NewReader(body), &echo); err != nil {
			t.Error(err)
		}
	}
	if got, want := echo.read(""), (served{Requests: 4, Traceparent: 2, Sampled: 1, Repeated: 1}); got != want {
		t.Errorf("%+v, want %+v", got, want)
	}
	if err := countEcho(strings.NewReader("not JSON"), &echo); err == nil {
		t.Error("an answer that says nothing was counted")
	}
}

// A stand-in for another agent is put through a whole section: started before each
// of its loads, its CPU time and memory measured, ended after.
func TestPeerInSection(t *testing.T) {
	s := short()
	s.phase = time.Second // nothing answered in it is an error, and machines are busy
	dir := t.TempDir()
	s.json = filepath.Join(dir, "raw.jsonl")
	// It tells what it was told, works a little, and has a child.
	p, err := parsePeer("name=other:trap 'echo ended >> " + dir + "/log; exit 0' TERM; sleep 600 & echo port={port} pids={pids} otlp={otlp} cgroup={cgroup} env=$OTEL_EXPORTER_OTLP_ENDPOINT >> " +
		dir + "/log; echo is up; while :; do sleep 0.05; i=0; while [ $i -lt 2000 ]; do i=$((i+1)); done; done")
	if err != nil {
		t.Fatal(err)
	}
	p.ready = "line:is up"
	s.peers = []peer{p}
	b := startBench(t, s)
	if b.record, err = newRecord(s, b.machine); err != nil {
		t.Fatal(err)
	}
	h := hops()[1] // without targets, which are for all arms
	r, err := b.hopRig(t.Context(), h)
	if err != nil {
		t.Fatal(err)
	}
	defer func() {
		if err := r.close(); err != nil {
			t.Error(err)
		}
	}()
	all := b.arms(r.traced.name, false)
	arms := []arm{all[armWithout], all[len(all)-1]}
	res, err := b.compareArms(t.Context(), r, arms, []int{1})
	if err != nil {
		t.Fatal(err)
	}
	res.hop = &h
	if len(b.failed) > 0 {
		t.Error(b.failed)
	}
	for n, x := range res.rounds[1] {
		if x.closed.agent <= 0 || x.memory == 0 {
			t.Errorf("round %d: the other agent used %v of the CPU and %d bytes", n, x.closed.agent, x.memory)
		}
		if base := res.rounds[0][n]; base.closed.agent != 0 || base.memory != 0 {
			t.Errorf("round %d: no agent used %v of the CPU and %d bytes", n, base.closed.agent, base.memory)
		}
	}
	log, err := os.ReadFile(filepath.Join(dir, "log"))
	if err != nil {
		t.Fatal(err)
	}
	starts := s.rounds + 1 // its programs are timed in a run of their own
	if got := strings.Count(string(log), "port="); got != starts {
		t.Errorf("started %d times, want %d", got, starts)
	}
	if got := strings.Count(string(log), "ended"); got != starts {
		t.Errorf("told to end %d times, want %d", got, starts)
	}
	if !strings.Contains(string(log), "otlp="+b.sinkAddress) || !strings.Contains(string(log), "env=http://"+b.sinkAddress) ||
		!strings.Contains(string(log), "cgroup="+r.traced.path) || strings.Contains(string(log), "{") {
		t.Errorf("it was told\n%s", log)
	}
	if pids, err := b.agents.pids(); err != nil || len(pids) > 0 {
		t.Errorf("left behind: %v, %v", pids, err)
	}
	text := res.markdown()
	for _, want := range []string{"| no agent | other |", "other: its processes hold no BPF program", "| not known |"} {
		if !strings.Contains(strings.ToLower(text), strings.ToLower(want)) {
			t.Errorf("the page does not say %q:\n%s", want, text)
		}
	}
	if err := b.record.close(); err != nil {
		t.Fatal(err)
	}
	checkRecord(t, s.json, 2*2*s.rounds, 1)
}

// checkRecord wants so many lines of each type that say something.
func checkRecord(t *testing.T, file string, loads, hooks int) {
	t.Helper()
	raw, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	seen := map[string]int{}
	for line := range strings.Lines(string(raw)) {
		var e entry
		if err := json.Unmarshal([]byte(line), &e); err != nil {
			t.Fatal(err)
		}
		seen[e.Type]++
		if e.Type != "run" && (e.Rate <= 0 || e.Sent == 0 || e.CPUUs["traced"] <= 0 || e.LatencyUs["p99"] <= 0) {
			t.Errorf("an empty line: %s", line)
		}
	}
	if seen["run"] != 1 || seen["load"] != loads || seen["hooks"] != hooks {
		t.Errorf("%v, want 1 run, %d loads and %d hooks", seen, loads, hooks)
	}
}

func TestPeerThatFails(t *testing.T) {
	b := startBench(t, short())
	r, err := b.bothEnds(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	defer func() {
		if err := r.close(); err != nil {
			t.Error(err)
		}
	}()
	for name, c := range map[string]struct {
		command, ready string
		load           time.Duration
		says           string
	}{
		"ends at once":     {"echo no permission; exit 3", "line:is up", 0, "no permission"},
		"ends in its load": {"echo is up; sleep 0.1; echo out of memory", "line:is up", 2 * time.Second, "out of memory"},
		"no such program":  {"exec /nonexistent/agent", "30s", 0, "/nonexistent/agent"},
	} {
		t.Run(name, func(t *testing.T) {
			a := arm{name: name, peer: &peer{name: name, command: c.command, ready: c.ready}}
			_, _, err := b.under(t.Context(), r, a, func() (uint64, error) {
				x, err := b.read(r, a, 0, max(c.load, b.phase))
				return x.Sent, err
			})
			if err == nil || !strings.Contains(err.Error(), c.says) {
				t.Errorf("got %v, want %q", err, c.says)
			}
			if pids, err := b.agents.pids(); err != nil || len(pids) > 0 {
				t.Errorf("left behind: %v, %v", pids, err)
			}
		})
	}
}

func TestPeerWaits(t *testing.T) {
	b := startBench(t, short())
	r, err := newRig("nothing", promise{}, load{})
	if err != nil {
		t.Fatal(err)
	}
	defer func() {
		if err := r.close(); err != nil {
			t.Error(err)
		}
	}()
	begun := time.Now()
	// A child of it does not end by being told.
	run, err := startPeer(t.Context(), peer{name: "slow", command: "(trap '' TERM; exec sleep 600) & exec sleep 600", ready: "300ms"}, r, b.agents, "", b.dir)
	if err != nil {
		t.Fatal(err)
	}
	if waited := time.Since(begun); waited < 300*time.Millisecond {
		t.Errorf("waited %v, want 300ms", waited)
	}
	if err := run.stop(100 * time.Millisecond); err != nil {
		t.Error(err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 200*time.Millisecond)
	defer cancel()
	if _, err := startPeer(ctx, peer{name: "never", command: "exec sleep 60", ready: "http://127.0.0.1:1/"}, r, b.agents, "", b.dir); err == nil {
		t.Error("a peer that never answers was taken for ready")
	}
	if pids, err := b.agents.pids(); err != nil || len(pids) > 0 {
		t.Errorf("left behind: %v, %v", pids, err)
	}
}
