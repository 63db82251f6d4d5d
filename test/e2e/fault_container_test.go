package e2e

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"weft/test/apps/rawhttp/script"
	"weft/test/e2e/truth"
)

// container is how a program starts with a root of its own and in namespaces of
// its own, as a container runtime would start it. The root holds /app alone.
func container(t *testing.T, program string) launch {
	t.Helper()
	root := t.TempDir()
	raw, err := os.ReadFile(program)
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(root, "app"), raw, 0o755); err != nil {
		t.Fatal(err)
	}
	return launch{dir: "/", attr: &syscall.SysProcAttr{Chroot: root,
		Cloneflags: unix.CLONE_NEWNS | unix.CLONE_NEWPID | unix.CLONE_NEWNET | unix.CLONE_NEWUTS | unix.CLONE_NEWIPC | unix.CLONE_NEWCGROUP}}
}

// within runs a command in the network namespace of a process.
func within(t *testing.T, pid int, argv ...string) {
	t.Helper()
	nsenter, err := tool("nsenter", "util-linux")
	need(t, "sh", err)
	cmd := exec.Command(nsenter, append([]string{"--net=/proc/" + strconv.Itoa(pid) + "/ns/net", "--"}, argv...)...)
	if text, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("%s: %v\n%s", strings.Join(argv, " "), err, text)
	}
}

// TestFaultContainers: a client and a server in containers of their own, with
// nothing but a pair of interfaces between them. Inside, both are process 1 and
// their sockets are in namespaces that weft never enters.
func TestFaultContainers(t *testing.T) {
	ip, err := tool("ip", "iproute2")
	need(t, "sh", err)
	rawhttp := goProgram(t, "./test/apps/rawhttp")
	g := newGroup(t)
	r := &rig{sink: startSink(t)}
	r.addr = "10.77.0.2:8080"
	in := container(t, rawhttp)
	in.argv = []string{"/app", "server", "0.0.0.0:8080"}
	server := g.start("rawhttp server", in, nil)
	r.client = startRawClientAs(t, g, container(t, rawhttp), "/app")
	ends := []*program{server, r.client.program}
	// Both names exist in the host for a moment.
	names := []string{fmt.Sprintf("wf%da", os.Getpid()), fmt.Sprintf("wf%db", os.Getpid())}
	text, err := exec.Command(ip, "link", "add", names[0], "netns", strconv.Itoa(ends[0].cmd.Process.Pid),
		"type", "veth", "peer", "name", names[1], "netns", strconv.Itoa(ends[1].cmd.Process.Pid)).CombinedOutput()
	if err != nil {
		need(t, "veth", fmt.Errorf("no pair of interfaces: %w: %s", err, text))
	}
	for i, address := range []string{"10.77.0.2/24", "10.77.0.1/24"} {
		pid := ends[i].cmd.Process.Pid
		within(t, pid, ip, "address", "add", address, "dev", names[i])
		within(t, pid, ip, "link", "set", names[i], "up")
	}
	r.agent = startAgent(t, g, r.sink, agentOptions{})

	var xs []exchange
	var got []script.Got
	for i := range 5 {
		x := r.ask("POST", "/leaf", "body")
		s := script.Step{Send: x.bytes(), Reads: make([]script.Read, 1)}
		if i == 0 {
			s.Connect = r.addr
		}
		xs = append(xs, x)
		got = append(got, r.client.do(t, s).Got...)
	}
	spans := r.traced(t, xs, got)
	judgeIDs(t, spans, r.client.program, server)

	// As the API of a runtime would: one more process in the server's namespaces,
	// on its loopback, while weft runs.
	within(t, server.cmd.Process.Pid, ip, "link", "set", "lo", "up")
	t.Run("a process that joins", func(t *testing.T) { joins(t, g, r, server, rawhttp) })
	r.agent.stop()
}

// judgeIDs: spans carry the process ids of the host, not the 1 that each program
// knows itself by.
func judgeIDs(t *testing.T, spans []truth.Span, client, server *program) {
	t.Helper()
	for _, s := range spans {
		want := client.cmd.Process.Pid
		if s.Kind == "SERVER" {
			want = server.cmd.Process.Pid
		}
		if s.PID != want || s.Service != "app" {
			t.Errorf("span %s says process %d of %q, want %d of app", &s, s.PID, s.Service, want)
		}
	}
	if len(spans) == 0 {
		t.Error("no spans")
	}
}

// joins calls the server on its own loopback from a load that lives beside it.
func joins(t *testing.T, g *group, r *rig, server *program, rawhttp string) {
	nsenter, err := tool("nsenter", "util-linux")
	need(t, "sh", err)
	pid := strconv.Itoa(server.cmd.Process.Pid)
	y := &tally{answered: map[int]time.Time{}}
	load := g.start("rawhttp load", launch{argv: []string{nsenter, "--target", pid, "--net", "--uts", "--ipc", "--",
		rawhttp, "load", "127.0.0.1:8080", "2", "1", "500ms", "5ms"}}, y)
	if err := load.wait(patience(t, 30*time.Second)); err != nil {
		t.Errorf("load: %v\n%s", err, load.out.tail())
	}
	requests, injected := y.count()
	if y.bad > 0 || injected*10 < requests*8 || requests == 0 {
		t.Errorf("%d requests, %d with a traceparent, %d not exact: %q", requests, injected, y.bad, y.examples)
	}
	var pids []int
	r.sink.Wait(2*requests, patience(t, 3*time.Second))
	for _, s := range r.sink.Take() {
		if !slices.Contains(pids, s.PID) {
			pids = append(pids, s.PID)
		}
	}
	want := []int{server.cmd.Process.Pid, load.cmd.Process.Pid}
	slices.Sort(want)
	if slices.Sort(pids); !slices.Equal(pids, want) {
		t.Errorf("spans of processes %v, want %v", pids, want)
	}
}
