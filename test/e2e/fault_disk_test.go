package e2e

import (
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"weft/test/apps/rawhttp/script"
)

// fullDisk is a file system of its own without a byte to spare.
func fullDisk(t *testing.T) string {
	t.Helper()
	need(t, "root", rootUser())
	dir := t.TempDir()
	if err := unix.Mount("weft-full", dir, "tmpfs", 0, "size=64k"); err != nil {
		t.Fatalf("mount a small disk: %v", err)
	}
	t.Cleanup(func() {
		if err := unix.Unmount(dir, unix.MNT_DETACH); err != nil {
			t.Errorf("unmount the small disk: %v", err)
		}
	})
	if err := os.WriteFile(filepath.Join(dir, "ballast"), make([]byte, 1<<20), 0o600); !errors.Is(err, unix.ENOSPC) {
		t.Fatalf("fill the small disk: %v", err)
	}
	return dir
}

// TestFaultDiskFull: weft's log and its temporary folder are on a disk that is
// full. It goes on, and ends well.
func TestFaultDiskFull(t *testing.T) {
	full := fullDisk(t)
	g := newGroup(t)
	r := &rig{sink: startSink(t)}
	r.addr, r.addr6 = startRawServer(t, g)
	r.client = startRawClient(t, g)
	log, err := os.OpenFile(filepath.Join(full, "log"), os.O_CREATE|os.O_WRONLY|os.O_APPEND, 0o600)
	if err != nil {
		t.Fatal(err)
	}
	defer log.Close()
	telemetry := fmt.Sprintf("127.0.0.1:%d", freePort(t))
	r.agent = &agent{program: weft(t, "run", "--force"), telemetry: telemetry}
	// No file of configuration either: all of it comes by the environment.
	r.agent.cmd.Env = weftEnv("TMPDIR="+full, "WEFT_LOG_LEVEL=debug", "WEFT_TELEMETRY_LISTEN="+telemetry,
		fmt.Sprintf("WEFT_TARGETS=[{cgroup: %q}]", "*/"+g.name), "OTEL_EXPORTER_OTLP_ENDPOINT=http://"+r.sink.GRPC)
	r.agent.cmd.Dir = full
	r.agent.cmd.Stdout, r.agent.cmd.Stderr = log, log
	r.agent.run()
	r.agent.until(func() error { return r.agent.get("/readyz", io.Discard) })
	for range 3 {
		x := r.ask("POST", "/leaf", "body")
		r.traced(t, []exchange{x}, r.client.do(t, script.Step{Connect: r.addr, Send: x.bytes(), Reads: make([]script.Read, 1)}).Got)
	}
	r.agent.stop()
	if info, err := log.Stat(); err != nil || info.Size() > 0 {
		t.Errorf("the log has %d bytes, on a disk that is full: %v", info.Size(), err)
	}
}

// TestFaultDiskFullExec: what `weft exec` writes beside the command's own output
// has nowhere to go. The command must not notice, and the user is told in a line.
func TestFaultDiskFullExec(t *testing.T) {
	full := fullDisk(t)
	demo := goProgram(t, "./demo")
	plain := &output{}
	run := func(t *testing.T, stderr *os.File, args ...string) (*program, string) {
		t.Helper()
		stdout := &output{}
		p := weft(t, append([]string{"exec"}, args...)...)
		p.cmd.Stdout = stdout
		if stderr != nil {
			p.cmd.Stderr = stderr
		}
		p.run()
		_ = p.wait(patience(t, time.Minute)) // its status is judged
		noTrace(t, p.out.String())
		return p, stdout.String()
	}
	// What the command prints where nothing is wrong; the order may differ.
	_, text := run(t, nil, "--", demo)
	if _, err := plain.Write([]byte(text)); err != nil || strings.Count(text, "\n") != 3 {
		t.Fatalf("the demo printed %q", text)
	}
	same := func(t *testing.T, got string) {
		t.Helper()
		if strings.Count(got, "\n") != 3 {
			t.Errorf("the command printed %q, want %q", got, plain.String())
		}
	}

	t.Run("spans to a full device", func(t *testing.T) {
		device, err := os.OpenFile("/dev/full", os.O_WRONLY, 0)
		if err != nil {
			t.Fatal(err)
		}
		defer device.Close()
		for _, format := range []string{"json", "tree"} {
			p, got := run(t, device, "--format", format, "--", demo)
			same(t, got)
			// Spans that were asked for and could not be written are a failure
			// of weft's, which it could not print either.
			if code := p.cmd.ProcessState.ExitCode(); code != 1 {
				t.Errorf("%s: exit status %d, want 1", format, code)
			}
		}
	})
	t.Run("the command's status comes first", func(t *testing.T) {
		device, err := os.OpenFile("/dev/full", os.O_WRONLY, 0)
		if err != nil {
			t.Fatal(err)
		}
		defer device.Close()
		sh, err := tool("sh", "dash")
		need(t, "sh", err)
		p, got := run(t, device, "--format", "json", "--", sh, "-c", demo+"; exit 7")
		same(t, got)
		if code := p.cmd.ProcessState.ExitCode(); code != 7 {
			t.Errorf("exit status %d, want the command's 7", code)
		}
	})
	t.Run("recording to a full device", func(t *testing.T) {
		p, got := run(t, nil, "--record", "/dev/full", "--", demo)
		text := errorLines(p.out.String())
		if code := p.cmd.ProcessState.ExitCode(); code != 2 || got != "" || strings.Count(text, "\n") > 0 ||
			!strings.Contains(text, "recording") || !strings.Contains(text, syscall.ENOSPC.Error()) {
			t.Errorf("exit status %d, stdout %q, want 2 and nothing started; said:\n%s", code, got, text)
		}
	})
	t.Run("recording fills the disk", func(t *testing.T) {
		// Room for the header and not much more.
		if err := os.Truncate(filepath.Join(full, "ballast"), 52<<10); err != nil {
			t.Fatal(err)
		}
		file := filepath.Join(full, "recording")
		sh, err := tool("sh", "dash")
		need(t, "sh", err)
		// Each demo leaves about 4 KiB of records.
		p, got := run(t, nil, "--format", "json", "--record", file, "--", sh, "-c",
			"for i in 1 2 3 4 5 6 7 8 9 10 11 12; do "+demo+" || exit 3; done")
		if strings.Count(got, "\n") != 36 {
			t.Errorf("the command printed %d lines, want 36", strings.Count(got, "\n"))
		}
		_, said := splitSpans(t, p.out.String())
		said = errorLines(said)
		if code := p.cmd.ProcessState.ExitCode(); code != 1 || strings.Count(said, "\n") > 0 ||
			!strings.Contains(said, "recording is incomplete") || !strings.Contains(said, syscall.ENOSPC.Error()) {
			t.Errorf("exit status %d, want 1 and one line; said:\n%s", code, said)
		}
	})
}

// errorLines are the lines by which weft says what went wrong; its log is not
// among them, which may speak of another agent on the host.
func errorLines(text string) string {
	var out []string
	for line := range strings.Lines(text) {
		if strings.HasPrefix(line, "weft: ") {
			out = append(out, strings.TrimSpace(line))
		}
	}
	return strings.Join(out, "\n")
}

// TestFaultLogUnread: weft's log goes into a pipe that nobody reads, as that of a
// collector of logs which has stopped. It goes on, and ends when it is told to.
func TestFaultLogUnread(t *testing.T) {
	reader, log, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	defer reader.Close()
	defer log.Close()
	if _, err := unix.FcntlInt(log.Fd(), unix.F_SETPIPE_SZ, 4096); err != nil {
		t.Fatalf("make the pipe small: %v", err)
	}
	g := newGroup(t)
	r := &rig{sink: startSink(t)}
	r.addr, r.addr6 = startRawServer(t, g)
	r.client = startRawClient(t, g)
	sh, err := tool("sh", "dash")
	need(t, "sh", err)
	const many = 100 // each is a line
	g.start("sleepers", launch{argv: []string{sh, "-c", fmt.Sprintf("for i in $(seq %d); do sleep 3600 & done; wait", many)}}, nil)
	telemetry := fmt.Sprintf("127.0.0.1:%d", freePort(t))
	config := writeConfig(t, fmt.Sprintf("targets: [{cgroup: %q}]\nexport: {otlp: {endpoint: %q}}\ntelemetry: {listen: %q}\n",
		"*/"+g.name, "http://"+r.sink.GRPC, telemetry))
	r.agent = &agent{program: weft(t, "run", "--force", "--config", config), telemetry: telemetry}
	r.agent.cmd.Stdout, r.agent.cmd.Stderr = log, log
	r.agent.run()
	r.agent.until(func() error { return r.agent.get("/readyz", io.Discard) })
	eventually(t, 30*time.Second, func() error {
		if n := r.agent.metrics()["weft_processes_selected"]; n != many+3 {
			return fmt.Errorf("%v processes are selected, want %d", n, many+3)
		}
		return nil
	})
	x := r.ask("POST", "/leaf", "body")
	r.traced(t, []exchange{x}, r.client.do(t, script.Step{Connect: r.addr, Send: x.bytes(), Reads: make([]script.Read, 1)}).Got)
	r.agent.stop()
}
