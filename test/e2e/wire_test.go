package e2e

import (
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"os"
	"strings"
	"testing"
	"time"

	"weft/test/apps/rawhttp/script"
	"weft/test/e2e/otlpsink"
	"weft/test/e2e/truth"
)

// rawClient is a `rawhttp client` process, steered step by step.
type rawClient struct {
	*program
	enc     *json.Encoder
	results chan script.Result
}

func startRawClient(t *testing.T, g *group) *rawClient {
	t.Helper()
	return startRawClientAs(t, g, launch{}, goProgram(t, "./test/apps/rawhttp"))
}

// startRawClientAs starts the client of that path as l says.
func startRawClientAs(t *testing.T, g *group, l launch, rawhttp string) *rawClient {
	t.Helper()
	in, stdin, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	stdout, out, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	c := &rawClient{enc: json.NewEncoder(stdin), results: make(chan script.Result)}
	l.stdin, l.argv = in, []string{rawhttp, "client"}
	c.program = g.start("rawhttp client", l, out)
	_ = in.Close() // the child has its own
	_ = out.Close()
	go func() {
		defer close(c.results)
		dec := json.NewDecoder(stdout)
		for {
			var r script.Result
			if err := dec.Decode(&r); err != nil {
				return // the client has ended
			}
			c.results <- r
		}
	}()
	t.Cleanup(func() {
		select {
		case <-c.program.ended: // too early, which its own cleanup says
		default:
			c.program.wanted.Store(true) // it ends when its input does
		}
		_ = stdin.Close()
		_ = stdout.Close()
	})
	return c
}

// do runs one step, which must not fail.
func (c *rawClient) do(t *testing.T, s script.Step) script.Result {
	t.Helper()
	r := c.try(t, s)
	if r.Error != "" {
		t.Fatalf("step failed: %s", r.Error)
	}
	return r
}

// try runs one step, which may fail.
func (c *rawClient) try(t *testing.T, s script.Step) script.Result {
	t.Helper()
	if err := c.enc.Encode(s); err != nil {
		t.Fatalf("send step: %v", err)
	}
	select {
	case r, ok := <-c.results:
		if !ok {
			t.Fatalf("rawhttp client ended: %s", c.out.tail())
		}
		return r
	case <-time.After(patience(t, 20*time.Second)):
		t.Fatalf("no answer to a step within 20 s: the connection stands still")
	}
	return script.Result{}
}

func startRawServer(t *testing.T, g *group) (v4, v6 string) {
	t.Helper()
	v4 = fmt.Sprintf("127.0.0.1:%d", freePort(t))
	argv := []string{goProgram(t, "./test/apps/rawhttp"), "server", v4}
	if ipv6Loopback() == nil {
		v6 = fmt.Sprintf("[::]:%d", freePort(t))
		argv = append(argv, v6)
	}
	g.start("rawhttp server", launch{argv: argv}, nil).listens(v4)
	return v4, v6
}

// rig is a traced raw client and server.
type rig struct {
	client *rawClient
	addr   string // the server, by IPv4
	addr6  string // the server's v6 wildcard, "" without IPv6
	sink   *otlpsink.Sink
	agent  *agent
	spans  []truth.Span // all that came and were not judged yet
	serial int
}

func newRig(t *testing.T) *rig {
	t.Helper()
	g := newGroup(t)
	r := &rig{sink: startSink(t)}
	r.addr, r.addr6 = startRawServer(t, g)
	r.client = startRawClient(t, g)
	r.agent = startAgent(t, g, r.sink, agentOptions{})
	return r
}

// exchange is one request as the client sends it.
type exchange struct {
	id         string
	path       string
	method     string
	head, body []byte
	ctx        []string // own traceparent values in head
}

// ask makes a request; lines are header lines without their ends.
func (r *rig) ask(method, path, body string, lines ...string) exchange {
	r.serial++
	x := exchange{id: fmt.Sprintf("raw-%d", r.serial), path: path, method: method, body: []byte(body)}
	x.head = fmt.Appendf(nil, "%s %s?id=%s HTTP/1.1\r\nHost: test\r\n", method, path, x.id)
	for _, l := range lines {
		x.head = append(x.head, l+"\r\n"...)
		if name, value, _ := strings.Cut(l, ":"); strings.EqualFold(name, "traceparent") {
			x.ctx = append(x.ctx, strings.TrimSpace(value))
		}
	}
	if body != "" && !strings.Contains(string(x.head), "chunked") {
		x.head = fmt.Appendf(x.head, "Content-Length: %d\r\n", len(body))
	}
	x.head = append(x.head, "\r\n"...)
	return x
}

func (x exchange) bytes() []byte { return append(append([]byte(nil), x.head...), x.body...) }

func sum(b []byte) string {
	s := sha256.Sum256(b)
	return hex.EncodeToString(s[:])
}

// exact compares what the server received with what the client sent, and
// returns the traceparent lines that came.
func (x exchange) exact(t *testing.T, got script.Got) []string {
	t.Helper()
	rep := got.Report
	if rep == nil {
		t.Fatalf("%s: answer %d without a report", x.id, got.Status)
	}
	switch {
	case rep.BodySum != sum(x.body):
		t.Errorf("%s: body changed: %d bytes of %d", x.id, rep.BodyLen, len(x.body))
	case len(x.ctx) > 0 || len(rep.Traceparents) == 0:
		if rep.HeadSum != sum(x.head) {
			t.Errorf("%s: header block changed, traceparent lines %q", x.id, rep.Traceparents)
		}
	case rep.StrippedSum != sum(x.head):
		t.Errorf("%s: header block changed beyond a traceparent line", x.id)
	}
	return rep.Traceparents
}

// await returns the spans of these exchanges, once there are n or no more come.
func (r *rig) await(t *testing.T, n int, xs ...exchange) []truth.Span {
	t.Helper()
	ids := map[string]bool{}
	for _, x := range xs {
		ids[x.id] = true
	}
	deadline := time.Now().Add(patience(t, 8*time.Second))
	for {
		r.spans = append(r.spans, r.sink.Take()...)
		var mine, rest []truth.Span
		for _, s := range r.spans {
			if ids[s.ID()] {
				mine = append(mine, s)
			} else {
				rest = append(rest, s)
			}
		}
		if len(mine) >= n || time.Now().After(deadline) {
			r.spans = rest
			return mine
		}
		time.Sleep(20 * time.Millisecond)
	}
}

// traced judges exchanges that must be exact, injected and exported: a client
// span that is a root, and the server's under it. It returns the spans.
func (r *rig) traced(t *testing.T, xs []exchange, got []script.Got) []truth.Span {
	t.Helper()
	if len(got) != len(xs) {
		t.Fatalf("%d answers to %d requests", len(got), len(xs))
	}
	var arrivals []truth.Arrival
	for i, x := range xs {
		arrivals = append(arrivals, truth.Arrival{ID: x.id, Traceparents: x.exact(t, got[i])})
	}
	spans := r.await(t, 2*len(xs), xs...)
	byPath := map[string]truth.Evidence{}
	for i, x := range xs {
		e := byPath[x.path]
		e.Caller = true
		e.Hops = []truth.Hop{{Path: x.path, Selected: true}}
		e.Requests = append(e.Requests, truth.Request{ID: x.id, Traceparents: x.ctx})
		e.Arrivals = append(e.Arrivals, arrivals[i])
		for _, s := range spans {
			if s.ID() == x.id {
				e.Spans = append(e.Spans, s)
			}
		}
		byPath[x.path] = e
	}
	for _, e := range byPath {
		if err := truth.Check(e).Err(); err != nil {
			t.Error(err)
		}
	}
	for i, x := range xs {
		for _, s := range spans {
			if s.ID() != x.id {
				continue
			}
			if m := s.Attr("http.request.method"); m != x.method {
				t.Errorf("%s: method %q, sent %s", x.id, m, x.method)
			}
			if code := s.Attr("http.response.status_code"); code != fmt.Sprint(got[i].Status) {
				t.Errorf("%s: status %q, received %d", x.id, code, got[i].Status)
			}
		}
	}
	return spans
}

// refused judges an exchange into which nothing could be written: exact, and
// two spans that are roots.
func (r *rig) refused(t *testing.T, x exchange, got script.Got) {
	t.Helper()
	if lines := x.exact(t, got); len(lines) != 0 {
		t.Fatalf("%s: traceparent %q", x.id, lines)
	}
	spans := r.await(t, 2, x)
	if len(spans) != 2 {
		t.Errorf("%s: %d spans, want 2: %s", x.id, len(spans), list(spans))
	}
	for _, s := range spans {
		if s.ParentID != "" || s.Rule != "none" {
			t.Errorf("no header was written, yet: %s", &s)
		}
		if s.Kind == truth.Client && s.Propagation != "refused" {
			t.Errorf("propagation %q where nothing was written: %s", s.Propagation, &s)
		}
	}
}

// simple sends requests one after another, one send each, and judges them.
func (r *rig) simple(t *testing.T, connect string, xs ...exchange) []truth.Span {
	t.Helper()
	var got []script.Got
	for i, x := range xs {
		s := script.Step{Send: x.bytes(), Reads: []script.Read{{Method: x.method}}}
		if i == 0 {
			s.Connect = connect
		}
		got = append(got, r.client.do(t, s).Got...)
	}
	return r.traced(t, xs, got)
}

func list(spans []truth.Span) string {
	var b strings.Builder
	for i := range spans {
		b.WriteString("\n\t" + spans[i].String())
	}
	return b.String()
}
