package e2e

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"
)

// memoryGroup is a cgroup of its own that limits memory, of the hierarchy that
// has the memory controller: v2 in most places, v1 on a hybrid host.
type memoryGroup struct {
	dir              string
	limit, usage     string // files
	killed, killedAs string // a file, and what a line of it begins with
}

func newMemoryGroup(t *testing.T) *memoryGroup {
	t.Helper()
	need(t, "root", rootUser())
	m, parent, err := memoryController()
	need(t, "memory-controller", err)
	m.dir = filepath.Join(parent, fmt.Sprintf("weft-e2e-memory-%d", os.Getpid()))
	if err := os.Mkdir(m.dir, 0o755); err != nil {
		t.Fatalf("create cgroup: %v", err)
	}
	t.Cleanup(func() {
		eventually(t, 10*time.Second, func() error { return os.Remove(m.dir) })
	})
	return m
}

func memoryController() (*memoryGroup, string, error) {
	v2 := &memoryGroup{limit: "memory.max", usage: "memory.current", killed: "memory.events", killedAs: "oom_kill "}
	if mount, err := cgroupMount(); err == nil {
		has := func(file string) bool {
			text, err := os.ReadFile(filepath.Join(mount, file))
			return err == nil && slices.Contains(strings.Fields(string(text)), "memory")
		}
		if has("cgroup.controllers") && !has("cgroup.subtree_control") {
			if err := os.WriteFile(filepath.Join(mount, "cgroup.subtree_control"), []byte("+memory"), 0o644); err != nil {
				return nil, "", fmt.Errorf("the memory controller of cgroup v2 is there and may not be used: %w", err)
			}
		}
		if has("cgroup.subtree_control") {
			return v2, mount, nil
		}
	}
	const v1 = "/sys/fs/cgroup/memory"
	if _, err := os.Stat(filepath.Join(v1, "memory.limit_in_bytes")); err == nil {
		return &memoryGroup{limit: "memory.limit_in_bytes", usage: "memory.usage_in_bytes",
			killed: "memory.oom_control", killedAs: "oom_kill "}, v1, nil
	}
	return nil, "", errors.New("no cgroup hierarchy has the memory controller; a kernel with CONFIG_MEMCG has, unless cgroup_disable=memory")
}

// tighten limits the group to what it uses and so many bytes more, and returns
// what it uses.
func (m *memoryGroup) tighten(t *testing.T, more int) int {
	t.Helper()
	for tries := 0; ; tries++ {
		text, err := os.ReadFile(filepath.Join(m.dir, m.usage))
		if err != nil {
			t.Fatal(err)
		}
		usage, err := strconv.Atoi(strings.TrimSpace(string(text)))
		if err != nil {
			t.Fatal(err)
		}
		err = os.WriteFile(filepath.Join(m.dir, m.limit), []byte(strconv.Itoa(usage+more)), 0o644)
		if err == nil {
			return usage
		}
		// v1 takes no limit below what is used, and that may have grown.
		if !errors.Is(err, syscall.EBUSY) || tries == 20 {
			t.Fatalf("limit the group's memory: %v", err)
		}
	}
}

// kills is how many processes of the group the kernel has killed for memory.
func (m *memoryGroup) kills(t *testing.T) int {
	t.Helper()
	text, err := os.ReadFile(filepath.Join(m.dir, m.killed))
	if err != nil {
		t.Fatal(err)
	}
	for line := range strings.Lines(string(text)) {
		if value, ok := strings.CutPrefix(line, m.killedAs); ok {
			n, err := strconv.Atoi(strings.TrimSpace(value))
			if err != nil {
				t.Fatal(err)
			}
			return n
		}
	}
	t.Fatalf("%s does not count kills:\n%s", m.killed, text)
	return 0
}

// TestFaultOutOfMemory: weft reaches the limit of its memory, for its receiver is
// away and its queue has been made too long for it, and the kernel kills it. The
// traced programs go on, and injection ends. Maps are charged to the limit too:
// shortly before the end the programs in the kernel get no memory for new
// connections, and must do without.
func TestFaultOutOfMemory(t *testing.T) {
	m := newMemoryGroup(t)
	g := newGroup(t)
	server := goProgram(t, "./test/apps/rawhttp")
	addr, _ := startRawServer(t, g)
	load := startSteadyLoad(t, g, addr, loadClients, 2*time.Millisecond)
	sink := startSink(t)
	// It is in the group before it allocates anything: what it holds is charged there.
	sh, err := tool("sh", "dash")
	need(t, "sh", err)
	telemetry := fmt.Sprintf("127.0.0.1:%d", freePort(t))
	config := writeConfig(t, fmt.Sprintf("targets: [{cgroup: %q}]\nexport: {otlp: {endpoint: %q}}\ntelemetry: {listen: %q}\n",
		"*/"+g.name, "http://"+sink.GRPC, telemetry))
	a := &agent{program: weft(t, "run", "--force", "--config", config), telemetry: telemetry}
	bin := a.cmd.Path
	a.cmd.Path, a.cmd.Args = sh, []string{"sh", "-c", `echo $$ >"$1/cgroup.procs" && shift && exec "$@"`, "sh", m.dir, bin, "run", "--force", "--config", config}
	a.cmd.Env = weftEnv("OTEL_BSP_MAX_QUEUE_SIZE=10000000")
	a.run()
	a.wanted.Store(true) // it is to be killed, and not by the test
	a.until(func() error { return a.get("/readyz", &output{}) })
	startBurst(g, server, addr).finish(t)
	_, injected := load.tally.count()
	if err := sink.Close(); err != nil {
		t.Fatal(err)
	}

	usage := m.tighten(t, 2*mib)
	began := time.Now()
	young := 0
	for ended := false; !ended; {
		young += startBurst(g, server, addr).finish(t)
		select {
		case <-a.ended:
			ended = true
		default:
		}
		if time.Since(began) > patience(t, 2*time.Minute) {
			t.Fatalf("weft lives with 2 MiB more than the %d MiB it had", usage/mib)
		}
	}
	dead := time.Now()
	if status, ok := a.cmd.ProcessState.Sys().(syscall.WaitStatus); !ok || status.Signal() != syscall.SIGKILL || m.kills(t) == 0 {
		t.Fatalf("weft was not killed for its memory: %v, %d kills\n%s", a.err, m.kills(t), a.out.tail())
	}
	time.Sleep(time.Until(dead.Add(1200 * time.Millisecond)))
	load.sends(t, 20*loadClients)
	if last := load.tally.lastInjected(); last.After(dead.Add(1200 * time.Millisecond)) {
		t.Errorf("a request has a traceparent %v after weft was dead", last.Sub(dead))
	}
	if n := startBurst(g, server, addr).finish(t); n > 0 {
		t.Errorf("%d requests on new connections have a traceparent, and weft is dead", n)
	}
	if injected+young == 0 {
		t.Error("no request had a traceparent before: nothing was at stake")
	}
	requests, _ := load.tally.count()
	load.end(t)
	t.Logf("limit %d MiB, killed after %v; %d requests before and after, all exact", (usage+2*mib)/mib, dead.Sub(began).Round(time.Second/10), requests)
}
