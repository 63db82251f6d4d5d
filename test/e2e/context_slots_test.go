package e2e

import (
	"bytes"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"net"
	"net/http"
	"os"
	"strconv"
	"strings"
	"testing"

	"weft/test/apps/rawhttp/script"
	"weft/test/e2e/truth"
)

// slots is how many header blocks with tracestate or baggage weft reads at a time
// (docs/propagation.md).
const slots = 128

// pipelined sends several requests at once: each has its own baggage.
func pipelined(t *testing.T, r relayRig) {
	p := &parents{n: 1 << 28}
	users := []string{"baggage: user_id=1", "X-User-Id: 2", "X-Nothing: 3", "baggage: user_id=4," + members(20, 100), "X-User-Id: 5"}
	conn := dialRaw(t, r.server, "")
	defer conn.Close()
	var all []byte
	for i, u := range users {
		all = append(all, headOf(fmt.Sprintf("GET /leaf?id=pipe-%d", i), p.line("01"), u)...)
	}
	if _, err := conn.Write(all); err != nil {
		t.Fatal(err)
	}
	for i := range users {
		if status, _, err := conn.answer(http.MethodGet); err != nil || status != http.StatusOK {
			t.Fatalf("answer %d: %d %v", i, status, err)
		}
	}
	exported := r.settle(t, len(users))
	for i, want := range []string{"1", "2", "", "4", "5"} {
		spans := exported[fmt.Sprintf("pipe-%d", i)]
		if len(spans) != 1 || spans[0].Attr("user_id") != want || spans[0].Rule != "wire" {
			t.Errorf("request %d: want user_id %q, got %s", i, want, list(spans))
		}
	}
}

// half is a header block that was begun.
type half struct {
	conn       *rawConn
	id         string
	begun, end []byte
}

// begin sends the first part of so many heads: to the end of a first piece of
// baggage, which is in the middle of a value. What comes behind it would read
// well without it, and mean something else.
func begin(t *testing.T, server string, p *parents, prefix string, n int) []half {
	t.Helper()
	var out []half
	for i := range n {
		h := half{conn: dialRaw(t, server, ""), id: fmt.Sprintf("%s-%d", prefix, i)}
		first := fmt.Sprintf("user_id=%s,note=", h.id)
		first += strings.Repeat("v", 64-len(first))
		h.begun = headOf("GET /leaf?id="+h.id, p.line("01"), "baggage: "+first)
		h.begun = h.begun[:len(h.begun)-len("\r\n\r\n")]
		h.end = []byte("user_id=invented\r\ntracestate: a=1\r\n\r\n")
		if _, err := h.conn.Write(h.begun); err != nil {
			t.Fatal(err)
		}
		out = append(out, h)
	}
	return out
}

// finish completes the head; every byte must have arrived.
func (h half) finish(t *testing.T) {
	t.Helper()
	defer h.conn.Close()
	if _, err := h.conn.Write(h.end); err != nil {
		t.Fatal(err)
	}
	resp, err := http.ReadResponse(h.conn.in, nil)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	raw, err := base64.StdEncoding.DecodeString(resp.Header.Get(script.ReportHeader))
	if err != nil {
		t.Fatal(err)
	}
	var rep script.Report
	if err := json.Unmarshal(raw, &rep); err != nil {
		t.Fatal(err)
	}
	if rep.HeadSum != sum(append(append([]byte(nil), h.begun...), h.end...)) {
		t.Errorf("%s: header block changed", h.id)
	}
}

// halfSent leaves more header blocks unfinished than weft has memory to read
// baggage in: the others go without, and it comes back however they end.
func halfSent(t *testing.T, r relayRig) {
	const over = 40
	p := &parents{n: 1 << 30}
	carried := func() traceContext { // not sampled: no spans
		x := r.pass(t, []string{p.line("00"), "tracestate: a=1", "baggage: b=2"}, nil, nil, nil)
		return contextOf(t, x.got)
	}
	before := r.agent.kernelCounts()
	all := begin(t, r.server, p, "half", slots+over)
	r.agent.untilCounted(before, "lost/slots_full", over)
	if c := carried(); c.parent.TraceID == "" || c.tracestate != "" || c.baggage != "" {
		t.Errorf("%q left, with no memory for more than traceparent", c.lines())
	}
	for _, h := range all {
		h.finish(t)
	}
	with := 0
	exported := r.settle(t, len(all))
	for _, h := range all {
		spans := exported[h.id]
		if len(spans) != 1 || spans[0].Rule != "wire" || spans[0].ParentID == "" {
			t.Errorf("%s: %s", h.id, list(spans))
			continue
		}
		if user := spans[0].Attr("user_id"); user == h.id && spans[0].TraceState == "a=1" {
			with++
		} else if user != "" || spans[0].TraceState != "" {
			t.Errorf("%s: user_id %q tracestate %q", h.id, user, spans[0].TraceState)
		}
	}
	if with != slots {
		t.Errorf("%d of %d requests have their baggage, want %d", with, len(all), slots)
	}

	ends := []struct {
		name string
		end  func(half) error
	}{
		{"closed", func(h half) error { return h.conn.Close() }},
		{"reset", func(h half) error {
			return closeAfter(h.conn.Conn.(*net.TCPConn).SetLinger(0), h.conn)
		}},
		{"spoilt", func(h half) error { // the server reads on, weft does not
			_, err := h.conn.Write(append([]byte("\x00"), h.end...))
			if err == nil {
				_, _, err = h.conn.answer(http.MethodGet)
			}
			return closeAfter(err, h.conn)
		}},
	}
	for _, e := range ends {
		before := r.agent.kernelCounts()
		// One more than there is room for: if memory had been lost, it would be
		// more than one that goes without.
		all := begin(t, r.server, p, e.name, slots+1)
		r.agent.untilCounted(before, "lost/slots_full", 1)
		r.agent.counted(before, map[string]float64{"lost/slots_full": 1})
		for _, h := range all {
			if err := e.end(h); err != nil {
				t.Fatal(err)
			}
		}
		r.agent.until(func() error { return connectionsGone(r.server) })
		r.agent.until(func() error {
			if c := carried(); c.baggage != "b=2" || c.tracestate != "a=1" {
				return fmt.Errorf("heads were %s, yet %q leaves", e.name, c.lines())
			}
			return nil
		})
	}
	before = r.agent.kernelCounts()
	last := begin(t, r.server, p, "last", slots)
	for _, h := range last {
		h.finish(t)
	}
	r.agent.counted(before, map[string]float64{"lost/slots_full": 0})
	for id, spans := range r.settle(t, len(last)) {
		if len(spans) != 1 || spans[0].Attr("user_id") != id || spans[0].Kind != truth.Server {
			t.Errorf("%s: %s", id, list(spans))
		}
	}
	if c := carried(); !bytes.Contains([]byte(c.lines()), []byte("baggage: b=2")) {
		t.Errorf("%q leaves at last", c.lines())
	}
}

// connectionsGone returns an error while a server of this machine, an IPv4
// host:port, has connections.
func connectionsGone(server string) error {
	table, err := os.ReadFile("/proc/net/tcp")
	if err != nil {
		return err
	}
	_, text, _ := strings.Cut(server, ":")
	port, err := strconv.Atoi(text)
	if err != nil {
		return err
	}
	const listening, timeWait = "0A", "06"
	for line := range strings.Lines(string(table)) {
		f := strings.Fields(line) // number, local, remote, state
		if len(f) > 3 && strings.HasSuffix(f[1], fmt.Sprintf(":%04X", port)) && f[3] != listening && f[3] != timeWait {
			return fmt.Errorf("%s still has a connection in state %s", server, f[3])
		}
	}
	return nil
}

func closeAfter(err error, c *rawConn) error {
	if closed := c.Close(); err == nil {
		err = closed
	}
	return err
}
