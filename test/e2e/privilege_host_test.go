package e2e

import (
	"bufio"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"
	"unicode"

	"weft/test/apps/rawhttp/script"
)

// inNamespaces makes a program start in namespaces of its own, after a shell has
// changed them by setup.
func inNamespaces(t *testing.T, p *program, clone uintptr, setup string) {
	t.Helper()
	sh, err := tool("sh", "dash")
	need(t, "sh", err)
	p.cmd.Args = append([]string{sh, "-ec", setup + `; exec "$0" "$@"`, p.cmd.Path}, p.cmd.Args[1:]...)
	p.cmd.Path = sh
	p.cmd.SysProcAttr = &syscall.SysProcAttr{Unshareflags: syscall.CLONE_NEWNS, Cloneflags: clone}
	if clone&syscall.CLONE_NEWUSER != 0 {
		p.cmd.SysProcAttr.UidMappings = []syscall.SysProcIDMap{{ContainerID: 0, HostID: 0, Size: 1}}
		p.cmd.SysProcAttr.GidMappings = []syscall.SysProcIDMap{{ContainerID: 0, HostID: 0, Size: 1}}
	}
}

// TestPrivilegeNamespaces: where the kernel's process ids are not weft's, or weft's
// capabilities not the kernel's, it refuses to start, rather than trace whom nobody
// selected.
func TestPrivilegeNamespaces(t *testing.T) {
	config := writeConfig(t, oneTarget)
	for _, command := range [][]string{{"run", "--force", "--config", config}, {"exec", "--", "true"}} {
		for _, tt := range []struct {
			name, setup string
			clone       uintptr
			words       []string
		}{
			{"hostPID missing", "mount -t proc proc /proc", syscall.CLONE_NEWPID, []string{"not in the host's PID namespace", "hostPID: true", "--pid=host"}},
			{"PID namespace with the host's proc", "true", syscall.CLONE_NEWPID, []string{"PID namespace"}},
			{"user namespace", "true", syscall.CLONE_NEWUSER, []string{"in a user namespace", "hostUsers: true"}},
		} {
			t.Run(command[0]+" "+tt.name, func(t *testing.T) {
				p := weft(t, command...)
				inNamespaces(t, p, tt.clone, tt.setup)
				complain(t, p, append(tt.words, "weft: "+command[0]+": ")...)
				if text := p.out.String(); strings.Count(text, "\n") != 1 {
					t.Errorf("want one line:\n%s", text)
				}
			})
		}
	}
}

// TestHostWithoutCgroup2: requests are observed, and the log and doctor say why they
// carry nothing.
func TestHostWithoutCgroup2(t *testing.T) {
	mount, err := cgroupMount()
	need(t, "cgroup2", err)
	g := newGroup(t)
	r := &rig{sink: startSink(t)}
	r.addr, r.addr6 = startRawServer(t, g)
	r.client = startRawClient(t, g)
	telemetry := fmt.Sprintf("127.0.0.1:%d", freePort(t))
	config := writeConfig(t, fmt.Sprintf("targets: [{pid: %d}]\nexport: {otlp: {endpoint: %q}}\ntelemetry: {listen: %q}\n",
		r.client.cmd.Process.Pid, "http://"+r.sink.GRPC, telemetry))
	r.agent = &agent{program: weft(t, "run", "--force", "--config", config), telemetry: telemetry}
	inNamespaces(t, r.agent.program, 0, "umount -l "+mount)
	r.agent.run()
	r.agent.until(func() error { return r.agent.get("/readyz", &strings.Builder{}) })
	x := r.ask("GET", "/leaf", "")
	got := r.client.do(t, script.Step{Connect: r.addr, Send: x.bytes(), Reads: make([]script.Read, 1)}).Got
	if lines := x.exact(t, got[0]); len(lines) != 0 {
		t.Errorf("traceparent %q without cgroup v2", lines)
	}
	if spans := r.await(t, 1, x); len(spans) != 1 {
		t.Errorf("%d spans, want the client's", len(spans))
	}
	r.agent.stop()
	if text := r.agent.out.String(); !strings.Contains(text, "requests are observed but not edited") || !strings.Contains(text, "no cgroup v2 hierarchy is mounted") {
		t.Errorf("the log does not say why:\n%s", text)
	}
}

// TestHostReadOnlyBPF: weft pins nothing, says so, and works.
func TestHostReadOnlyBPF(t *testing.T) {
	if _, err := os.Stat("/sys/fs/bpf"); err != nil {
		t.Skipf("needs a kernel with a bpf file system: %v", err)
	}
	const setup = "mount -t bpf -o ro none /sys/fs/bpf"
	g := newGroup(t)
	r := &rig{sink: startSink(t)}
	r.addr, r.addr6 = startRawServer(t, g)
	r.client = startRawClient(t, g)
	telemetry := fmt.Sprintf("127.0.0.1:%d", freePort(t))
	config := writeConfig(t, fmt.Sprintf("targets: [{cgroup: %q}]\nexport: {otlp: {endpoint: %q}}\ntelemetry: {listen: %q}\n",
		"*/"+g.name, "http://"+r.sink.GRPC, telemetry))
	r.agent = &agent{program: weft(t, "run", "--force", "--config", config), telemetry: telemetry}
	inNamespaces(t, r.agent.program, 0, setup)
	r.agent.run()
	r.agent.until(func() error { return r.agent.get("/readyz", &strings.Builder{}) })
	r.simple(t, r.addr, r.ask("GET", "/leaf", ""))
	r.agent.stop()
	if text := r.agent.out.String(); !strings.Contains(text, "the bpf file system is read-only") {
		t.Errorf("the log does not say so:\n%s", text)
	}
	_, rows := askDoctor(t, func(p *program) { inNamespaces(t, p, 0, setup) })
	if row := rows["bpf_fs"]; row.State != "ok" || !strings.Contains(row.Why, "/sys/fs/bpf is read-only") {
		t.Errorf("doctor says %+v", row)
	}
}

// sockets are the lines of /proc/PID/net that belong to descriptors of the process:
// what it listens on, and whatever takes packets without a connection.
func sockets(t *testing.T, pid int) (listening []string) {
	t.Helper()
	mine := map[string]bool{}
	fds, err := os.ReadDir(fmt.Sprintf("/proc/%d/fd", pid))
	if err != nil {
		t.Fatal(err)
	}
	for _, fd := range fds {
		link, err := os.Readlink(fmt.Sprintf("/proc/%d/fd/%s", pid, fd.Name()))
		if inode, ok := strings.CutPrefix(link, "socket:["); err == nil && ok {
			mine[strings.TrimSuffix(inode, "]")] = true
		}
	}
	for _, table := range []struct {
		name         string
		inode, state int // columns
		listens      string
	}{
		{"tcp", 9, 3, "0A"}, {"tcp6", 9, 3, "0A"}, {"udp", 9, 3, "07"}, {"udp6", 9, 3, "07"},
		{"raw", 9, 3, ""}, {"raw6", 9, 3, ""}, {"packet", 8, 3, ""}, {"unix", 6, 3, "00010000"},
	} {
		f, err := os.Open(fmt.Sprintf("/proc/%d/net/%s", pid, table.name))
		if errors.Is(err, os.ErrNotExist) {
			continue // not in this kernel
		}
		if err != nil {
			t.Fatal(err)
		}
		for lines := bufio.NewScanner(f); lines.Scan(); {
			fields := strings.Fields(lines.Text())
			if len(fields) > table.inode && mine[fields[table.inode]] && (table.listens == "" || fields[table.state] == table.listens) {
				listening = append(listening, table.name+" "+fields[1])
			}
		}
		f.Close()
	}
	return listening
}

// TestListensNowhereElse: the one open port of a running weft is that of
// telemetry.listen, on loopback unless told otherwise.
func TestListensNowhereElse(t *testing.T) {
	t.Run("the test finds what is open", func(t *testing.T) {
		tcp, err := net.Listen("tcp", "127.0.0.1:0")
		if err != nil {
			t.Fatal(err)
		}
		defer tcp.Close()
		udp, err := net.ListenPacket("udp", "127.0.0.1:0")
		if err != nil {
			t.Fatal(err)
		}
		defer udp.Close()
		local, err := net.Listen("unix", filepath.Join(t.TempDir(), "s"))
		if err != nil {
			t.Fatal(err)
		}
		defer local.Close()
		found := strings.Join(sockets(t, os.Getpid()), " ")
		for _, want := range []string{"tcp 0100007F:", "udp 0100007F:", "unix "} {
			if !strings.Contains(found, want) {
				t.Errorf("no %q in %q", want, found)
			}
		}
	})
	g := newGroup(t)
	r := &rig{sink: startSink(t)}
	r.addr, r.addr6 = startRawServer(t, g)
	r.client = startRawClient(t, g)
	r.agent = startAgent(t, g, r.sink, agentOptions{})
	r.simple(t, r.addr, r.ask("GET", "/leaf", "")) // the exporter is connected
	_, port, err := net.SplitHostPort(r.agent.telemetry)
	if err != nil {
		t.Fatal(err)
	}
	number, err := strconv.Atoi(port)
	if err != nil {
		t.Fatal(err)
	}
	if got, want := sockets(t, r.agent.cmd.Process.Pid), []string{fmt.Sprintf("tcp 0100007F:%04X", number)}; !slices.Equal(got, want) {
		t.Errorf("open: %q, want %q", got, want)
	}
	r.agent.stop()
	off := launchAgent(t, g, r.sink, agentOptions{env: []string{"WEFT_TELEMETRY_LISTEN=off"}})
	off.until(func() error {
		if !strings.Contains(off.out.String(), "process selected") {
			return errors.New("not started yet")
		}
		return nil
	})
	if got := sockets(t, off.cmd.Process.Pid); len(got) != 0 {
		t.Errorf("open with telemetry off: %q", got)
	}
	off.stop()
	t.Run("by default", func(t *testing.T) {
		const address = "127.0.0.1:9464"
		l, err := net.Listen("tcp", address)
		if err != nil {
			t.Skipf("needs %s, the default, to be free: %v", address, err)
		}
		defer l.Close() // so that weft says which address it wants
		complain(t, weft(t, "run", "--force", "--config", writeConfig(t, oneTarget)), address, "in use")
	})
}

// TestHostileProcess: a program whose name, arguments and environment are as bad as
// the kernel allows is traced like any other, and nothing of it reaches a terminal.
func TestHostileProcess(t *testing.T) {
	const name = "evil\x1b]0;owned\x07\x9b31m\n\u202e"
	raw, err := os.ReadFile(goProgram(t, "./demo"))
	if err != nil {
		t.Fatal(err)
	}
	path := filepath.Join(t.TempDir(), name)
	if err := os.WriteFile(path, raw, 0o755); err != nil {
		t.Fatal(err)
	}
	var pairs strings.Builder
	for i := range 8000 {
		fmt.Fprintf(&pairs, "\x1b[2Jkey%d=v,", i)
	}
	env := []string{"OTEL_SERVICE_NAME=\x1b[2J" + name, "OTEL_RESOURCE_ATTRIBUTES=" + pairs.String()[:100_000]}
	for i := range 6 { // 128 KiB each at most
		env = append(env, fmt.Sprintf("LONG%d=%s", i, strings.Repeat("\x1b", 100_000)))
	}
	set, err := tool("env", "coreutils") // weft reads some of these variables itself
	need(t, "env", err)
	command := slices.Concat([]string{set}, env, []string{path})
	run := weftExec(t, nil, command...)
	if run.status != 0 || len(run.spans) < 3*2 {
		t.Fatalf("status %d, %d spans\n%.2000q", run.status, len(run.spans), run.stderr)
	}
	for _, s := range run.spans {
		if !strings.Contains(s.Service, "evil") {
			continue
		}
		if len(s.Resource) > 64+32 {
			t.Errorf("%d resource attributes", len(s.Resource))
		}
	}
	clean(t, run.stderr)
	p := weft(t, append([]string{"exec", "-v", "--"}, command...)...)
	var stdout output
	p.cmd.Env, p.cmd.Stdout = weftEnv("WEFT_LOG_LEVEL=debug"), &stdout
	p.run()
	if err := p.wait(patience(t, 3*time.Minute)); err != nil {
		t.Errorf("weft exec: %v", err)
	}
	if text := p.out.String(); !strings.Contains(text, "evil") {
		t.Errorf("the program is not in the tree:\n%q", text)
	}
	clean(t, p.out.String())

	// The same beside `weft run`, `inspect` and the log; its file is gone by then.
	g := newGroup(t)
	r := &rig{sink: startSink(t)}
	g.env = env
	sleeper := filepath.Join(t.TempDir(), name)
	sh, err := tool("sh", "dash")
	need(t, "sh", err)
	if raw, err = os.ReadFile(sh); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(sleeper, raw, 0o755); err != nil {
		t.Fatal(err)
	}
	victim := g.start("sh", launch{argv: []string{sleeper, "-c", "while :; do sleep 1; done", strings.Repeat("\x1b[31m", 20_000)}}, nil)
	victim.wanted.Store(true)
	if err := os.Remove(sleeper); err != nil {
		t.Fatal(err)
	}
	r.agent = startAgent(t, g, r.sink, agentOptions{extra: "log: {level: debug}\n"})
	r.agent.stop()
	if text := r.agent.out.String(); !strings.Contains(text, "process selected") || !strings.Contains(text, "evil") {
		t.Errorf("not selected:\n%s", text)
	}
	clean(t, r.agent.out.String())
	look := weft(t, "inspect", strconv.Itoa(victim.cmd.Process.Pid))
	look.run()
	var exit *exec.ExitError
	if err := look.wait(patience(t, 5*time.Minute)); err != nil && !errors.As(err, &exit) || !strings.Contains(look.out.String(), "evil") {
		t.Errorf("weft inspect: %v\n%q", err, look.out.String())
	}
	clean(t, look.out.String())
}

// TestExecArguments: a command gets its arguments byte by byte.
func TestExecArguments(t *testing.T) {
	sh, err := tool("sh", "dash")
	need(t, "sh", err)
	for _, args := range [][]string{{"\x9b\xff", "a,b", "", " ", "naïve"}, {"--", "-x", "--help"}, {"-v", "--", "--", "x=\xc3"}, {"\n", "\\n", "'\""}} {
		script := `for a in "$@"; do printf '%s|' "$a"; done`
		run := weftExec(t, nil, append([]string{sh, "-c", script, "sh"}, args...)...)
		if want := strings.Join(args, "|") + "|"; run.stdout != want || run.status != 0 {
			t.Errorf("status %d, %q instead of %q\n%s", run.status, run.stdout, want, run.stderr)
		}
	}
}

// clean fails if there is anything but lines of text.
func clean(t *testing.T, text string) {
	t.Helper()
	for i, r := range text {
		if r != '\n' && !unicode.IsGraphic(r) || r == unicode.ReplacementChar {
			t.Errorf("%q is printed as it is, after %q", r, text[max(0, i-60):i])
			return
		}
	}
}
