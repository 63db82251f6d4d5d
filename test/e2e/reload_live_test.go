package e2e

import (
	"bytes"
	"fmt"
	"net"
	"net/netip"
	"os"
	"slices"
	"strings"
	"testing"
	"time"

	"weft/internal/privilege"
)

// pausing is a connection that pauses once, behind these bytes, while it writes.
type pausing struct {
	net.Conn
	behind []byte
	pause  func()
}

func (p *pausing) Write(b []byte) (int, error) {
	at := bytes.Index(b, p.behind)
	if at < 0 || p.pause == nil {
		return p.Conn.Write(b)
	}
	at += len(p.behind)
	n, err := p.Conn.Write(b[:at])
	if err != nil {
		return n, err
	}
	p.pause()
	p.pause = nil
	m, err := p.Conn.Write(b[at:])
	return n + m, err
}

// taken waits until the peer of c, on this host, has read everything.
func taken(t *testing.T, c net.Conn) {
	t.Helper()
	hex := func(a net.Addr) string {
		p := netip.MustParseAddrPort(a.String())
		four := p.Addr().Unmap().As4()
		return fmt.Sprintf("%02X%02X%02X%02X:%04X", four[3], four[2], four[1], four[0], p.Port())
	}
	ends := []string{hex(c.RemoteAddr()), hex(c.LocalAddr())}
	for deadline := time.Now().Add(patience(t, time.Minute)); ; time.Sleep(5 * time.Millisecond) {
		text, err := os.ReadFile("/proc/net/tcp")
		if err != nil {
			t.Fatal(err)
		}
		for line := range strings.Lines(string(text)) {
			f := strings.Fields(line) // sl local remote st tx:rx …
			if len(f) > 4 && f[1] == ends[0] && f[2] == ends[1] && strings.HasSuffix(f[4], ":00000000") {
				return
			}
		}
		if time.Now().After(deadline) {
			t.Fatalf("%v does not read", c.RemoteAddr())
		}
	}
}

// TestReloadEdges: headers become baggage, another one or none, from one request to the
// next of a connection that stays open. A request whose header block is being read
// meanwhile is decided as it began.
func TestReloadEdges(t *testing.T) {
	g := newGroup(t)
	target := startReceiver(t, "127.0.0.1:0")
	r := &relay{addr: prefork(t, g, "relay", ""), target: target}
	a := startAgent(t, g, startSink(t), agentOptions{})
	base, err := os.ReadFile(a.file())
	if err != nil {
		t.Fatal(err)
	}
	lines := []string{"X-User-Id: 4242424242424242", "X-Tenant: seven", "X-Plan: gold"}
	passes := func(name, want string) {
		t.Helper()
		for range 2 {
			members := strings.Split(contextOf(t, r.pass(t, lines, nil, nil, nil).got).baggage, ",")
			slices.Sort(members)
			if got := strings.Join(members, ","); got != want {
				t.Errorf("%s: baggage %q, want %q", name, got, want)
			}
		}
	}
	to := func(set ...string) {
		t.Helper()
		if err := a.reload(string(base)+"baggage: {set: {"+strings.Join(set, ", ")+"}}\n", "applied"); err != nil {
			t.Fatal(err)
		}
	}
	const (
		user   = "user_id: {header: X-User-Id}"
		tenant = "tenant: {header: X-Tenant}"
		plan   = "plan: {header: X-Plan}"
		all    = "tenant=seven,user_id=4242424242424242"
	)
	passes("without", "")
	kept := r.conn
	if err := kept.SetDeadline(time.Now().Add(patience(t, 10*time.Minute))); err != nil { // a reload takes a busy machine its time
		t.Fatal(err)
	}
	to(user)
	passes("one", "user_id=4242424242424242")
	to("user_id: {header: X-Tenant}")
	passes("another header", "user_id=seven")
	to(user, tenant)
	passes("two", all)

	// In the midst of a value the reload comes.
	midway := func(name, want string, set ...string) {
		t.Helper()
		r.conn = &rawConn{Conn: &pausing{Conn: kept.Conn, behind: []byte("X-User-Id: 42424"), pause: func() {
			taken(t, kept.Conn)
			to(set...)
		}}, in: kept.in}
		if got := contextOf(t, r.pass(t, lines, nil, nil, nil).got).baggage; got != want {
			t.Errorf("%s: baggage %q, want %q", name, got, want)
		}
		r.conn = kept
	}
	midway("begun under two", "user_id=4242424242424242", plan)
	passes("another", "plan=gold")
	to(user)
	midway("begun under one", "user_id=4242424242424242", tenant)
	to(user)
	// Twice behind each other there are more headers than places: the one that the
	// value was of has none left, and it is nobody else's.
	more := make([]string, 7)
	for i := range more {
		more[i] = fmt.Sprintf("k%d: {header: X-K%d}", i, i)
	}
	r.conn = &rawConn{Conn: &pausing{Conn: kept.Conn, behind: []byte("X-User-Id: 42424"), pause: func() {
		taken(t, kept.Conn)
		to(more...)
		to(more[:1]...)
		to(append(slices.Clone(more[:1]), "other: {header: X-Other}", "l2: {header: X-L2}", "l3: {header: X-L3}", "l4: {header: X-L4}",
			"l5: {header: X-L5}", "l6: {header: X-L6}", "l7: {header: X-L7}")...)
	}}, in: kept.in}
	if got := contextOf(t, r.pass(t, lines, nil, nil, nil).got); got.baggage != "" || got.parent.TraceID == "" {
		t.Errorf("begun under headers that are no longer known: %+v", got)
	}
	r.conn = kept

	// All eight are other ones: that is too many at once, and nothing of it is done.
	said := len(a.out.String())
	eight := append(slices.Clone(more), tenant)
	to(eight...)
	if text := a.out.String()[said:]; !strings.Contains(text, "needs a restart: headers that become baggage") {
		t.Errorf("not said:\n%s", text)
	}
	passes("still without", "")
	to()
	to(user, tenant)
	passes("at the end", all)
	if r.conn != kept {
		t.Error("the connection was closed")
	}
	noTrace(t, a.out.String())
	a.stop()
}

// TestReloadBegins: an agent that only observes begins to write, on connections that
// were open, and ends it, under load.
func TestReloadBegins(t *testing.T) {
	g := newGroup(t)
	addr, _ := startRawServer(t, g)
	a := startAgent(t, g, startSink(t), agentOptions{extra: "propagation: {inject: []}\n"})
	observing, err := os.ReadFile(a.file())
	if err != nil {
		t.Fatal(err)
	}
	stretch := patience(t, time.Second)
	l := startRawLoad(t, g, addr, uint64(time.Now().UnixNano()), 120*stretch)
	writing := strings.Replace(string(observing), "inject: []", "inject: [traceparent]", 1)
	var from, to []time.Time
	steps := []string{string(observing), writing, string(observing), writing}
	for i, yaml := range steps {
		if err := a.reload(yaml, "applied"); err != nil {
			t.Fatalf("step %d: %v", i, err)
		}
		time.Sleep(stretch / 2) // requests on their way keep what was decided for them
		from = append(from, time.Now())
		time.Sleep(stretch)
		to = append(to, time.Now())
		// Once it can write, it is policy that nothing is to be written.
		if got, want := a.metrics()["weft_injecting"], float64(min(i, 1)); got != want {
			t.Errorf("step %d: weft_injecting is %v, want %v", i, got, want)
		}
	}
	l.kill()
	samples := l.samples(t)
	for i := range steps {
		in := between(samples, from[i], to[i])
		t.Logf("step %d: %5d requests, %.3f injected", i, len(in), injected(in))
		if i%2 == 1 {
			judgeAdopted(t, a, in) // all of them were open before it wrote
		} else if share := injected(in); len(in) == 0 || share != 0 {
			t.Errorf("step %d: %.3f of %d requests have a traceparent", i, share, len(in))
		}
	}
	for name, n := range a.kernelCounts() {
		if strings.HasPrefix(name, "lost/") && n > 0 {
			t.Errorf("%s: %v", name, n)
		}
	}
	noTrace(t, a.out.String())
	a.stop()
}

// TestReloadMayNotBegin: where the right to write is missing, the log says so, and the
// rest of the change is in force.
func TestReloadMayNotBegin(t *testing.T) {
	g := newGroup(t)
	target := startReceiver(t, "127.0.0.1:0")
	r := &relay{addr: prefork(t, g, "relay", ""), target: target}
	confine(t, without(granted, privilege.NetAdmin)...)
	sink := startSink(t)
	a := startAgent(t, g, sink, agentOptions{extra: "propagation: {inject: []}\n"})
	base, err := os.ReadFile(a.file())
	if err != nil {
		t.Fatal(err)
	}
	lines := []string{"traceparent: " + tp(1, "01")}
	for i, propagation := range []string{"{inject: []}", "{inject: [traceparent], trust: []}"} {
		if err := a.reload(strings.Replace(string(base), "{inject: []}", propagation, 1), "applied"); err != nil {
			t.Fatal(err)
		}
		p := r.pass(t, lines, nil, nil, nil)
		if got := contextOf(t, p.got); got.parent.TraceID != "" {
			t.Errorf("%s: %+v is written", propagation, got)
		}
		for _, s := range byID(spansOf(t, sink, 2))[p.id] {
			if trusted := s.ParentID != ""; trusted != (i == 0) {
				t.Errorf("%s: trusted is %v: %s", propagation, trusted, &s)
			}
		}
	}
	if text := a.out.String(); !strings.Contains(text, "requests are observed but not edited") || !strings.Contains(text, "CAP_NET_ADMIN is missing, which editing requests takes") {
		t.Errorf("not said:\n%s", text)
	}
	if got := a.metrics()["weft_injecting"]; got != 0 {
		t.Errorf("weft_injecting is %v", got)
	}
	a.stop()
}

// TestReloadTail: traces are kept by other rules from then on, all of them where there
// are none.
func TestReloadTail(t *testing.T) {
	s := newTrio(t)
	sink := startSink(t)
	a := startAgent(t, s.g, sink, agentOptions{})
	base, err := os.ReadFile(a.file())
	if err != nil {
		t.Fatal(err)
	}
	const n = 12
	for i, tt := range []struct {
		tail string
		kept func(status int) bool
	}{
		{"{}", func(int) bool { return true }},
		{"{errors: true, ratio: 0, wait: 100ms}", func(status int) bool { return status == 500 }},
		{"{errors: false, ratio: 1, wait: 100ms}", func(int) bool { return true }},
		{"{errors: false, slower_than: 1h, ratio: 0, wait: 100ms}", func(int) bool { return false }},
		{"{}", func(int) bool { return true }},
	} {
		if err := a.reload(string(base)+"sampling: {tail: "+tt.tail+"}\n", "applied"); err != nil {
			t.Fatal(err)
		}
		var queries []query
		for k := range n {
			q := query{id: fmt.Sprintf("tail-%d-%d", i, k)}
			if k%3 == 0 {
				q.path = "/work?status=500"
			}
			queries = append(queries, q)
		}
		replies, _ := sendQueries(t, s.edge, queries)
		want := map[string]bool{}
		for _, r := range replies {
			if tt.kept(r.status) {
				want[r.id] = true
			}
		}
		spans := byID(spansOf(t, sink, 5*len(want)))
		for _, r := range replies {
			if got := len(spans[r.id]) > 0; got != want[r.id] {
				t.Errorf("%s: %s with status %d: kept %v", tt.tail, r.id, r.status, got)
			}
		}
	}
	noTrace(t, a.out.String())
	a.stop()
}
