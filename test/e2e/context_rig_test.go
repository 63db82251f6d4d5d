package e2e

import (
	"bufio"
	"bytes"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"weft/test/e2e/otlpsink"
	"weft/test/e2e/truth"
)

// receiver is the last hop: a server in this process, which weft does not
// trace. It keeps every request as it came, by the id in its query, and answers
// "ok".
type receiver struct {
	addr string // host:port

	mu     sync.Mutex
	heads  map[string][][]byte
	hangUp bool // behind every answer
}

func startReceiver(t *testing.T, address string) *receiver {
	t.Helper()
	l, err := net.Listen("tcp", address)
	if err != nil {
		t.Fatal(err)
	}
	r := &receiver{addr: l.Addr().String(), heads: map[string][][]byte{}}
	t.Cleanup(func() { _ = l.Close() })
	go func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return // the test has ended
			}
			go r.serve(c)
		}
	}()
	return r
}

var queryID = regexp.MustCompile(`[?&]id=([^& ]+)`)

func (r *receiver) serve(c net.Conn) {
	defer c.Close()
	in := bufio.NewReaderSize(c, 64<<10)
	for {
		head, err := readBlock(in)
		if err != nil {
			return // whoever waits for the answer says so
		}
		body, err := readCounted(in, head)
		if err != nil {
			return
		}
		head = append(head, body...)
		r.mu.Lock()
		if id := queryID.FindSubmatch(head); id != nil {
			r.heads[string(id[1])] = append(r.heads[string(id[1])], head)
		}
		last := r.hangUp || bytes.Contains(head, []byte("Connection: close"))
		r.mu.Unlock()
		answer := "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"
		if last {
			answer = "HTTP/1.1 200 OK\r\nContent-Length: 2\r\nConnection: close\r\n\r\nok"
		}
		if _, err := io.WriteString(c, answer); err != nil || last {
			return
		}
	}
}

// readBlock reads as far as the first CR LF CR LF, whatever stands before it.
func readBlock(in *bufio.Reader) ([]byte, error) {
	var head []byte
	for !bytes.HasSuffix(head, []byte("\r\n\r\n")) {
		line, err := in.ReadBytes('\n')
		if err != nil {
			return nil, err
		}
		head = append(head, line...)
	}
	return head, nil
}

// readCounted reads the body of a request whose header block is read.
func readCounted(in *bufio.Reader, head []byte) ([]byte, error) {
	length := values(head, "content-length")
	if len(length) != 1 {
		return nil, nil
	}
	n, err := strconv.Atoi(strings.TrimSpace(length[0]))
	if err != nil {
		return nil, err
	}
	body := make([]byte, n)
	_, err = io.ReadFull(in, body)
	return body, err
}

// keep says whether connections stay open behind an answer; they do at first.
func (r *receiver) keep(open bool) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.hangUp = !open
}

// take returns and forgets what came with this id, which must be one request.
func (r *receiver) take(t *testing.T, id string) []byte {
	t.Helper()
	r.mu.Lock()
	defer r.mu.Unlock()
	heads := r.heads[id]
	delete(r.heads, id)
	if len(heads) != 1 {
		t.Fatalf("%s: %d requests came, want one", id, len(heads))
	}
	return heads[0]
}

// rawConn is a connection on which a test says every byte.
type rawConn struct {
	net.Conn
	in *bufio.Reader
}

// dialRaw connects; from is the local address, "" for any.
func dialRaw(t *testing.T, address, from string) *rawConn {
	t.Helper()
	d := net.Dialer{Timeout: patience(t, 10*time.Second)}
	if from != "" {
		d.LocalAddr = &net.TCPAddr{IP: net.ParseIP(from)}
	}
	c, err := d.DialContext(t.Context(), "tcp", address)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = c.Close() })
	if err := c.SetDeadline(time.Now().Add(patience(t, 2*time.Minute))); err != nil {
		t.Fatal(err)
	}
	return &rawConn{Conn: c, in: bufio.NewReaderSize(c, 64<<10)}
}

// answer reads one response.
func (c *rawConn) answer(method string) (int, []byte, error) {
	resp, err := http.ReadResponse(c.in, &http.Request{Method: method})
	if err != nil {
		return 0, nil, fmt.Errorf("read answer: %w", err)
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(resp.Body)
	if err != nil {
		return 0, nil, fmt.Errorf("read answer: %w", err)
	}
	return resp.StatusCode, body, nil
}

// ask sends bytes and returns the answer, which must be a 200.
func (c *rawConn) ask(t *testing.T, request []byte) []byte {
	t.Helper()
	if _, err := c.Write(request); err != nil {
		t.Fatalf("send %.200q: %v", request, err)
	}
	status, body, err := c.answer(http.MethodGet)
	if err == nil && status != http.StatusOK {
		err = errors.New(http.StatusText(status))
	}
	if err != nil {
		t.Fatalf("%.200q: %v: %.300q", request, err, body)
	}
	return body
}

// headOf makes a header block of a request line and header lines.
func headOf(first string, lines ...string) []byte {
	return []byte(strings.Join(append([]string{first + " HTTP/1.1", "Host: test"}, lines...), "\r\n") + "\r\n\r\n")
}

// values returns the values of all lines of that name, in order, as they stand.
func values(head []byte, name string) []string {
	var out []string
	for _, line := range strings.Split(string(head), "\r\n")[1:] {
		if n, v, found := strings.Cut(line, ":"); found && strings.EqualFold(n, name) {
			out = append(out, v)
		}
	}
	return out
}

// traceContext is what a header block says, as weft writes it: at most one line of
// each name, one blank behind the colon.
type traceContext struct {
	parent              truth.Traceparent // zero: none
	tracestate, baggage string            // "": none
}

// contextOf reads what weft wrote, or what a program wrote in its place.
func contextOf(t *testing.T, head []byte) traceContext {
	t.Helper()
	var c traceContext
	one := func(name string) string {
		v := values(head, name)
		if len(v) > 1 {
			t.Errorf("%d %s lines: %q", len(v), name, v)
		}
		if len(v) == 0 {
			return ""
		}
		return strings.TrimPrefix(v[0], " ")
	}
	if v := one("traceparent"); v != "" {
		c.parent, _ = truth.ParseTraceparent(v) // zero shows
	}
	c.tracestate, c.baggage = one("tracestate"), one("baggage")
	return c
}

func (c traceContext) lines() string {
	var b strings.Builder
	if c.parent.TraceID != "" {
		fmt.Fprintf(&b, "traceparent: 00-%s-%s-%02x\r\n", c.parent.TraceID, c.parent.SpanID, c.parent.Flags)
	}
	if c.tracestate != "" {
		fmt.Fprintf(&b, "tracestate: %s\r\n", c.tracestate)
	}
	if c.baggage != "" {
		fmt.Fprintf(&b, "baggage: %s\r\n", c.baggage)
	}
	return b.String()
}

// injectedInto is the header block with the context's lines where weft writes
// them: in front of the blank line.
func (c traceContext) injectedInto(head []byte) []byte {
	out := append([]byte(nil), head[:len(head)-2]...)
	return append(append(out, c.lines()...), "\r\n"...)
}

// prefork starts test/apps/prefork in the group and returns its host:port.
func prefork(t *testing.T, g *group, name, downstream string, env ...string) string {
	t.Helper()
	bin, err := tool("python3", "python3")
	need(t, "python", err)
	port := freePort(t)
	env = append(env, fmt.Sprintf("PORT=%d", port), "OTEL_SERVICE_NAME="+name, "PYTHONDONTWRITEBYTECODE=1", "PYTHONUNBUFFERED=1")
	if downstream != "" {
		env = append(env, "DOWNSTREAM="+downstream)
	}
	prog := g.start("prefork "+name, launch{env: env, argv: []string{bin, filepath.Join(appsDir(t), "prefork", "prefork.py")}}, nil)
	prog.ready(port)
	return fmt.Sprintf("127.0.0.1:%d", port)
}

// kernelCounts are the counters of the kernel side: "tracestate/kept" → value.
func (a *agent) kernelCounts() map[string]float64 {
	a.t.Helper()
	out := map[string]float64{}
	for name, v := range a.metrics() {
		m := kernelCounter.FindStringSubmatch(name)
		if m != nil {
			out[m[1]+"/"+m[2]] = v
		}
	}
	return out
}

var kernelCounter = regexp.MustCompile(`^weft_kernel_(\w+)_total\{cause="(\w+)"\}$`)

// counted judges kernel counters against those before.
func (a *agent) counted(before, want map[string]float64) {
	a.t.Helper()
	now := a.kernelCounts()
	for name, n := range want {
		got := now[name] - before[name]
		if name == "injected/socket" {
			// Into the memory of Go programs where that may be written.
			got += now["injected/memory"] - before["injected/memory"]
		}
		if got != n {
			a.t.Errorf("counter %s rose by %v, want %v", name, got, n)
		}
	}
}

// untilCounted waits until a kernel counter has risen by n since before.
func (a *agent) untilCounted(before map[string]float64, name string, n float64) {
	a.t.Helper()
	a.until(func() error {
		if got := a.kernelCounts()[name] - before[name]; got < n {
			return fmt.Errorf("counter %s rose by %v, want %v", name, got, n)
		}
		return nil
	})
}

// spansOf waits for n spans and returns them, with what should not come.
func spansOf(t *testing.T, sink *otlpsink.Sink, n int) []truth.Span {
	t.Helper()
	return spansOfAbout(t, sink, n, 0)
}

// spansOfAbout is spansOf where up to more may come.
func spansOfAbout(t *testing.T, sink *otlpsink.Sink, n, more int) []truth.Span {
	t.Helper()
	sink.Wait(n+more, patience(t, 8*time.Second))
	time.Sleep(200 * time.Millisecond) // what should not come would come now
	spans := sink.Take()
	if len(spans) < n || len(spans) > n+more {
		t.Errorf("%d spans, want %d, or up to %d more", len(spans), n, more)
	}
	return spans
}
