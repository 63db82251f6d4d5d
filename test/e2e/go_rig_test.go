package e2e

import (
	"bufio"
	"bytes"
	"context"
	"crypto/tls"
	"encoding/json"
	"fmt"
	"io"
	"math"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"weft/test/e2e/otlpsink"
	"weft/test/e2e/truth"
	"weft/test/e2e/variant"
)

// goVersion is the Go that built a program.
type goVersion struct{ minor int }

// parseGo reads "1.21.13", or "" as the installed one.
func parseGo(t *testing.T, toolchain string) goVersion {
	t.Helper()
	if toolchain == "" {
		return goVersion{minor: 1000}
	}
	parts := strings.Split(toolchain, ".")
	minor, err := strconv.Atoi(parts[1])
	if err != nil {
		t.Fatalf("toolchain %q: %v", toolchain, err)
	}
	return goVersion{minor: minor}
}

// buildGo builds a variant, or takes what deps.sh built where there is no Go.
func buildGo(t *testing.T, v variant.Variant) string {
	t.Helper()
	p, err := findGo(t, v)
	if err != nil {
		t.Skip(err)
	}
	return p
}

func findGo(t *testing.T, v variant.Variant) (string, error) {
	t.Helper()
	if _, err := exec.LookPath("go"); err != nil {
		p, err := installed("bin", v.Name())
		if err != nil {
			return "", fmt.Errorf("no Go to build %s: %w", v.Name(), err)
		}
		return p, nil
	}
	cache, err := os.UserCacheDir()
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 15*time.Minute)
	defer cancel()
	// Beside what deps.sh installs, all of which goes into virtual machines.
	b := variant.Builder{Apps: appsDir(t), Cache: filepath.Join(cache, "weft-variants"), Log: func(s string) { t.Log(s) }}
	p, err := b.Build(ctx, v)
	if err != nil {
		t.Fatal(err)
	}
	return p, nil
}

// goHost is a group of programs, and weft on it.
type goHost struct {
	g      *group
	sink   *otlpsink.Sink
	agent  *agent // nil: untraced
	sealed string // nothing can be written into TLS here: yes, no, "" if nobody has asked
	apart  bool   // each program runs a copy of its executable
}

// executable is what a program runs: bin, or a copy of it that nobody else maps.
func (h *goHost) executable(t *testing.T, bin string) string {
	t.Helper()
	if !h.apart {
		return bin
	}
	text, err := os.ReadFile(bin)
	if err != nil {
		t.Fatal(err)
	}
	own := filepath.Join(t.TempDir(), filepath.Base(bin))
	if err := os.WriteFile(own, text, 0o755); err != nil {
		t.Fatal(err)
	}
	return own
}

func newGoHost(t *testing.T) *goHost {
	t.Helper()
	return &goHost{g: newGroup(t), sink: startSink(t)}
}

// trace starts weft, on programs that run and have no connections yet: HTTP/2 is
// written into from the preface on.
func (h *goHost) trace(t *testing.T) {
	t.Helper()
	h.agent = startAgent(t, h.g, h.sink, agentOptions{})
}

// goRig is a relay and its back end, both traced, and a driver that is not.
type goRig struct {
	*goHost
	t        *testing.T
	back     *program
	relay    *program
	protocol string
	version  goVersion
	probing  bool
	still    bool   // nothing can be written into its requests here
	base     string // URL of the relay
	control  string // socket of the back end
	client   *http.Client
}

// goConcurrency is how many requests are in flight: WEFT_E2E_CONCURRENCY, else 64. On an
// emulated machine these starve weft until its deadline passes, and nothing is written.
func goConcurrency(t *testing.T) int {
	t.Helper()
	v := os.Getenv("WEFT_E2E_CONCURRENCY")
	if v == "" {
		return 64
	}
	n, err := strconv.Atoi(v)
	if err != nil || n < 1 {
		t.Fatalf("WEFT_E2E_CONCURRENCY=%s: give a number from 1 on", v)
	}
	return n
}

func scheme(protocol string) string {
	switch protocol {
	case "http1", "h2c", "h2c-std":
		return "http"
	}
	return "https"
}

// startGoRig starts a back end and a relay.
func startGoRig(t *testing.T, h *goHost, bin, protocol string, v goVersion, env ...string) *goRig {
	t.Helper()
	r := &goRig{goHost: h, t: t, protocol: protocol, version: v}
	r.still = h.sink != nil && scheme(protocol) == "https" && h.unwritten(t)
	r.control = filepath.Join(t.TempDir(), "control")
	backAddr := fmt.Sprintf("127.0.0.1:%d", freePort(t))
	relayAddr := fmt.Sprintf("127.0.0.1:%d", freePort(t))
	r.base = scheme(protocol) + "://" + relayAddr
	r.back = h.g.start("back", launch{env: env, argv: []string{h.executable(t, bin), "-role", "back", "-listen", backAddr, "-protocol", protocol,
		"-control", r.control}}, nil)
	r.relay = h.g.start("relay", launch{env: env, argv: []string{h.executable(t, bin), "-role", "relay", "-listen", relayAddr, "-protocol", protocol,
		"-next", scheme(protocol) + "://" + backAddr}}, nil)
	r.back.listens(backAddr)
	r.relay.listens(relayAddr)
	r.client = goClient(t, protocol)
	return r
}

// leave ends the programs. They must have had nothing to complain of.
func (r *goRig) leave(t *testing.T, sum result) {
	t.Helper()
	for _, p := range []*program{r.back, r.relay} {
		p.kill()
		for _, bad := range []string{"DATA RACE", "fatal error", "panic"} {
			if strings.Contains(p.out.String(), bad) {
				t.Errorf("%s printed %q:\n%s", p.name, bad, p.out.tail())
			}
		}
	}
	sum.Passed = !t.Failed()
	if err := writeResult(sum); err != nil {
		t.Error(err)
	}
}

// end ends weft, which must have lost nothing.
func (h *goHost) end(t *testing.T) {
	t.Helper()
	if lost := h.agent.losses(); len(lost) > 0 {
		t.Errorf("lost: %v", lost)
	}
	h.agent.stop()
}

// goClient speaks to the relay.
func goClient(t *testing.T, protocol string) *http.Client {
	t.Helper()
	tr := &http.Transport{
		MaxIdleConns: goConcurrency(t), MaxIdleConnsPerHost: goConcurrency(t), MaxConnsPerHost: goConcurrency(t),
		TLSClientConfig: goTLS(),
		Protocols:       new(http.Protocols),
	}
	switch protocol {
	case "http1", "https":
		tr.Protocols.SetHTTP1(true)
	case "h2c", "h2c-std":
		tr.Protocols.SetUnencryptedHTTP2(true)
	default:
		tr.Protocols.SetHTTP2(true)
	}
	t.Cleanup(tr.CloseIdleConnections)
	return &http.Client{Transport: tr, Timeout: patience(t, 30*time.Second)}
}

// goTLS trusts the certificate that the program under test made for this run.
func goTLS() *tls.Config { return &tls.Config{InsecureSkipVerify: true, MinVersion: tls.VersionTLS12} }

// arrivals are those since the last call.
func (r *goRig) arrivals() []truth.CallArrival {
	r.t.Helper()
	c, err := net.Dial("unix", r.control)
	if err != nil {
		r.t.Fatalf("control: %v", err)
	}
	defer c.Close()
	var out []truth.CallArrival
	sc := bufio.NewScanner(c)
	sc.Buffer(nil, 1<<20)
	for sc.Scan() {
		var a truth.CallArrival
		if err := json.Unmarshal(sc.Bytes(), &a); err != nil {
			r.t.Fatalf("arrival %q: %v", sc.Text(), err)
		}
		out = append(out, a)
	}
	if err := sc.Err(); err != nil {
		r.t.Fatalf("control: %v", err)
	}
	return out
}

// settled collects arrivals until there are so many, or, where the number is not
// known, at least so many and no more come.
func (r *goRig) settled(n int, exact bool) []truth.CallArrival {
	r.t.Helper()
	var all []truth.CallArrival
	const quiet = 300 * time.Millisecond
	last := time.Now()
	for deadline := time.Now().Add(patience(r.t, 20*time.Second)); ; time.Sleep(20 * time.Millisecond) {
		more := r.arrivals()
		if len(more) > 0 {
			last = time.Now()
		}
		all = append(all, more...)
		if len(all) >= n && (exact || time.Since(last) > quiet) {
			return all
		}
		if time.Now().After(deadline) {
			r.t.Errorf("%d calls reached the back end, want %d", len(all), n)
			return all
		}
	}
}

// send makes n requests of each pattern, all of them mixed.
func (r *goRig) send(prefix string, n int, patterns ...goPattern) []truth.Relayed {
	r.t.Helper()
	requests := make([]truth.Relayed, n*len(patterns))
	var next, failed atomic.Int64
	var wg sync.WaitGroup
	for range goConcurrency(r.t) {
		wg.Go(func() {
			for {
				i := int(next.Add(1)) - 1
				if i >= len(requests) || failed.Load() > 5 {
					return
				}
				req, target := patterns[i%len(patterns)].request(prefix, i/len(patterns), r.version, r.protocol)
				requests[i] = req
				if err := r.get(target, req.Traceparents); err != nil {
					failed.Add(1)
					r.t.Errorf("request %s: %v", req.ID, err)
				}
			}
		})
	}
	wg.Wait()
	if failed.Load() > 0 {
		r.t.FailNow()
	}
	return requests
}

func (r *goRig) get(target string, traceparents []string) error {
	req, err := http.NewRequest(http.MethodGet, r.base+target, nil)
	if err != nil {
		return err
	}
	if traceparents != nil {
		req.Header["Traceparent"] = traceparents
	}
	resp, err := r.client.Do(req)
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(resp.Body)
	if err != nil {
		return err
	}
	if resp.StatusCode != http.StatusOK || len(bytes.TrimSpace(body)) == 0 {
		return fmt.Errorf("%s: %.300s", resp.Status, body)
	}
	return nil
}

// measure sends n requests of each pattern and judges them.
func (r *goRig) measure(prefix string, n int, e truth.Calls, patterns ...goPattern) *truth.Tally {
	r.t.Helper()
	e.Unwritten = r.still
	e.Requests = r.send(prefix, n, patterns...)
	least, exact := 0, true
	for _, p := range patterns {
		exact = exact && !p.optional
		switch {
		case p.shared > 0:
			least += n / p.shared
		case p.optional:
			least += n
		default:
			least += n * len(p.names())
		}
	}
	e.Arrivals = r.settled(least, exact)
	e.Spans = r.spans(e)
	return truth.CheckCalls(e)
}

// warm makes the lazy workers of the relay, in requests of their own on
// connections that serve others then.
func (r *goRig) warm() {
	r.t.Helper()
	r.measure("warm", 4*goConcurrency(r.t), truth.Calls{}, goPattern{name: "hire", calls: []string{}})
}

// spans waits for as many as the wire announces.
func (r *goRig) spans(e truth.Calls) []truth.Span {
	r.t.Helper()
	if r.agent == nil {
		return nil
	}
	n := 0
	unsampled := map[string]bool{}
	for _, q := range e.Requests {
		tp, err := truth.Single(q.Traceparents)
		unsampled[q.ID] = err == nil && !tp.Sampled()
		if !q.Unserved && !unsampled[q.ID] {
			n++
		}
	}
	for _, a := range e.Arrivals {
		tp, err := truth.Single(a.Traceparents)
		switch {
		case err == nil && tp.Sampled():
			n += 2
		case err != nil && e.Unwritten && unsampled[a.ID]:
			n++ // the back end's: it knows of no decision
		case err != nil && e.Unwritten:
			n += 2
		}
	}
	r.sink.Wait(n, patience(r.t, r.quiet()))
	// What should not come would come now, and, where nothing is written, what the wire
	// does not announce: the roots of unsampled requests, in a batch that weft sends after a second.
	quiet := 300 * time.Millisecond
	if e.Unwritten {
		quiet = 2 * time.Second
	}
	r.sink.Wait(math.MaxInt, patience(r.t, quiet))
	return r.sink.Take()
}

// quiet is how long nothing must come until no more is awaited.
func (r *goRig) quiet() time.Duration {
	if r.probing {
		return 1500 * time.Millisecond
	}
	return 8 * time.Second
}

// attached waits until calls of the relay have the parents that only the tier
// for Go finds.
func (r *goRig) attached(t *testing.T) {
	t.Helper()
	r.t = t
	r.probing = true
	defer func() { r.probing = false }()
	for i := 0; ; i++ {
		tally := r.measure(fmt.Sprintf("probe%d", i), 2, truth.Calls{}, somePatterns("goctx", "errgroup")...)
		if tally.Err() == nil {
			return
		}
		if i == 30 {
			r.t.Fatalf("not followed from within: %v", tally.Err())
		}
	}
}

// unwritten says whether requests stay as they are on this machine: inside TLS
// only the program's memory is left to write to.
func (h *goHost) unwritten(t *testing.T) bool {
	t.Helper()
	if h.sealed == "" {
		h.sealed = unwritten(t)
	}
	return h.sealed == "yes"
}

// unwritten asks weft, which takes its time on an emulated machine.
func unwritten(t *testing.T) string {
	t.Helper()
	p := weft(t, "doctor", "--json")
	var out output
	p.cmd.Stdout = &out
	p.run()
	// What it finds makes its exit status, which is no failure here.
	_ = p.wait(patience(t, time.Minute))
	var found struct {
		Capabilities []struct{ Name, State, Why string }
	}
	if err := json.Unmarshal([]byte(out.String()), &found); err != nil {
		t.Fatalf("weft doctor --json: %v\n%s", err, p.out.tail())
	}
	for _, c := range found.Capabilities {
		if c.Name == "go.writes" {
			t.Logf("go.writes: %s: %s", c.State, c.Why)
			if c.State == "ok" {
				return "no"
			}
			return "yes"
		}
	}
	t.Fatalf("weft doctor does not know go.writes:\n%s", out.String())
	return ""
}

// goVariants are the ways of building that a run covers, from WEFT_E2E_GO: small
// (the default), or full.
func goVariants(t *testing.T) []variant.Variant {
	t.Helper()
	switch how := os.Getenv("WEFT_E2E_GO"); how {
	case "", "small":
		return variant.Small()
	case "full":
		return variant.Full()
	default:
		t.Fatalf("WEFT_E2E_GO=%s: want small or full", how)
		return nil
	}
}

// goLocal is the installed toolchain with the newest modules.
var goLocal = variant.Go("", false)
