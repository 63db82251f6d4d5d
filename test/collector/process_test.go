package collector

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"
)

// Generous: a loaded machine is slow, and nothing waits for these when all is well.
const (
	startLimit = time.Minute
	stopLimit  = time.Minute
)

// shipped is where the files under test are.
const shipped = "../../deploy/collector"

// program returns the path of the built Collector.
func program(t *testing.T) string {
	t.Helper()
	path := os.Getenv("WEFT_OTELCOL")
	if path == "" {
		t.Fatal("WEFT_OTELCOL is not set: want the path of the built Collector: make collector")
	}
	return path
}

// collector is one running Collector.
type collector struct {
	name    string
	log     string // path of what it printed
	metrics string // host:port of its own metrics
	health  string // host:port
	grpc    string // host:port, OTLP
	http    string // host:port, OTLP; gateways only
	cmd     *exec.Cmd
	exited  chan struct{} // closed when it has
	err     error         // of its exit, after exited
}

// start runs a shipped configuration with nothing but the given addresses.
func (c *collector) start(t *testing.T, config string, extra ...string) {
	t.Helper()
	host, port, err := net.SplitHostPort(c.metrics)
	if err != nil {
		t.Fatal(err)
	}
	c.log = filepath.Join(t.TempDir(), c.name+".log")
	out, err := os.Create(c.log)
	if err != nil {
		t.Fatal(err)
	}
	defer out.Close()
	c.cmd = exec.Command(program(t), "--config", filepath.Join(shipped, config))
	c.cmd.Stdout, c.cmd.Stderr = out, out
	c.cmd.Env = append([]string{
		"OTLP_GRPC_LISTEN=" + c.grpc,
		"OTLP_HTTP_LISTEN=" + c.http,
		"HEALTH_LISTEN=" + c.health,
		"METRICS_HOST=" + host,
		"METRICS_PORT=" + port,
	}, extra...)
	// It must not outlive a test that was killed.
	c.cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	if err := c.cmd.Start(); err != nil {
		t.Fatalf("start %s: %v", c.name, err)
	}
	c.exited = make(chan struct{})
	go func() {
		c.err = c.cmd.Wait()
		close(c.exited)
	}()
	t.Cleanup(func() {
		_ = c.cmd.Process.Kill()
		<-c.exited
		if t.Failed() {
			t.Logf("%s said:\n%s", c.name, c.said())
		}
	})
}

// said returns the end of what it printed.
func (c *collector) said() []byte {
	text, err := os.ReadFile(c.log)
	if err != nil {
		return []byte(err.Error())
	}
	return text[max(0, len(text)-4000):]
}

// ready waits until the health check says so.
func (c *collector) ready(t *testing.T) {
	t.Helper()
	c.until(t, startLimit, "its health check", func() error {
		_, err := get("http://" + c.health + "/")
		return err
	})
}

// until polls condition until it returns nil.
func (c *collector) until(t *testing.T, limit time.Duration, what string, condition func() error) {
	t.Helper()
	deadline := time.Now().Add(limit)
	for {
		err := condition()
		if err == nil {
			return
		}
		select {
		case <-c.exited:
			t.Fatalf("%s exited (%v) before %s was good", c.name, c.err, what)
		case <-time.After(50 * time.Millisecond):
		}
		if time.Now().After(deadline) {
			t.Fatalf("%s: %s is not good after %v: %v", c.name, what, limit, err)
		}
	}
}

// stop ends it as Kubernetes would and wants an orderly exit.
func (c *collector) stop(t *testing.T) {
	t.Helper()
	if err := c.cmd.Process.Signal(syscall.SIGTERM); err != nil {
		t.Errorf("stop %s: %v", c.name, err)
	}
	select {
	case <-c.exited:
		if c.err != nil {
			t.Errorf("%s exited after SIGTERM: %v", c.name, c.err)
		}
	case <-time.After(stopLimit):
		t.Errorf("%s still runs %v after SIGTERM", c.name, stopLimit)
	}
}

// sum adds one of its own metrics over all labels.
func (c *collector) sum(metric string) (float64, error) {
	text, err := get("http://" + c.metrics + "/metrics")
	if err != nil {
		return 0, err
	}
	var total float64
	for line := range strings.Lines(text) {
		name, value, found := strings.Cut(strings.TrimSpace(line), "} ")
		if !found || !strings.HasPrefix(name, metric+"{") {
			continue
		}
		n, err := strconv.ParseFloat(value, 64)
		if err != nil {
			return 0, fmt.Errorf("read metric %s: %w", metric, err)
		}
		total += n
	}
	return total, nil
}

func get(url string) (string, error) {
	ctx, cancel := context.WithTimeout(context.Background(), 5*time.Second)
	defer cancel()
	request, err := http.NewRequestWithContext(ctx, http.MethodGet, url, nil)
	if err != nil {
		return "", err
	}
	response, err := http.DefaultClient.Do(request)
	if err != nil {
		return "", err
	}
	defer response.Body.Close()
	body, err := io.ReadAll(response.Body)
	if err == nil && response.StatusCode != http.StatusOK {
		err = fmt.Errorf("%s: %s: %s", url, response.Status, bytes.TrimSpace(body))
	}
	return string(body), err
}

// ports picks free ports and holds them until release, so that none is picked
// twice.
type ports struct{ held []net.Listener }

// pick returns a free host:port of the host.
func (p *ports) pick(t *testing.T, host string) string {
	t.Helper()
	return p.pickAll(t, []string{host})[0]
}

// pickAll returns one port that is free on all of the hosts.
func (p *ports) pickAll(t *testing.T, hosts []string) []string {
	t.Helper()
	var tried error
	for range 20 {
		port, addresses := "0", []string(nil)
		for _, host := range hosts {
			l, err := net.Listen("tcp", net.JoinHostPort(host, port))
			if err != nil {
				tried = errors.Join(tried, err)
				break
			}
			p.held = append(p.held, l)
			addresses = append(addresses, l.Addr().String())
			_, port, _ = net.SplitHostPort(l.Addr().String())
		}
		if len(addresses) == len(hosts) {
			return addresses
		}
	}
	t.Fatalf("no port is free on all of %v: %v", hosts, tried)
	return nil
}

func (p *ports) release() {
	for _, l := range p.held {
		l.Close()
	}
	p.held = nil
}
