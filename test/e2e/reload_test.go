package e2e

import (
	"context"
	"fmt"
	"os"
	"strings"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"weft/test/e2e/truth"
)

// file is the configuration that the agent was given.
func (a *agent) file() string { return a.cmd.Args[len(a.cmd.Args)-1] }

// reload writes a configuration and has the agent read it, until it has counted
// that with this result.
func (a *agent) reload(yaml, result string) error {
	a.t.Helper()
	before, err := a.reloads(result)
	if err != nil {
		return err
	}
	if err := os.WriteFile(a.file(), []byte(yaml), 0o600); err != nil {
		return err
	}
	if err := a.cmd.Process.Signal(syscall.SIGHUP); err != nil {
		return err
	}
	for deadline := time.Now().Add(patience(a.t, time.Minute)); ; time.Sleep(20 * time.Millisecond) {
		now, err := a.reloads(result)
		if err != nil || now != before {
			return err
		}
		if time.Now().After(deadline) {
			return fmt.Errorf("no reload counted as %s\n%s", result, a.out.tail())
		}
	}
}

// reloads is how many reloads the agent has counted with a result.
func (a *agent) reloads(result string) (string, error) {
	var text strings.Builder
	if err := a.get("/metrics", &text); err != nil {
		return "", err
	}
	for line := range strings.Lines(text.String()) {
		if value, ok := strings.CutPrefix(line, fmt.Sprintf("weft_reloads_total{result=%q} ", result)); ok {
			return value, nil
		}
	}
	return "", fmt.Errorf("reloads that are %s are not counted", result)
}

// TestReload changes the configuration under load on connections that stay open:
// what can change does, the rest is named, and a file with a mistake changes
// nothing. No byte suffers.
func TestReload(t *testing.T) {
	g := newGroup(t)
	addr, _ := startRawServer(t, g)
	a := startAgent(t, g, startSink(t), agentOptions{})
	base, err := os.ReadFile(a.file())
	if err != nil {
		t.Fatal(err)
	}
	stretch := patience(t, time.Second)
	const longest = 120 // the load is ended when the test has seen enough
	l := startRawLoad(t, g, addr, uint64(time.Now().UnixNano()), longest*stretch)
	// The server's executable is that of the client.
	nobody := strings.Replace(string(base), "targets: [", `targets: [{args: "*rawhttp load*", exclude: true}, `, 1)

	steps := []struct {
		name, yaml, result string
		injects            bool
		says               []string
	}{
		{"unknown key", string(base) + "smapling: {ratio: 1}\n", "refused", true, []string{"smapling", "sampling", "stays in force"}},
		{"not YAML", "targets: [\n", "refused", true, nil},
		{"no targets", "log: {level: info}\n", "refused", true, []string{"no targets"}},
		{"observe only", string(base) + "propagation: {inject: []}\n", "applied", false, nil},
		{"as before", string(base), "applied", true, nil},
		{"not to this network", string(base) + "propagation: {egress: [{cidr: \"127.0.0.0/8\", inject: []}]}\n", "applied", false, nil},
		{"one baggage key", string(base) + "propagation: {egress: [{cidr: \"127.0.0.0/8\", baggage_keys: [a]}]}\n", "applied", true, nil},
		{"another one", string(base) + "propagation: {egress: [{cidr: \"127.0.0.0/8\", baggage_keys: [b]}]}\n", "applied", true, nil},
		{"not selected", nobody, "applied", false, nil},
		{"needs a restart", string(base) + "capture: kprobe\nlog: {format: json, level: debug}\n", "applied", true,
			[]string{"need a restart", "capture, log.format"}},
	}
	type window struct {
		name     string
		from, to time.Time
		injects  bool
	}
	var windows []window
	for _, s := range steps {
		said := len(a.out.String())
		if err := a.reload(s.yaml, s.result); err != nil {
			t.Fatalf("%s: %v", s.name, err)
		}
		// Requests on their way keep what was decided for them.
		time.Sleep(stretch / 2)
		from := time.Now()
		time.Sleep(stretch)
		windows = append(windows, window{s.name, from, time.Now(), s.injects})
		for _, want := range s.says {
			if text := a.out.String()[said:]; !strings.Contains(text, want) {
				t.Errorf("%s: not said: %q\n%s", s.name, want, text)
			}
		}
	}
	l.kill()
	samples := l.samples(t)
	for _, w := range windows {
		in := between(samples, w.from, w.to)
		share := injected(in)
		t.Logf("%-20s %5d requests, %.3f injected", w.name, len(in), share)
		switch {
		case len(in) == 0:
			t.Errorf("%s: connections stand still", w.name)
		case w.injects && share < 0.9 || !w.injects && share != 0:
			t.Errorf("%s: %.3f of %d requests have a traceparent", w.name, share, len(in))
		}
	}
	noTrace(t, a.out.String())
	a.stop()
}

// TestReloadLosesNothing reloads policy and sampling over and over while requests
// cross services: each is whole, and has the right parents.
func TestReloadLosesNothing(t *testing.T) {
	c := chain{"gunicorn-express", []link{{start: gunicorn}, {start: express}}}
	g := newGroup(t)
	sink := startSink(t)
	url := c.start(t, g, true)
	a := startAgent(t, g, sink, agentOptions{})
	base, err := os.ReadFile(a.file())
	if err != nil {
		t.Fatal(err)
	}
	// All of these keep everything of these requests.
	variants := []string{
		"sampling: {rules: [{path: /other, ratio: 0}]}\n",
		"propagation: {egress: [{cidr: \"127.0.0.0/8\", baggage_keys: [a]}]}\n",
		"propagation: {trust: [\"127.0.0.0/8\"], egress: [{cidr: \"10.0.0.0/8\", inject: []}]}\nbaggage: {attributes: [user_id]}\n",
		"baggage: {set: {user_id: {header: X-User-Id}, tenant: {header: X-Tenant}}}\n",
		"baggage: {set: {user_id: {header: X-Tenant}}}\n",
		"sampling: {tail: {ratio: 1, wait: 100ms}}\n",
		"",
	}
	ctx, stop := context.WithCancel(t.Context())
	var reloads atomic.Int64
	done := make(chan error, 1)
	go func() {
		for i := 0; ctx.Err() == nil; i++ {
			if err := a.reload(string(base)+variants[i%len(variants)], "applied"); err != nil {
				done <- err
				return
			}
			reloads.Add(1)
		}
		done <- nil
	}()
	const conc = 4
	hops := c.hops(1) // the leaf calls nobody
	enough := int64(len(variants))
	judged := int64(0) // reloads
	for round, begun := 0, time.Now(); judged < enough && time.Since(begun) < patience(t, 2*time.Minute); round++ {
		before, expired := reloads.Load(), a.kernelCounts()["refused/expired"]
		d := drive(t, url, fmt.Sprintf("reload%d", round), scaled(t, 500), conc, c.contexts())
		spans := gather(t, sink, hops, d.requests)
		if late := a.kernelCounts()["refused/expired"] - expired; late > 0 {
			t.Logf("round %d: this machine kept weft waiting for more than 900 ms; injection paused", round)
			continue
		}
		judged += reloads.Load() - before
		if err := truth.Check(truth.Evidence{Hops: hops, Requests: d.requests, Arrivals: d.arrivals, Spans: spans}).Err(); err != nil {
			t.Errorf("round %d: %v", round, err)
			break
		}
	}
	stop()
	if err := <-done; err != nil {
		t.Error(err)
	}
	t.Logf("%d reloads while requests were under way", judged)
	if judged < 2 {
		t.Error("too few to judge")
	}
	if lost := a.losses(); len(lost) > 0 {
		t.Errorf("lost: %v", lost)
	}
	a.stop()
}
