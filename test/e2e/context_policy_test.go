package e2e

import (
	"bytes"
	"fmt"
	"strings"
	"testing"

	"weft/test/e2e/truth"
)

// TestContextTrust: what a peer says whom the operator does not trust begins a
// new trace, linked to what was claimed, and nothing of it goes on.
func TestContextTrust(t *testing.T) {
	g := newGroup(t)
	sink := startSink(t)
	target := startReceiver(t, "127.0.0.1:0")
	var addr, addr6 string
	if ipv6Loopback() == nil { // one socket for both: IPv4 peers are v4-mapped
		addr = prefork(t, g, "relay", "", "BIND=::")
		addr6 = "[::1]:" + addr[strings.LastIndexByte(addr, ':')+1:]
	} else {
		addr = prefork(t, g, "relay", "")
	}
	plain := prefork(t, g, "relay4", "")
	a := startAgent(t, g, sink, agentOptions{extra: edgeConfig + "propagation: {trust: [\"127.0.0.2/32\", \"127.1.0.0/16\", \"::1/128\"]}\n"})

	p := &parents{}
	peers := []struct {
		addr, from string
		trusted    bool
	}{
		{addr, "127.0.0.1", false},
		{addr, "127.0.0.2", true},
		{addr, "127.0.0.3", false},
		{plain, "127.0.0.1", false},
		{plain, "127.0.0.2", true},
		{plain, "127.1.2.3", true},
		{plain, "127.2.0.0", false},
		{addr6, "::1", true},
	}
	requests := []struct {
		name  string
		lines []string
	}{
		{"sampled", []string{p.line("03"), "tracestate: dd=s:2", "baggage: role=admin,user_id=1"}},
		{"not sampled", []string{p.line("00"), "tracestate: ot=th:8", "baggage: role=admin"}},
		{"with a header of the edge", []string{"baggage: role=admin,user_id=forged", p.line("01"), "X-User-Id: 42"}},
		{"malformed", []string{"traceparent: 00", "tracestate: a=1", "baggage: role=admin"}},
		{"without traceparent", []string{"tracestate: a=1", "baggage: role=admin", "X-User-Id: 42"}},
		{"without anything", nil},
	}
	type sent struct {
		passage
		name    string
		trusted bool
	}
	var all []sent
	before := a.kernelCounts()
	want := map[string]float64{}
	spans, serial := 0, 0
	for _, peer := range peers {
		if peer.addr == "" {
			continue // no IPv6
		}
		r := &relay{addr: peer.addr, from: peer.from, target: target, serial: serial}
		for _, q := range requests {
			s := sent{passage: r.pass(t, q.lines, nil, nil, nil), name: q.name + " from " + peer.from, trusted: peer.trusted}
			all = append(all, s)
			v := judgeLines(q.lines)
			if v.rule != "wire" || v.parent.Sampled() || !peer.trusted {
				spans += 2
			}
			for name, n := range v.counts {
				if peer.trusted || strings.HasPrefix(name, "context/") {
					want[name] += n
				}
			}
			if v.rule == "wire" && !peer.trusted {
				want["context/untrusted"]++
			}
		}
		serial = r.serial
		r.hangUp()
	}
	exported := byID(spansOf(t, sink, spans))
	for _, s := range all {
		t.Run(s.name, func(t *testing.T) {
			if s.trusted {
				s.judge(t, linked, nil, exported)
			} else {
				s.untrusted(t, exported)
			}
		})
	}
	a.counted(before, want)
	a.stop()
}

// untrusted judges a passage whose client is not believed.
func (p passage) untrusted(t *testing.T, exported map[string][]truth.Span) {
	t.Helper()
	server, client := exported[p.id], exported[p.id+".0"]
	if len(server) != 1 || len(client) != 1 {
		t.Fatalf("%d server spans, %d client spans", len(server), len(client))
	}
	s, got := server[0], contextOf(t, p.got)
	claimed := judgeLines(p.lines)
	rule := claimed.rule
	var links []truth.Link
	if rule == "wire" {
		rule = "untrusted"
		links = []truth.Link{{TraceID: fmt.Sprintf("%x", claimed.parent.TraceID), SpanID: fmt.Sprintf("%x", claimed.parent.SpanID)}}
	}
	for i := range s.Links {
		s.Links[i].Flags = 0 // what the peer claimed of sampling is not kept
	}
	if s.Rule != rule || s.ParentID != "" || s.Flags != 3 || s.TraceState != "" || fmt.Sprint(s.Links) != fmt.Sprint(links) ||
		s.TraceID == fmt.Sprintf("%x", claimed.parent.TraceID) {
		t.Errorf("want a root by rule %q, links %v; got flags=%02x tracestate=%q links %v: %s", rule, links, s.Flags, s.TraceState, s.Links, &s)
	}
	// The header is the application's own: it is read from anybody.
	var header []string
	if h := fieldsOf(p.lines)["x-user-id"]; len(h) > 0 {
		header = []string{"X-User-Id:" + h[0]}
	}
	baggage, user := withUser(header)
	want := traceContext{parent: truth.Traceparent{TraceID: s.TraceID, SpanID: client[0].SpanID, Flags: 3}, baggage: baggage}
	if whole := want.injectedInto(p.out); !bytes.Equal(p.got, whole) {
		t.Errorf("arrived %q, want %q", p.got, whole)
	}
	if c := client[0]; c.ParentID != s.SpanID || c.SpanID != got.parent.SpanID || len(c.Links) != 0 || s.Attr("user_id") != user || c.Attr("user_id") != user {
		t.Errorf("want a child of %s with user_id %q: %s", s.SpanID, user, &c)
	}
}

// TestContextEgress: each peer receives what the first rule that covers it lets
// out.
func TestContextEgress(t *testing.T) {
	g := newGroup(t)
	sink := startSink(t)
	everything := []string{"traceparent", "tracestate", "baggage"}
	peers := []struct {
		address  string // to listen on
		rule     string // %d is the port
		want     []string
		baggage  string // "": all
		withheld []string
	}{
		{"127.0.0.1:0", "", everything, "", nil},
		{"127.0.0.2:0", `{cidr: "127.0.0.2/32", inject: []}`, nil, "", everything},
		{"127.0.0.3:0", `{cidr: "127.0.0.3/32", ports: "%d", inject: [traceparent]}`, everything[:1], "", everything[1:]},
		{"127.0.0.3:0", `{cidr: "127.0.0.3/32", inject: [traceparent, tracestate]}`, everything[:2], "", everything[2:]},
		{"127.0.0.4:0", `{cidr: "127.0.0.4/32", ports: "1-2,%d", inject: [baggage]}`, everything[2:], "", everything[:2]},
		{"127.0.0.5:0", `{cidr: "127.0.0.5/32", inject: [traceparent, baggage], baggage_keys: [b, d]}`, []string{"traceparent", "baggage"}, "b=2;p,d=4", []string{"tracestate", "baggage"}},
		{"127.0.0.6:0", `{cidr: "127.0.0.6/32", baggage_keys: [nobody]}`, everything[:2], "", everything[2:]},
		// The wider network stands first, for one port: there it decides.
		{"127.9.0.7:0", `{cidr: "127.9.0.0/16", ports: "%d", inject: [traceparent]}`, everything[:1], "", everything[1:]},
		{"127.9.0.7:0", `{cidr: "127.9.0.7/32", inject: []}`, nil, "", everything},
		{"[::1]:0", `{cidr: "::1/128", inject: [traceparent, tracestate]}`, everything[:2], "", everything[2:]},
	}
	rules := ""
	relays := make([]*relay, len(peers))
	addr := prefork(t, g, "relay", "")
	for i, peer := range peers {
		if strings.HasPrefix(peer.address, "[") && ipv6Loopback() != nil {
			continue
		}
		relays[i] = &relay{addr: addr, target: startReceiver(t, peer.address), serial: 100 * i}
		rule := peer.rule
		if strings.Contains(rule, "%d") {
			_, port, _ := strings.Cut(strings.TrimPrefix(relays[i].target.addr, "[::1]"), ":")
			rule = strings.ReplaceAll(rule, "%d", port)
		}
		if rule != "" {
			rules += "    - " + rule + "\n"
		}
	}
	a := startAgent(t, g, sink, agentOptions{extra: "propagation:\n  egress:\n" + rules})

	p := &parents{}
	for _, size := range []int{0, 100, 7000} {
		var all []passage
		lines := []string{p.line("01"), "tracestate: x=1,y=2", "baggage: a=1,b=2;p,c=3,d=4"}
		if size > 0 {
			lines[2] += "," + members(1, size)
		}
		before := a.kernelCounts()
		counts := map[string]float64{"withheld/space": 0}
		for i, r := range relays {
			if r == nil {
				all = append(all, passage{})
				continue
			}
			all = append(all, r.pass(t, lines, nil, nil, nil))
			r.hangUp()
			for _, name := range peers[i].withheld {
				counts["withheld/"+name]++
			}
		}
		a.counted(before, counts)
		exported := byID(spansOf(t, sink, 2*len(all)-2*strings.Count(fmt.Sprint(relays), "<nil>")))
		for i, peer := range peers {
			if relays[i] == nil {
				continue
			}
			t.Run(fmt.Sprintf("%s by %s, %d bytes", peer.address, peer.rule, size), func(t *testing.T) {
				v := judgeLines(lines)
				client := exported[all[i].id+".0"]
				if len(client) != 1 {
					t.Fatalf("%d client spans", len(client))
				}
				var want traceContext
				propagation := "withheld"
				for _, name := range peer.want {
					switch name {
					case "traceparent":
						want.parent = truth.Traceparent{TraceID: client[0].TraceID, SpanID: client[0].SpanID, Flags: client[0].Flags}
						propagation = "injected"
					case "tracestate":
						want.tracestate = v.tracestate
					case "baggage":
						want.baggage = v.baggage
						if peer.baggage != "" {
							want.baggage = peer.baggage
						}
					}
				}
				if whole := want.injectedInto(all[i].out); !bytes.Equal(all[i].got, whole) {
					t.Errorf("arrived %.400q, want %.400q", all[i].got, whole)
				}
				if c := client[0]; c.Propagation != propagation || c.Rule != "thread" || c.TraceID != fmt.Sprintf("%x", v.parent.TraceID) {
					t.Errorf("want propagation %q: %q %s", propagation, c.Propagation, &c)
				}
			})
		}
	}
	if lost := a.losses(); len(lost) > 0 {
		t.Errorf("lost: %v", lost)
	}
	a.stop()
}
