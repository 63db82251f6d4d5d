package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"time"

	"github.com/prometheus/common/expfmt"
	"github.com/prometheus/common/model"
)

// agent is a running `weft run`.
type agent struct {
	cmd       *exec.Cmd
	telemetry string // host:port
	log       *output
	client    *http.Client
}

// output keeps what a process prints.
type output struct {
	mu  sync.Mutex
	buf bytes.Buffer
}

func (o *output) Write(b []byte) (int, error) {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.buf.Write(b)
}

func (o *output) String() string {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.buf.String()
}

// buildAgent builds ./cmd/agent as `make build` does.
func buildAgent(ctx context.Context, dir string) (string, error) {
	bin := filepath.Join(dir, "weft")
	cmd := exec.CommandContext(ctx, "go", "build", "-trimpath", "-o", bin, "weft/cmd/agent")
	cmd.Env = append(os.Environ(), "CGO_ENABLED=0")
	if text, err := cmd.CombinedOutput(); err != nil {
		return "", fmt.Errorf("build the agent: %w\n%s\nrun bench in the checkout, or give -weft", err, text)
	}
	return bin, nil
}

// startAgent runs the agent and waits until it is ready and has selected as many
// processes as wanted. config is YAML without the telemetry section.
func startAgent(ctx context.Context, bin, dir, config string, selected float64, g *cgroup) (*agent, error) {
	telemetry, err := freeAddress()
	if err != nil {
		return nil, err
	}
	file := filepath.Join(dir, "weft.yaml")
	config += fmt.Sprintf("telemetry: {listen: %q}\nlog: {format: json}\n", telemetry)
	if err := os.WriteFile(file, []byte(config), 0o600); err != nil {
		return nil, fmt.Errorf("write the agent's configuration: %w", err)
	}
	a := &agent{cmd: exec.CommandContext(ctx, bin, "run", "--config", file), telemetry: telemetry, log: &output{},
		client: &http.Client{Transport: &http.Transport{DisableKeepAlives: true}, Timeout: 5 * time.Second}}
	a.cmd.Env = environment(os.Environ())
	a.cmd.Stdout, a.cmd.Stderr = a.log, a.log
	a.cmd.SysProcAttr = g.attributes()
	if err := a.cmd.Start(); err != nil {
		return nil, fmt.Errorf("start the agent: %w", err)
	}
	if err := a.ready(ctx, selected); err != nil {
		return nil, errors.Join(fmt.Errorf("the agent is not ready: %w\n%s", err, a.log), a.cmd.Process.Kill(), ignoreExit(a.cmd.Wait()))
	}
	return a, nil
}

// environment leaves out what would change the agent's exporter or sampler, but
// keeps WEFT_CAPTURE.
func environment(all []string) []string {
	var out []string
	for _, kv := range all {
		if name, _, _ := strings.Cut(kv, "="); name != "WEFT_CAPTURE" && (strings.HasPrefix(name, "WEFT_") || strings.HasPrefix(name, "OTEL_")) {
			continue
		}
		out = append(out, kv)
	}
	return out
}

func (a *agent) ready(ctx context.Context, selected float64) error {
	var last error
	for deadline := time.Now().Add(time.Minute); time.Now().Before(deadline); time.Sleep(20 * time.Millisecond) {
		if ctx.Err() != nil {
			return ctx.Err()
		}
		if last = a.get("/readyz", io.Discard); last != nil {
			continue
		}
		m, err := a.metrics()
		if err != nil {
			last = err
			continue
		}
		if n := m.sum("weft_processes_selected"); n != selected {
			last = fmt.Errorf("%.0f processes selected, want %.0f", n, selected)
			continue
		}
		return nil
	}
	return last
}

func (a *agent) get(path string, out io.Writer) error {
	resp, err := a.client.Get("http://" + a.telemetry + path)
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	if _, err = io.Copy(out, resp.Body); err == nil && resp.StatusCode != http.StatusOK {
		err = fmt.Errorf("%s: %s", path, resp.Status)
	}
	return err
}

// samples are /metrics: name{labels} → value.
type samples map[string]float64

// sum adds up the samples of one name.
func (s samples) sum(name string) (total float64) {
	for key, v := range s {
		if metric, _, _ := strings.Cut(key, "{"); metric == name {
			total += v
		}
	}
	return total
}

// above are the samples over zero of the metrics whose name has one of the
// words.
func (s samples) above(words ...string) samples {
	out := samples{}
	for key, v := range s {
		name, _, _ := strings.Cut(key, "{")
		for _, word := range words {
			if v > 0 && strings.Contains(name, word) {
				out[key] = v
			}
		}
	}
	return out
}

func (a *agent) metrics() (samples, error) {
	var text bytes.Buffer
	if err := a.get("/metrics", &text); err != nil {
		return nil, fmt.Errorf("read the agent's metrics: %w", err)
	}
	return parseMetrics(&text)
}

func parseMetrics(in io.Reader) (samples, error) {
	parser := expfmt.NewTextParser(model.UTF8Validation)
	families, err := parser.TextToMetricFamilies(in)
	if err != nil {
		return nil, fmt.Errorf("parse the agent's metrics: %w", err)
	}
	out := samples{}
	for name, family := range families {
		for _, m := range family.GetMetric() {
			var labels []string
			for _, l := range m.GetLabel() {
				labels = append(labels, fmt.Sprintf("%s=%q", l.GetName(), l.GetValue()))
			}
			key := name
			if len(labels) > 0 {
				key += "{" + strings.Join(labels, ",") + "}"
			}
			out[key] = m.GetCounter().GetValue() + m.GetGauge().GetValue()
		}
	}
	return out, nil
}

// capture is how the agent says it sees sends and receives.
func (a *agent) capture() string {
	for line := range strings.Lines(a.log.String()) {
		var entry struct {
			Msg     string `json:"msg"`
			Capture string `json:"capture"`
		}
		if json.Unmarshal([]byte(line), &entry) == nil && entry.Msg == "weft is tracing" {
			return entry.Capture
		}
	}
	return "unknown"
}

// stop ends the agent as a service manager would. Its last words say whether
// anything was lost until the very end.
func (a *agent) stop() error {
	if err := a.cmd.Process.Signal(syscall.SIGTERM); err != nil {
		return fmt.Errorf("stop the agent: %w", err)
	}
	if err := a.cmd.Wait(); err != nil {
		return fmt.Errorf("the agent ended badly: %w\n%s", err, a.log)
	}
	return nil
}

// nothingLost is whether the summary of a stopped agent says so.
func (a *agent) nothingLost() bool {
	return strings.Contains(a.log.String(), "weft: stopped; nothing was lost")
}

// summary is what a stopped agent says was lost.
func (a *agent) summary() string {
	_, after, _ := strings.Cut(a.log.String(), "weft: stopped; ")
	return strings.Join(strings.Fields(after), " ")
}

func freeAddress() (string, error) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return "", fmt.Errorf("find a free port: %w", err)
	}
	return l.Addr().String(), l.Close()
}

// ignoreExit is for processes that were killed.
func ignoreExit(err error) error {
	var exit *exec.ExitError
	if errors.As(err, &exit) {
		return nil
	}
	return err
}
