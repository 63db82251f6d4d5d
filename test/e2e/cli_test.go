package e2e

import (
	"encoding/json"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"weft/test/apps/rawhttp/script"
	"weft/test/e2e/otlpsink"
	"weft/test/e2e/truth"
)

// complain runs weft to its end and judges a refusal: status 2 and, as the
// last line on stderr, one that holds all the words.
func complain(t *testing.T, p *program, words ...string) {
	t.Helper()
	p.run()
	err := p.wait(patience(t, 30*time.Second))
	text := strings.TrimRight(p.out.String(), "\n")
	if p.cmd.ProcessState == nil || p.cmd.ProcessState.ExitCode() != 2 {
		t.Errorf("want exit status 2, got %v\n%s", err, text)
	}
	noTrace(t, text)
	last := text[strings.LastIndexByte(text, '\n')+1:]
	for _, w := range words {
		if !strings.Contains(strings.ToLower(last), strings.ToLower(w)) {
			t.Errorf("the message does not say %q: %s", w, last)
		}
	}
}

const oneTarget = "targets: [{cgroup: /weft-e2e-nothing}]\n"

// TestBadConfig: one line that says what, where and how to mend it.
func TestBadConfig(t *testing.T) {
	tests := []struct {
		name, yaml string
		words      []string
	}{
		{"unknown key", oneTarget + "propagatoin: {inject: []}\n", []string{"propagatoin", "propagation", "weft.yaml:2"}},
		{"unknown nested key", oneTarget + "sampling:\n  ratoi: 1\n", []string{"ratoi", "ratio", "weft.yaml:3"}},
		{"wrong type", oneTarget + "sampling: {ratio: many}\n", []string{"ratio", "many", "weft.yaml:2"}},
		{"out of range", oneTarget + "sampling: {ratio: 7}\n", []string{"ratio", "7", "weft.yaml:2"}},
		{"not YAML", "targets: [\n", []string{"weft.yaml"}},
		{"no targets", "log: {level: info}\n", []string{"targets"}},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			p := weft(t, "run", "--config", writeConfig(t, tt.yaml))
			complain(t, p, tt.words...)
			if n := strings.Count(strings.TrimSpace(p.out.String()), "\n") + 1; n != 1 {
				t.Errorf("%d lines instead of one:\n%s", n, p.out.String())
			}
		})
	}
	t.Run("no such file", func(t *testing.T) {
		complain(t, weft(t, "run", "--config", "/nonexistent/weft.yaml"), "/nonexistent/weft.yaml")
	})
	t.Run("environment", func(t *testing.T) {
		p := weft(t, "run", "--config", writeConfig(t, oneTarget))
		p.cmd.Env = weftEnv("WEFT_SAMPLING_RATIO=lots")
		complain(t, p, "WEFT_SAMPLING_RATIO", "lots")
	})
	t.Run("unknown command", func(t *testing.T) { complain(t, weft(t, "rnu"), "rnu") })
	t.Run("unknown flag", func(t *testing.T) { complain(t, weft(t, "run", "--confg", "x"), "confg") })
}

func TestPortTaken(t *testing.T) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	taken := l.Addr().String()
	p := weft(t, "run", "--force", "--config", writeConfig(t, oneTarget+fmt.Sprintf("telemetry: {listen: %q}\n", taken)))
	complain(t, p, taken, "in use")
}

// TestWithoutRoot: nobody may not trace, and is told so.
func TestWithoutRoot(t *testing.T) {
	need(t, "root", rootUser())
	dir := t.TempDir()
	for d := dir; d != "/tmp" && d != "/"; d = filepath.Dir(d) {
		if err := os.Chmod(d, 0o755); err != nil {
			t.Fatal(err)
		}
	}
	bin, config := filepath.Join(dir, "weft"), filepath.Join(dir, "weft.yaml")
	raw, err := os.ReadFile(weftBin(t))
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(bin, raw, 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(config, []byte(oneTarget), 0o644); err != nil {
		t.Fatal(err)
	}
	nobody := func(args ...string) *program {
		p := weft(t, args...)
		p.cmd.Path, p.cmd.Args = bin, append([]string{bin}, args...)
		p.cmd.Dir = dir
		p.cmd.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: 65534, Gid: 65534}}
		return p
	}
	t.Run("run", func(t *testing.T) { complain(t, nobody("run", "--config", config), "root") })
	t.Run("exec", func(t *testing.T) { complain(t, nobody("exec", "--", "true"), "root") })
	t.Run("doctor", func(t *testing.T) {
		p := nobody("doctor")
		p.run()
		_ = p.wait(patience(t, 30*time.Second)) // the status is judged below
		if code := p.cmd.ProcessState.ExitCode(); code < 0 || code > 2 {
			t.Errorf("exit status %d", code)
		}
		noTrace(t, p.out.String())
		if !strings.Contains(p.out.String(), "root") {
			t.Errorf("doctor does not say what it could not check without root:\n%s", p.out.String())
		}
	})
}

func TestDoctor(t *testing.T) {
	p := weft(t, "doctor")
	p.run()
	err := p.wait(patience(t, 30*time.Second))
	t.Logf("weft doctor:\n%s", p.out.String())
	if p.cmd.ProcessState.ExitCode() > 1 || !strings.Contains(p.out.String(), "capture") {
		t.Errorf("weft doctor: %v", err)
	}
	var stdout output
	p = weft(t, "doctor", "--json")
	p.cmd.Stdout = &stdout
	p.run()
	_ = p.wait(patience(t, 30*time.Second)) // judged above
	var v struct {
		Capabilities []struct {
			Name  string `json:"name"`
			State string `json:"state"`
		} `json:"capabilities"`
	}
	if err := json.Unmarshal([]byte(stdout.String()), &v); err != nil || len(v.Capabilities) == 0 {
		t.Fatalf("doctor --json: %v\n%s", err, stdout.String())
	}
	for _, c := range v.Capabilities {
		if c.Name == "" || c.State == "" {
			t.Errorf("a capability without name or state:\n%s", stdout.String())
		}
	}
}

func TestVersion(t *testing.T) {
	p := weft(t, "version")
	p.run()
	if err := p.wait(patience(t, 10*time.Second)); err != nil {
		t.Error(err)
	}
	if !strings.Contains(p.out.String(), "go1.") || !strings.Contains(p.out.String(), "weft") {
		t.Errorf("weft version: %s", p.out.String())
	}
}

// TestExecStatus: exec is the command's status, and passes signals on.
func TestExecStatus(t *testing.T) {
	sh, err := tool("sh", "dash")
	need(t, "sh", err)
	for _, status := range []int{0, 7} {
		if run := weftExec(t, nil, sh, "-c", fmt.Sprintf("echo out; exit %d", status)); run.status != status || run.stdout != "out\n" {
			t.Errorf("status %d, stdout %q: want %d, out\n%s", run.status, run.stdout, status, run.stderr)
		}
	}
	if run := weftExec(t, nil, sh, "-c", "kill -KILL $$"); run.status != 137 {
		t.Errorf("status %d after SIGKILL, want 137 as a shell has it", run.status)
	}
	run := weftExec(t, nil, "/nonexistent/command")
	if run.status != 127 || strings.Count(run.stderr, "\n") != 1 || !strings.Contains(run.stderr, "/nonexistent/command") {
		t.Errorf("status %d, want 127 and one line:\n%s", run.status, run.stderr)
	}
	for _, sig := range []syscall.Signal{syscall.SIGTERM, syscall.SIGINT, syscall.SIGHUP} {
		t.Run(sig.String(), func(t *testing.T) {
			var stdout output
			p := weft(t, "exec", "--", sh, "-c", "trap 'echo caught; exit 9' TERM INT HUP; echo up; while :; do sleep 0.05; done")
			p.cmd.Stdout = &stdout
			p.run()
			p.until(func() error {
				if !strings.Contains(stdout.String(), "up") {
					return fmt.Errorf("the command has not started")
				}
				return nil
			})
			p.wanted.Store(true)
			if err := p.cmd.Process.Signal(sig); err != nil {
				t.Fatal(err)
			}
			_ = p.wait(patience(t, 15*time.Second)) // judged by its status
			if code := p.cmd.ProcessState.ExitCode(); code != 9 || !strings.Contains(stdout.String(), "caught") {
				t.Errorf("status %d, want the 9 of the command's handler; stdout %q\n%s", code, stdout.String(), p.out.tail())
			}
		})
	}
}

// TestNothingMatches: a target that selects nothing is worth a warning, after
// ten seconds.
func TestNothingMatches(t *testing.T) {
	g := newGroup(t)
	a := launchAgent(t, g, startSink(t), agentOptions{targets: `[{exe: "/usr/bin/no-such-program*"}]`})
	a.until(func() error {
		if !strings.Contains(a.out.String(), "no running process matches") {
			return fmt.Errorf("no warning yet")
		}
		return nil
	})
	a.stop()
}

// TestReceiverAway: spans wait for a receiver that is away, up to the bound,
// and are counted if it stays away.
func TestReceiverAway(t *testing.T) {
	send := func(t *testing.T, r *rig, n int) {
		t.Helper()
		for i := range n {
			x := r.ask("GET", "/leaf", "")
			s := script.Step{Send: x.bytes(), Reads: make([]script.Read, 1)}
			if i == 0 {
				s.Connect = r.addr
			}
			r.client.do(t, s)
		}
	}
	t.Run("comes back", func(t *testing.T) {
		g := newGroup(t)
		r := &rig{sink: startSink(t)}
		r.addr, r.addr6 = startRawServer(t, g)
		r.client = startRawClient(t, g)
		r.agent = startAgent(t, g, r.sink, agentOptions{protocol: "http/protobuf"})
		if err := r.sink.Close(); err != nil {
			t.Fatal(err)
		}
		send(t, r, 50)
		time.Sleep(3 * time.Second)
		back, err := otlpsink.StartAt(r.sink.GRPC, r.sink.HTTP)
		if err != nil {
			t.Fatal(err)
		}
		defer back.Close()
		back.Wait(100, patience(t, 45*time.Second))
		if got := len(back.Take()); got != 100 {
			t.Errorf("%d spans came of 100 made while the receiver was away", got)
		}
		r.agent.stop()
	})
	t.Run("stays away", func(t *testing.T) {
		g := newGroup(t)
		r := &rig{sink: startSink(t)}
		r.addr, r.addr6 = startRawServer(t, g)
		r.client = startRawClient(t, g)
		r.agent = startAgent(t, g, r.sink, agentOptions{})
		if err := r.sink.Close(); err != nil {
			t.Fatal(err)
		}
		send(t, r, 50)
		time.Sleep(2 * time.Second)
		r.agent.wanted.Store(true)
		if err := r.agent.cmd.Process.Signal(syscall.SIGTERM); err != nil {
			t.Fatal(err)
		}
		_ = r.agent.wait(patience(t, 30*time.Second)) // its output is judged
		text := r.agent.out.String()
		noTrace(t, text)
		if !strings.Contains(text, "100") || !strings.Contains(strings.ToLower(text), "drop") {
			t.Errorf("the summary does not say that 100 spans were dropped:\n%s", text)
		}
		if n := strings.Count(text, "\n"); n > 40 {
			t.Errorf("%d lines of log about one receiver", n)
		}
	})
}

// TestExecDemo is the README's first command.
func TestExecDemo(t *testing.T) {
	t.Setenv("DEMO_PAUSE", "4s") // for a machine with much else to do
	demo := goProgram(t, "./demo")
	run := weftExec(t, nil, demo)
	if run.status != 0 || strings.Count(run.stdout, "\n") != 3 {
		t.Fatalf("status %d\n%s%s", run.status, run.stdout, run.stderr)
	}
	// Three customers' calls, seen from both ends, and five to the stock.
	if len(run.spans) != 2*(3+5) {
		t.Errorf("%d spans, want 16", len(run.spans))
	}
	byID := map[string]int{}
	services := map[string]int{}
	for i, s := range run.spans {
		byID[s.SpanID] = i
		services[s.Service+" "+s.Kind]++
	}
	roots := 0
	for _, s := range run.spans {
		if s.ParentID == "" {
			roots++
			continue
		}
		i, ok := byID[s.ParentID]
		if !ok {
			t.Errorf("parent missing: %s", &s)
			continue
		}
		p := run.spans[i]
		// Every URL ends in the item that is bought.
		item := func(s truth.Span) string {
			u := s.Attr("url.full") + s.Attr("url.path") + "=" + s.Attr("url.query")
			return u[strings.LastIndexAny(strings.TrimRight(u, "="), "/=")+1:]
		}
		if p.TraceID != s.TraceID || s.Kind == p.Kind || strings.TrimRight(item(s), "=") != strings.TrimRight(item(p), "=") {
			t.Errorf("wrong edge: %s under %s", &s, &p)
		}
	}
	if roots != 3 || services["shop SERVER"] != 3 || services["shop CLIENT"] != 5 || services["stock SERVER"] != 5 {
		t.Errorf("%d roots, want 3; spans by service: %v", roots, services)
	}
	tree := exec.Command(weftBin(t), "exec", "--", demo)
	tree.Env = weftEnv()
	text, err := tree.CombinedOutput()
	if err != nil || !strings.Contains(string(text), "/take/loom") || !strings.Contains(string(text), "shop") {
		t.Errorf("weft exec -- demo: %v\n%s", err, text)
	}
	t.Logf("weft exec -- demo:\n%s", text)
}
