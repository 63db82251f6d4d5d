package correlate

import (
	"encoding/binary"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"weft/internal/event"
	"weft/internal/queue"
	"weft/internal/selfstats"
)

var epoch = time.Date(2025, 6, 1, 12, 0, 0, 0, time.UTC)

// kept collects what a correlator hands over.
type kept []*event.Span

func (k *kept) Span(s *event.Span) { *k = append(*k, s) }

func id(n uint64) (out event.SpanID) {
	binary.BigEndian.PutUint64(out[:], n)
	return out
}

func request(n uint64, role event.Role, at time.Duration) event.Request {
	return event.Request{
		Start: epoch.Add(at), PID: 7, PIDStart: 70, SpanID: id(n), Role: role,
		Rule: event.ParentWire, Method: "GET", Target: fmt.Sprint("/", n),
	}
}

func response(n uint64, role event.Role, at time.Duration) event.Response {
	return event.Response{SpanID: id(n), Role: role, End: epoch.Add(at), Status: 200}
}

// lost returns the drop counters that are not zero.
func lost(t *testing.T, stats *selfstats.Stats) map[string]int {
	t.Helper()
	rows, err := stats.Summary()
	if err != nil {
		t.Fatal(err)
	}
	out := map[string]int{}
	for _, r := range rows {
		out[r.Name] = int(r.Value)
	}
	return out
}

func dropped(cause string) string {
	return `weft_dropped_total{cause="` + cause + `",stage="correlate"}`
}

const (
	server = event.RoleServer
	client = event.RoleClient
)

func TestPairing(t *testing.T) {
	type step func(*Correlator)
	req := func(n uint64, role event.Role) step {
		return func(c *Correlator) { c.Request(request(n, role, 0)) }
	}
	resp := func(n uint64, role event.Role) step {
		return func(c *Correlator) { c.Response(response(n, role, time.Second)) }
	}
	tick := func(d time.Duration) step { return func(c *Correlator) { c.Tick(epoch.Add(d)) } }
	flush := func(c *Correlator) { c.Flush() }

	for name, tc := range map[string]struct {
		steps []step
		spans []string // target/role, in order
		lost  map[string]int
	}{
		"one exchange": {
			steps: []step{req(1, server), resp(1, server)},
			spans: []string{"/1 server"},
		},
		"interleaved, ended in another order": {
			steps: []step{req(1, server), req(2, client), req(3, client), resp(3, client), resp(1, server), resp(2, client), flush},
			spans: []string{"/3 client", "/1 server", "/2 client"},
		},
		"one id at both ends of a hop": {
			steps: []step{req(1, client), req(1, server), resp(1, server), resp(1, client), flush},
			spans: []string{"/1 server", "/1 client"},
		},
		"response without request": {
			steps: []step{resp(1, server), flush},
			lost:  map[string]int{dropped("response_without_request"): 1},
		},
		"response of the other role": {
			steps: []step{req(1, client), resp(1, server), flush},
			lost:  map[string]int{dropped("response_without_request"): 1, dropped("open_at_shutdown"): 1},
		},
		"response before its request": {
			steps: []step{resp(1, server), req(1, server), req(2, server), tick(time.Second), resp(2, server), flush},
			spans: []string{"/1 server", "/2 server"},
		},
		"response before its request, at shutdown": {
			steps: []step{resp(1, server), req(1, server), flush},
			spans: []string{"/1 server"},
		},
		"response too long before its request": {
			steps: []step{resp(1, server), tick(3 * time.Second), req(1, server), flush},
			lost:  map[string]int{dropped("response_without_request"): 1, dropped("open_at_shutdown"): 1},
		},
		"response before the request of the other role": {
			steps: []step{resp(1, client), req(1, server), resp(1, server), req(1, client), tick(time.Second)},
			spans: []string{"/1 server", "/1 client"},
		},
		"two responses before a request": {
			steps: []step{resp(1, server), resp(1, server), req(1, server), tick(time.Second)},
			spans: []string{"/1 server"},
			lost:  map[string]int{dropped("response_without_request"): 1},
		},
		"a response before its request, one behind": {
			steps: []step{resp(1, server), req(1, server), resp(1, server), tick(time.Second), flush},
			spans: []string{"/1 server"},
			lost:  map[string]int{dropped("response_without_request"): 1},
		},
		"responses before requests, too many": {
			steps: []step{resp(1, server), resp(2, server), resp(3, server), req(1, server), req(2, server), req(3, server), tick(time.Second), flush},
			spans: []string{"/2 server", "/3 server"},
			lost:  map[string]int{dropped("response_without_request"): 1, dropped("open_at_shutdown"): 1},
		},
		"responses before requests, more than wait for a tick": {
			steps: []step{resp(1, server), req(1, server), resp(2, server), req(2, server), resp(3, server), req(3, server), resp(4, server), flush},
			spans: []string{"/1 server", "/2 server", "/3 server"},
			lost:  map[string]int{dropped("response_without_request"): 1},
		},
		"repeated request behind its response": {
			steps: []step{resp(1, server), req(1, server), req(1, server), resp(1, server), flush},
			spans: []string{"/1 server"},
			lost:  map[string]int{dropped("duplicate_request"): 1},
		},
		"second response": {
			steps: []step{req(1, server), resp(1, server), resp(1, server), flush},
			spans: []string{"/1 server"},
			lost:  map[string]int{dropped("response_without_request"): 1},
		},
		"repeated request": {
			steps: []step{req(1, server), req(1, server), resp(1, server), flush},
			spans: []string{"/1 server"},
			lost:  map[string]int{dropped("duplicate_request"): 1},
		},
		"full: the oldest goes": {
			steps: []step{req(1, server), req(2, server), req(3, server), req(4, server), resp(1, server), resp(2, server), resp(4, server), flush},
			spans: []string{"/2 server", "/4 server"},
			lost: map[string]int{
				dropped("open_full"): 1, dropped("response_without_request"): 1, dropped("open_at_shutdown"): 1,
			},
		},
		"full: the oldest still open, not the first seen": {
			steps: []step{req(1, server), req(2, server), req(3, server), resp(1, server), req(4, server), req(5, server), resp(2, server), resp(3, server), flush},
			spans: []string{"/1 server", "/3 server"},
			lost: map[string]int{
				dropped("open_full"): 1, dropped("response_without_request"): 1, dropped("open_at_shutdown"): 2,
			},
		},
		"young enough": {
			steps: []step{req(1, server), tick(time.Minute), resp(1, server)},
			spans: []string{"/1 server"},
		},
		"too old": {
			steps: []step{req(1, server), req(2, server), tick(time.Minute + 1), resp(1, server), flush},
			lost:  map[string]int{dropped("max_age"): 2, dropped("response_without_request"): 1},
		},
		"open at shutdown": {
			steps: []step{req(1, server), req(2, client), flush, flush},
			lost:  map[string]int{dropped("open_at_shutdown"): 2},
		},
	} {
		t.Run(name, func(t *testing.T) {
			stats := selfstats.New()
			var got kept
			c := New(Options{MaxOpen: 3, MaxAge: time.Minute, MaxEarly: 2}, &got, stats)
			c.Tick(epoch)
			for _, s := range tc.steps {
				s(c)
			}
			var spans []string
			for _, s := range got {
				spans = append(spans, s.Target+" "+s.Role.String())
				if s.Response.SpanID != s.SpanID || s.Response.Status != 200 {
					t.Errorf("%s: response of another exchange: %+v", s.Target, s.Response)
				}
			}
			if fmt.Sprint(spans) != fmt.Sprint(tc.spans) {
				t.Errorf("spans %q, want %q", spans, tc.spans)
			}
			if tc.lost == nil {
				tc.lost = map[string]int{}
			}
			if l := lost(t, stats); fmt.Sprint(l) != fmt.Sprint(tc.lost) {
				t.Errorf("lost %v, want %v", l, tc.lost)
			}
			if len(c.early) > 2 || len(c.answered) > 2 {
				t.Errorf("%d responses held, %d wait for a tick", len(c.early), len(c.answered))
			}
			if queued := len(queued(c)); queued != c.Open() {
				t.Errorf("%d queued and %d open", queued, c.Open())
			}
		})
	}
}

func TestEndNeverBeforeStart(t *testing.T) {
	for name, tc := range map[string]struct {
		first, end time.Time
		want       time.Duration
	}{
		"end not seen":                 {time.Time{}, time.Time{}, 0},
		"end not seen, first byte was": {epoch.Add(3 * time.Second), time.Time{}, 2 * time.Second},
		"stamped the other way round":  {time.Time{}, epoch, 0},
		"in order":                     {epoch.Add(2 * time.Second), epoch.Add(4 * time.Second), 3 * time.Second},
	} {
		var got kept
		c := New(Options{}, &got, selfstats.New())
		c.Request(request(1, server, time.Second))
		c.Response(event.Response{SpanID: id(1), Role: server, FirstByte: tc.first, End: tc.end})
		if d := got[0].Response.End.Sub(got[0].Start); d != tc.want {
			t.Errorf("%s: lasts %v, want %v", name, d, tc.want)
		}
	}
}

func TestProcessAttached(t *testing.T) {
	stats := selfstats.New()
	var got kept
	c := New(Options{ExitGrace: 10 * time.Second}, &got, stats)
	c.Tick(epoch)
	exchange := func(n uint64, start uint64) *event.Span {
		r := request(n, server, 0)
		r.PIDStart = start
		c.Request(r)
		c.Response(response(n, server, time.Second))
		return got[len(got)-1]
	}

	old, reused := &event.Process{PID: 7, PIDStart: 70, Service: "old"}, &event.Process{PID: 7, PIDStart: 71, Service: "reused"}
	c.Process(old)
	if p := exchange(1, 70).Process; p != old {
		t.Errorf("process %+v", p)
	}
	if p := exchange(2, 71).Process; p != nil {
		t.Errorf("a process of another start time was taken: %+v", p)
	}
	c.Process(reused)
	c.ProcessExit(7, 70)
	c.ProcessExit(7, 70)
	c.ProcessExit(8, 80) // never known
	if len(c.exited) != 1 {
		t.Errorf("%d exits noted, want 1", len(c.exited))
	}
	c.Tick(epoch.Add(10 * time.Second))
	if p := exchange(3, 70).Process; p != old {
		t.Error("forgotten within the grace period")
	}
	if p := exchange(4, 71).Process; p != reused {
		t.Errorf("process %+v", p)
	}

	// Known only after the request: taken at the response.
	late := request(5, server, 0)
	late.PID, late.PIDStart = 9, 90
	c.Request(late)
	p9 := &event.Process{PID: 9, PIDStart: 90}
	c.Process(p9)
	c.Response(response(5, server, time.Second))
	if got[len(got)-1].Process != p9 {
		t.Error("a process known at the response was not taken")
	}

	// exec: the open request keeps what it began as.
	c.Request(request(6, server, 0))
	c.Process(&event.Process{PID: 7, PIDStart: 70, Service: "after exec"})
	c.Response(response(6, server, time.Second))
	if p := got[len(got)-1].Process; p != old {
		t.Errorf("open request moved to %+v", p)
	}
	if p := exchange(7, 70).Process; p == nil || p.Service != "after exec" {
		t.Errorf("new request got %+v", p)
	}

	c.Tick(epoch.Add(10*time.Second + 1))
	if p := exchange(8, 70).Process; p != nil {
		t.Errorf("remembered beyond the grace period: %+v", p)
	}
	if len(c.processes) != 2 || len(c.exited) != 0 {
		t.Errorf("%d processes and %d exits left, want 2 and 0", len(c.processes), len(c.exited))
	}
}

func TestProcessTableBounded(t *testing.T) {
	stats := selfstats.New()
	c := New(Options{MaxProcesses: 2}, &kept{}, stats)
	for pid := range uint32(3) {
		c.Process(&event.Process{PID: pid})
	}
	if l := lost(t, stats); l[dropped("process_table_full")] != 1 || len(c.processes) != 2 {
		t.Errorf("lost %v with %d known", l, len(c.processes))
	}
	// An exited process makes room before its grace period is over.
	c.ProcessExit(0, 0)
	c.Process(&event.Process{PID: 9})
	if _, ok := c.processes[processKey{9, 0}]; !ok || len(c.processes) != 2 {
		t.Errorf("no room made: %v", c.processes)
	}
	if l := lost(t, stats); l[dropped("process_table_full")] != 1 {
		t.Errorf("lost %v", l)
	}
}

func TestCarriedJoinsItsRequest(t *testing.T) {
	stats := selfstats.New()
	var got kept
	c := New(Options{}, &got, stats)
	link := event.Link{TraceID: event.TraceID{9}, SpanID: id(9), Flags: 1}
	for _, role := range []event.Role{server, client} {
		r := request(1, role, 0)
		r.Rule, r.Link = event.ParentUntrusted, link
		c.Request(r)
	}
	c.Carried(event.Carried{SpanID: id(1), Role: server, TraceState: "ot=th:8,dd=s:1",
		Baggage: "user_id=Zo%C3%AB%20%26%20co ;private, ,broken member=1,tenant=blue,=x,user_id=%zz%ff"})
	c.Carried(event.Carried{SpanID: id(1), Role: client, TraceState: "a=1"})
	c.Carried(event.Carried{SpanID: id(2), Role: server, TraceState: "b=1"}) // no such request
	for _, role := range []event.Role{server, client} {
		c.Response(response(1, role, time.Second))
	}
	c.Carried(event.Carried{SpanID: id(1), Role: server, TraceState: "c=1"}) // answered already

	if len(got) != 2 {
		t.Fatalf("%d spans", len(got))
	}
	want := []event.Member{{Key: "user_id", Value: "Zoë & co"}, {Key: "tenant", Value: "blue"}, {Key: "user_id", Value: "%zz\uFFFD"}}
	if s := got[0]; s.TraceState != "ot=th:8,dd=s:1" || !slices.Equal(s.Baggage, want) {
		t.Errorf("server: tracestate %q, baggage %q", s.TraceState, s.Baggage)
	}
	if s := got[1]; s.TraceState != "a=1" || len(s.Baggage) != 0 {
		t.Errorf("client: tracestate %q, baggage %q", s.TraceState, s.Baggage)
	}
	for _, s := range got {
		if s.Link != link || s.Rule != event.ParentUntrusted {
			t.Errorf("%s: rule %s, link %+v", s.Role, s.Rule, s.Link)
		}
	}
	wantLost := map[string]int{dropped("carried_without_request"): 2, dropped("baggage_member_invalid"): 2}
	if l := lost(t, stats); fmt.Sprint(l) != fmt.Sprint(wantLost) {
		t.Errorf("lost %v, want %v", l, wantLost)
	}
	if v := selfstats.Value(stats.Parents("untrusted")); v != 2 {
		t.Errorf("rule untrusted counted %v times", v)
	}
}

func TestCarriedBeyondBaggageCounted(t *testing.T) {
	stats := selfstats.New()
	var got kept
	c := New(Options{}, &got, stats)
	c.Request(request(1, server, 0))
	c.Carried(event.Carried{SpanID: id(1), Role: server, Baggage: strings.Repeat("k=v,", 66)})
	c.Response(response(1, server, time.Second))
	if n := len(got[0].Baggage); n != 64 {
		t.Errorf("%d members, want 64", n)
	}
	if l := lost(t, stats); l[dropped("baggage_full")] != 2 {
		t.Errorf("lost %v", l)
	}
}

func TestCountsByRuleAndKind(t *testing.T) {
	stats := selfstats.New()
	c := New(Options{}, &kept{}, stats)
	for i := range uint64(event.ParentRules + 2) { // two rules of a newer kernel object
		r := request(i+1, server, 0)
		r.Rule = event.ParentRule(i)
		c.Request(r)
		c.Response(response(i+1, server, time.Second))
	}
	for rule := range event.ParentRules {
		name := event.ParentRule(rule).String()
		if v := selfstats.Value(stats.Parents(name)); v != 1 {
			t.Errorf("rule %s counted %v times", name, v)
		}
	}
	if v := selfstats.Value(stats.Parents("unknown")); v != 2 {
		t.Errorf("unknown rules counted %v times", v)
	}
	if v := selfstats.Value(stats.Spans("server")); int(v) != event.ParentRules+2 {
		t.Errorf("server spans counted %v times", v)
	}
	if v := selfstats.Value(stats.ProcessUnknown()); int(v) != event.ParentRules+2 {
		t.Errorf("spans without a process counted %v times", v)
	}
}

// Long use must neither grow nor leak: links are cleared, maps shrink to what
// is open.
func TestSpanKeepsNoNeighbour(t *testing.T) {
	var got kept
	c := New(Options{}, &got, selfstats.New())
	for i := range uint64(3) {
		c.Request(request(i+1, server, 0))
	}
	middle := c.open[exchangeKey{id(2), server}]
	c.Response(response(2, server, time.Second))
	if middle.Links != (queue.Links[exchange]{}) {
		t.Error("a finished span still holds its former neighbours")
	}
	if left := queued(c); len(left) != 2 || left[0].span.SpanID != id(1) || left[1].span.SpanID != id(3) {
		t.Errorf("%d are left in the queue, not the first and the third", len(left))
	}
}

// queued is what is open, the oldest first.
func queued(c *Correlator) (all []*exchange) {
	for x := c.queue.Oldest(); x != nil; x = c.queue.Newer(x) {
		all = append(all, x)
	}
	return all
}

type nowhere struct{}

func (nowhere) Span(*event.Span) {}

func BenchmarkExchange(b *testing.B) {
	c := New(Options{}, nowhere{}, selfstats.New())
	c.Process(&event.Process{PID: 7, PIDStart: 70})
	req, resp := request(0, server, 0), response(0, server, time.Second)
	b.ReportAllocs()
	for i := range uint64(b.N) {
		req.SpanID, resp.SpanID = id(i), id(i)
		c.Request(req)
		c.Response(resp)
	}
}

// BenchmarkExchangeFull has every request push out the oldest.
func BenchmarkExchangeFull(b *testing.B) {
	c := New(Options{MaxOpen: 4096}, nowhere{}, selfstats.New())
	req := request(0, server, 0)
	b.ReportAllocs()
	for i := range uint64(b.N) {
		req.SpanID = id(i)
		c.Request(req)
	}
}
