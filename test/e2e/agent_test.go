package e2e

import (
	"bufio"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"weft/test/e2e/otlpsink"
	"weft/test/e2e/truth"
)

// agent is a running `weft run`.
type agent struct {
	*program
	telemetry string // host:port
}

// weftEnv is the environment of weft: WEFT_CAPTURE is passed through.
func weftEnv(env ...string) []string {
	if way := os.Getenv("WEFT_CAPTURE"); way != "" {
		env = append(env, "WEFT_CAPTURE="+way)
	}
	// Spans are waited for again and again: a tenth of the time that weft waits with more
	// of them by default. The last of two values counts.
	return cleanEnv(append([]string{"OTEL_BSP_SCHEDULE_DELAY=100"}, env...)...)
}

// weft prepares a weft process outside of every group.
func weft(t *testing.T, args ...string) *program {
	t.Helper()
	need(t, "root", rootUser())
	p := &program{t: t, name: "weft " + args[0], out: &output{}, ended: make(chan struct{})}
	p.cmd = exec.Command(weftBin(t), args...)
	p.cmd.Env = weftEnv()
	p.cmd.Stdout, p.cmd.Stderr = p.out, p.out
	return p
}

func writeConfig(t *testing.T, yaml string) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "weft.yaml")
	if err := os.WriteFile(path, []byte(yaml), 0o600); err != nil {
		t.Fatal(err)
	}
	return path
}

// agentOptions change what startAgent configures.
type agentOptions struct {
	targets  string // YAML list; default: the group
	protocol string // default grpc
	extra    string // further YAML
	env      []string
}

// startAgent runs weft on the programs of the group and waits until all are
// attached.
func startAgent(t *testing.T, g *group, sink *otlpsink.Sink, o agentOptions) *agent {
	t.Helper()
	a := launchAgent(t, g, sink, o)
	a.until(func() error { return a.get("/readyz", io.Discard) })
	return a
}

func launchAgent(t *testing.T, g *group, sink *otlpsink.Sink, o agentOptions) *agent {
	t.Helper()
	endpoint := "http://" + sink.GRPC
	if o.protocol == "" {
		o.protocol = "grpc"
	}
	if o.protocol == "http/protobuf" {
		endpoint = "http://" + sink.HTTP
	}
	if o.targets == "" {
		o.targets = fmt.Sprintf("[{cgroup: %q}]", "*/"+g.name)
	}
	telemetry := fmt.Sprintf("127.0.0.1:%d", freePort(t))
	config := writeConfig(t, fmt.Sprintf("targets: %s\nexport: {otlp: {endpoint: %q, protocol: %q}}\ntelemetry: {listen: %q}\n%s",
		o.targets, endpoint, o.protocol, telemetry, o.extra))
	// Other agents may trace this machine meanwhile, other programs than these.
	a := &agent{program: weft(t, "run", "--force", "--config", config), telemetry: telemetry}
	a.cmd.Env = weftEnv(o.env...)
	a.run()
	return a
}

func (a *agent) get(path string, out io.Writer) error {
	client := &http.Client{Transport: &http.Transport{DisableKeepAlives: true}, Timeout: 5 * time.Second}
	resp, err := client.Get("http://" + a.telemetry + path)
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	if resp.StatusCode != http.StatusOK {
		text, _ := io.ReadAll(resp.Body) // only for the message
		return fmt.Errorf("%s: %s: %s", path, resp.Status, text)
	}
	_, err = io.Copy(out, resp.Body)
	return err
}

// metrics reads every sample of /metrics: name with labels → value.
func (a *agent) metrics() map[string]float64 {
	a.t.Helper()
	var text strings.Builder
	if err := a.get("/metrics", &text); err != nil {
		a.t.Fatalf("read metrics: %v", err)
	}
	out := map[string]float64{}
	for line := range strings.Lines(text.String()) {
		line = strings.TrimSpace(line)
		if line == "" || line[0] == '#' {
			continue
		}
		at := strings.LastIndexByte(line, ' ')
		v, err := strconv.ParseFloat(line[at+1:], 64)
		if err != nil {
			a.t.Fatalf("metrics line %q: %v", line, err)
		}
		out[line[:at]] = v
	}
	return out
}

// losses are the counters of what was lost, by cause; empty is right.
func (a *agent) losses() map[string]float64 {
	a.t.Helper()
	out := map[string]float64{}
	for name, v := range a.metrics() {
		if v > 0 && (strings.Contains(name, "lost") || strings.Contains(name, "dropped")) {
			out[name] = v
		}
	}
	return out
}

// missed are the runs of hooks that the kernel skipped, by program, because the
// program had been interrupted on that CPU.
func (a *agent) missed() map[string]float64 {
	a.t.Helper()
	out := map[string]float64{}
	for name, v := range a.metrics() {
		if v > 0 && strings.HasPrefix(name, "weft_bpf_program_missed_runs_total") {
			out[name] = v
		}
	}
	return out
}

// stop ends weft as a service manager would, and judges how it went.
func (a *agent) stop() {
	a.t.Helper()
	a.wanted.Store(true)
	if err := a.cmd.Process.Signal(syscall.SIGTERM); err != nil {
		a.t.Fatalf("stop weft: %v", err)
	}
	if err := a.wait(patience(a.t, 15*time.Second)); err != nil {
		a.t.Errorf("weft after SIGTERM: %v\n%s", err, a.out.tail())
	}
	noTrace(a.t, a.out.String())
}

// noTrace fails if a Go stack trace was printed.
func noTrace(t *testing.T, text string) {
	t.Helper()
	if strings.Contains(text, "panic:") || strings.Contains(text, "DATA RACE") || stackOf.MatchString(text) {
		t.Errorf("a stack trace:\n%s", text)
	}
}

// stackOf begins each stack that Go's runtime prints; weft's log has the word too.
var stackOf = regexp.MustCompile(`(?m)^goroutine \d+ `)

// execRun is the outcome of `weft exec --format json`.
type execRun struct {
	spans  []truth.Span
	stdout string
	stderr string // without the spans
	status int
}

// weftExec runs a command under weft to its end.
func weftExec(t *testing.T, env []string, argv ...string) execRun {
	t.Helper()
	p := weft(t, append([]string{"exec", "--format", "json", "--"}, argv...)...)
	p.cmd.Env = weftEnv(env...)
	var stdout output
	p.cmd.Stdout = &stdout
	p.run()
	err := p.wait(patience(t, time.Minute))
	var exit *exec.ExitError
	if err != nil && !errors.As(err, &exit) {
		t.Fatalf("weft exec: %v\n%s", err, p.out.tail())
	}
	run := execRun{stdout: stdout.String(), status: p.cmd.ProcessState.ExitCode()}
	run.spans, run.stderr = splitSpans(t, p.out.String())
	noTrace(t, run.stderr)
	return run
}

// splitSpans separates the lines that are spans from what else was printed.
func splitSpans(t *testing.T, text string) ([]truth.Span, string) {
	t.Helper()
	var spans []truth.Span
	var rest strings.Builder
	sc := bufio.NewScanner(strings.NewReader(text))
	sc.Buffer(nil, 1<<20)
	for sc.Scan() {
		line := sc.Text()
		if !strings.HasPrefix(line, `{"traceId"`) {
			rest.WriteString(line + "\n")
			continue
		}
		var s truth.Span
		if err := json.Unmarshal([]byte(line), &s); err != nil {
			t.Fatalf("span %s: %v", line, err)
		}
		spans = append(spans, s)
	}
	return spans, rest.String()
}

func startSink(t *testing.T) *otlpsink.Sink {
	t.Helper()
	sink, err := otlpsink.Start()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := sink.Close(); err != nil {
			t.Errorf("close OTLP receiver: %v", err)
		}
	})
	return sink
}
