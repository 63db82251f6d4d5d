package e2e

import (
	"bufio"
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httputil"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"weft/test/e2e/strict"
	"weft/test/e2e/truth"
)

// goOrder is what a gomatrix client is told; see test/apps/gomatrix.
type goOrder struct {
	Prefix      string `json:"prefix"`
	Count       int    `json:"count"`
	Concurrency int    `json:"concurrency"`
	Kind        string `json:"kind"`
	Pad         int    `json:"pad"`
	Grow        int    `json:"grow"`
}

// goCaller is a traced client of a strict server, which is not traced.
type goCaller struct {
	*goRig
	server  *strict.Server
	control string
}

func startGoCaller(t *testing.T, conns int) *goCaller {
	t.Helper()
	server, err := strict.Start()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = server.Close() })
	h := newGoHost(t)
	c := &goCaller{goRig: &goRig{goHost: h, t: t}, server: server, control: filepath.Join(t.TempDir(), "control")}
	argv := []string{buildGo(t, goLocal), "-role", "client", "-next", "http://" + server.Addr, "-control", c.control, "-conns", fmt.Sprint(conns)}
	c.relay = c.g.start("client", launch{argv: argv}, nil)
	c.back = c.relay
	c.relay.until(func() error {
		_, err := os.Stat(c.control)
		return err
	})
	c.trace(t)
	return c
}

// order has requests sent, and returns what reached the server.
func (c *goCaller) order(o goOrder) []strict.Request {
	c.t.Helper()
	conn, err := net.Dial("unix", c.control)
	if err != nil {
		c.t.Fatal(err)
	}
	defer conn.Close()
	if err := conn.SetDeadline(time.Now().Add(patience(c.t, 5*time.Minute))); err != nil {
		c.t.Fatal(err)
	}
	if err := json.NewEncoder(conn).Encode(o); err != nil {
		c.t.Fatal(err)
	}
	answer, err := bufio.NewReader(conn).ReadString('\n')
	if err != nil || answer != "ok\n" {
		c.t.Errorf("client: %q %v", answer, err)
	}
	requests, problems := c.server.Take()
	for i, p := range problems {
		if i < 5 {
			c.t.Errorf("malformed: %s", p)
		}
	}
	if len(requests) != o.Count || len(problems) > 0 {
		c.t.Errorf("%d requests of %d arrived, %d malformed", len(requests), o.Count, len(problems))
	}
	return requests
}

// goBuffer is the size of the buffer that net/http's Transport writes through.
const goBuffer = 4096

// TestGoHeads has a Go client send heads of every length around that of its
// write buffer, with all kinds of bodies. But for one header line they must
// arrive as without weft, byte by byte.
func TestGoHeads(t *testing.T) {
	c := startGoCaller(t, 0)
	const from, count = 3650, 550
	for _, kind := range []string{"get", "post", "chunked", "own"} {
		t.Run(kind, func(t *testing.T) {
			n, pad := count, from
			if scale(t) < 0.5 {
				n, pad = 140, goBuffer-240 // an emulated machine takes the ones around the end
			}
			o := goOrder{Prefix: kind, Count: n, Concurrency: 8, Kind: kind, Pad: pad, Grow: 1}
			least, most, without := 1<<20, 0, 0
			for _, r := range c.order(o) {
				got := strict.Without(r.Head, "traceparent")
				want := predictHead(t, c.server.Addr, r)
				if kind == "own" {
					got = r.Head
				}
				if !bytes.Equal(got, want) {
					t.Fatalf("%s: head\n%.300q\nwant\n%.300q", r.Target(), got, want)
				}
				least, most = min(least, len(want)), max(most, len(want))
				lines := r.Values("Traceparent")
				if len(lines) == 0 && len(want) > goBuffer-300 {
					without++ // no room: left alone
					continue
				}
				if _, err := truth.Single(lines); err != nil {
					t.Errorf("%s, head of %d bytes: %v", r.Target(), len(want), err)
				}
			}
			if scale(t) >= 0.5 && (least > 3900 || most < 4200) {
				t.Errorf("heads of %d to %d bytes, want 3900 to 4200 at the least", least, most)
			}
			t.Logf("%d heads of %d to %d bytes, %d without traceparent", n, least, most, without)
		})
	}
	c.agent.stop()
}

// predictHead is the head that net/http writes by itself for a request like r.
func predictHead(t *testing.T, addr string, r strict.Request) []byte {
	t.Helper()
	u, err := url.Parse("http://" + addr + r.Target())
	if err != nil {
		t.Fatal(err)
	}
	req := &http.Request{Method: strings.Fields(string(r.Head))[0], URL: u, Header: http.Header{}}
	for _, name := range []string{"X-Truth", "X-Pad"} {
		req.Header[name] = r.Values(name)
	}
	if strings.HasPrefix(u.Query().Get("id"), "own-") {
		req.Header["Traceparent"] = r.Values("Traceparent")
	}
	if req.Method == http.MethodPost {
		req.Body, req.ContentLength = io.NopCloser(strings.NewReader(strings.Repeat("x", r.Body))), int64(r.Body)
		if r.Values("Transfer-Encoding") != nil {
			req.ContentLength = -1
		}
	}
	text, err := httputil.DumpRequestOut(req, false)
	if err != nil {
		t.Fatal(err)
	}
	return text
}

// TestGoReuse sends many requests over one connection: each has a trace of its
// own, and a span.
func TestGoReuse(t *testing.T) {
	n := scaled(t, 100_000)
	c := startGoCaller(t, 1)
	requests := c.order(goOrder{Prefix: "reuse", Count: n, Concurrency: 4, Kind: "get", Pad: 20})
	traces := map[string]string{}
	for _, r := range requests {
		if r.Conn != 1 {
			t.Fatalf("%s came on connection %d", r.Target(), r.Conn)
		}
		tp, err := truth.Single(r.Values("Traceparent"))
		if err != nil {
			t.Fatalf("%s: %v", r.Target(), err)
		}
		if traces[tp.TraceID] != "" {
			t.Fatalf("%s and %s share a trace", r.Target(), traces[tp.TraceID])
		}
		traces[tp.TraceID] = r.Target()
	}
	c.sink.Wait(n, patience(t, 8*time.Second))
	spans := c.sink.Take()
	for i := range spans {
		s := &spans[i]
		if target := traces[s.TraceID]; s.Kind != truth.Client || s.ParentID != "" || !strings.Contains(target, "id="+s.ID()+"&") {
			t.Fatalf("trace of %q: %s", target, s)
		}
	}
	if len(spans) != n {
		t.Errorf("%d spans of %d requests", len(spans), n)
	}
	if lost := c.agent.losses(); len(lost) > 0 {
		t.Errorf("lost: %v", lost)
	}
	c.agent.stop()
}

// untilStopped keeps requests coming from so many clients, and reports those
// that failed when it is stopped.
func (r *goRig) untilStopped(prefix string, patterns ...goPattern) (stop func() (sent, failed int64)) {
	var next, failed atomic.Int64
	var wg sync.WaitGroup
	done := make(chan struct{})
	for range min(goConcurrency(r.t), 16) {
		wg.Go(func() {
			for {
				select {
				case <-done:
					return
				default:
				}
				i := int(next.Add(1)) - 1
				_, target := patterns[i%len(patterns)].request(prefix, i, r.version, r.protocol)
				if err := r.get(target, nil); err != nil {
					failed.Add(1)
					time.Sleep(time.Millisecond) // the relay may be away
				}
			}
		})
	}
	return func() (int64, int64) {
		close(done)
		wg.Wait()
		return next.Load(), failed.Load()
	}
}

func somePatterns(names ...string) []goPattern {
	var out []goPattern
	for _, p := range goPatterns {
		for _, name := range names {
			if p.name == name {
				out = append(out, p)
			}
		}
	}
	return out
}

// TestGoExit kills a relay in the middle of its requests, again and again. What
// is exported has no wrong parent, and its successor is traced as exactly.
func TestGoExit(t *testing.T) {
	r := startGoRig(t, newGoHost(t), buildGo(t, goLocal), "http1", parseGo(t, ""))
	r.trace(t)
	r.attached(t)
	stop := r.untilStopped("exit", somePatterns("same", "go", "pool", "fan", "forget")...)
	for range 5 {
		time.Sleep(patience(t, 300*time.Millisecond))
		r.relay.kill()
		argv := r.relay.cmd.Args
		r.relay = r.g.start("relay", launch{argv: argv}, nil)
		r.relay.listens(strings.TrimPrefix(r.base, "http://"))
	}
	sent, failed := stop()
	if sent == failed {
		t.Fatalf("all of %d requests failed", sent)
	}
	r.settled(0, false)
	r.sink.Wait(1<<30, patience(t, 3*time.Second))
	spans := r.sink.Take()
	servers := map[string]*truth.Span{}
	for i := range spans {
		if spans[i].Kind == truth.Server {
			servers[spans[i].SpanID] = &spans[i]
		}
	}
	wrong, right := 0, 0
	for i := range spans {
		s := &spans[i]
		if p := servers[s.ParentID]; p != nil && s.Kind == truth.Client {
			if right++; p.ID() != s.ID() || p.PID != s.PID {
				wrong++
				t.Errorf("parent %s of %s", p, s)
			}
		}
	}
	t.Logf("%d requests, %d failed; %d spans, %d edges, %d wrong", sent, failed, len(spans), right, wrong)
	if right == 0 {
		t.Error("nothing was traced")
	}
	r.exact("after", somePatterns("same", "noctx", "go", "pool", "pool-background", "fan"))
	r.agent.stop()
}

// exact awaits that processes are attached, and then that every call is right.
func (r *goRig) exact(prefix string, patterns []goPattern) {
	r.t.Helper()
	r.attached(r.t)
	tally := r.measure(prefix, scaled(r.t, 200), truth.Calls{}, patterns...)
	r.t.Logf("%s: %v", prefix, tally)
	if err := tally.Err(); err != nil {
		r.t.Errorf("%s:\n%v", prefix, err)
	}
}

// TestGoAgentKill ends weft by SIGKILL under load, and starts it again: the
// programs answer every request, the header ends, and comes back.
func TestGoAgentKill(t *testing.T) {
	r := startGoRig(t, newGoHost(t), buildGo(t, goLocal), "http1", parseGo(t, ""))
	r.trace(t)
	r.attached(t)
	load := somePatterns("same", "post", "go", "pool", "retry", "redirect", "parallel", "proxy")
	stop := r.untilStopped("kill", load...)
	for range 3 {
		r.attachedUnderLoad()
		r.agent.wanted.Store(true)
		if err := r.agent.cmd.Process.Signal(syscall.SIGKILL); err != nil {
			t.Fatal(err)
		}
		<-r.agent.ended
		// Injection ends by the deadline that only a living agent renews.
		time.Sleep(1200 * time.Millisecond)
		r.arrivals()
		time.Sleep(patience(t, 300*time.Millisecond))
		left := 0
		after := r.arrivals()
		for _, a := range after {
			if len(a.Traceparents) > 0 {
				left++
			}
		}
		if left > 0 || len(after) == 0 {
			t.Errorf("%d of %d calls carry a traceparent after weft was killed", left, len(after))
		}
		r.sink.Take()
		r.trace(t)
	}
	sent, failed := stop()
	if failed > 0 {
		t.Errorf("%d of %d requests failed", failed, sent)
	}
	t.Logf("%d requests", sent)
	// Connections that have been idle since an earlier agent are followed from their
	// second request on.
	for i := range 3 {
		r.send(fmt.Sprintf("again%d", i), 2*goConcurrency(t), load...)
	}
	r.settled(0, false)
	r.sink.Wait(1<<30, patience(t, 3*time.Second))
	r.sink.Take()
	r.exact("after", load)
	r.leave(t, result{Name: "go-agent-killed"})
	r.end(t)
}

// attachedUnderLoad waits for headers on the wire.
func (r *goRig) attachedUnderLoad() {
	r.t.Helper()
	for deadline := time.Now().Add(patience(r.t, 30*time.Second)); time.Now().Before(deadline); time.Sleep(50 * time.Millisecond) {
		for _, a := range r.arrivals() {
			if a.Bad != "" {
				r.t.Errorf("%s/%s: %s", a.ID, a.Call, a.Bad)
			}
			if len(a.Traceparents) == 1 {
				return
			}
		}
	}
	counts := map[string]float64{}
	for name, v := range r.agent.metrics() {
		if v > 0 && strings.Contains(name, "kernel") {
			counts[name] = v
		}
	}
	r.t.Fatalf("no header on the wire: %v", counts)
}

// TestGoRace runs programs that look for their own mistakes: with the race
// detector, and with an allocator that never uses memory twice.
func TestGoRace(t *testing.T) {
	h := newGoHost(t)
	v := goLocal
	v.Race = true
	var race *goRig
	if _, err := exec.LookPath("go"); err == nil {
		race = startGoRig(t, h, buildGo(t, v), "http1", parseGo(t, ""))
	}
	fence := startGoRig(t, h, buildGo(t, goLocal), "http1", parseGo(t, ""), "GODEBUG=efence=1")
	h.trace(t)
	t.Run("race", func(t *testing.T) {
		if race == nil {
			t.Skip("the race detector links the C library: no static program could be brought along")
		}
		race.mixed(t, v.Name(), scaled(t, 60))
	})
	t.Run("efence", func(t *testing.T) { fence.mixed(t, "efence", scaled(t, 60)) })
	h.end(t)
}
