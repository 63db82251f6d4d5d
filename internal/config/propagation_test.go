package config

import (
	"fmt"
	"math/rand/v2"
	"net/netip"
	"slices"
	"strings"
	"testing"
)

// first is the rule that applies: the first that covers the peer.
func first(rules []EgressRule, peer string) EgressRule {
	ap := netip.MustParseAddrPort(peer)
	for _, r := range rules {
		if r.CIDR.Contains(ap.Addr().Unmap()) && (len(r.Ports) == 0 || r.Ports.Contain(ap.Port())) {
			return r
		}
	}
	return EgressRule{}
}

func TestEgressByDefault(t *testing.T) {
	p := Default().Propagation
	all := "traceparent tracestate baggage"
	for peer, want := range map[string]string{
		"10.255.0.1:80": all, "172.16.0.1:80": all, "172.31.255.255:80": all, "192.168.1.1:80": all,
		"127.0.0.1:80": all, "169.254.1.1:80": all, "100.127.255.255:80": all, "[::ffff:10.0.0.1]:80": all,
		"[::1]:80": all, "[fd12::1]:80": all, "[fe80::1]:80": all,
		"11.0.0.1:80": "traceparent tracestate", "172.32.0.1:443": "traceparent tracestate",
		"100.128.0.1:80": "traceparent tracestate", "192.169.0.1:80": "traceparent tracestate",
		"[2001:db8::1]:443": "traceparent tracestate", "[::2]:80": "traceparent tracestate",
		"[::ffff:8.8.8.8]:80": "traceparent tracestate",
	} {
		if got := fmt.Sprint(first(p.EgressRules(), peer).Inject); got != "["+want+"]" {
			t.Errorf("%s: %s, want [%s]", peer, got, want)
		}
	}
	if rules := p.EgressRules(); len(rules) != 11 {
		t.Errorf("%d default rules: %v", len(rules), rules)
	}
}

func TestEgressRules(t *testing.T) {
	for _, c := range []struct{ text, peer, want string }{
		// The user's rules come first, the default ones behind them.
		{"{egress: [{cidr: 10.1.0.0/16, inject: [traceparent]}]}", "10.1.2.3:80", "[traceparent] []"},
		{"{egress: [{cidr: 10.1.0.0/16, inject: [traceparent]}]}", "10.2.2.3:80", "[traceparent tracestate baggage] []"},
		// A wide rule wins over narrower default ones: it comes first.
		{"{egress: [{cidr: 0.0.0.0/0, inject: []}]}", "10.2.2.3:80", "[] []"},
		{"{egress: [{cidr: 0.0.0.0/0, inject: []}]}", "[fd00::1]:80", "[traceparent tracestate baggage] []"},
		{"{egress: [{cidr: \"::/0\", inject: []}]}", "10.2.2.3:80", "[traceparent tracestate baggage] []"},
		{"{egress: [{cidr: \"::/0\", inject: []}]}", "[::ffff:10.2.2.3]:80", "[traceparent tracestate baggage] []"},
		// Without inject: everything, public or not.
		{"{egress: [{cidr: 8.8.8.0/24}]}", "8.8.8.8:80", "[traceparent tracestate baggage] []"},
		{"{inject: [traceparent], egress: [{cidr: 8.8.8.0/24}]}", "8.8.8.8:80", "[traceparent] []"},
		{"{egress: [{cidr: 8.8.8.0/24, baggage_keys: [b, a]}]}", "8.8.8.8:80", "[traceparent tracestate baggage] [a b]"},
		// By port.
		{"{egress: [{cidr: 10.0.0.0/8, ports: \"443,8000-8100\", inject: []}]}", "10.0.0.1:8100", "[] []"},
		{"{egress: [{cidr: 10.0.0.0/8, ports: \"443,8000-8100\", inject: []}]}", "10.0.0.1:8101", "[traceparent tracestate baggage] []"},
		{"{egress: [{cidr: 10.0.0.0/8, ports: 443, inject: []}, {cidr: 10.0.0.0/8, inject: [baggage]}]}", "10.0.0.1:443", "[] []"},
		{"{egress: [{cidr: 10.0.0.0/8, ports: 443, inject: []}, {cidr: 10.0.0.0/8, inject: [baggage]}]}", "10.0.0.1:80", "[baggage] []"},
		{"{egress: [{cidr: 10.0.0.0/8, ports: 443, inject: []}, {cidr: 10.1.0.0/16, inject: [baggage]}]}", "10.1.0.1:443", "[] []"},
		// Baggage alone, and nothing at all.
		{"{inject: [baggage]}", "8.8.8.8:80", "[] []"},
		{"{inject: [baggage]}", "10.0.0.1:80", "[baggage] []"},
		{"{inject: [], egress: [{cidr: 8.8.8.0/24, inject: [traceparent]}]}", "8.8.8.8:80", "[] []"},
		{"{inject: []}", "10.0.0.1:80", "[] []"},
	} {
		r := first(load(t, "propagation: "+c.text).Propagation.EgressRules(), c.peer)
		if got := fmt.Sprint(r.Inject, r.BaggageKeys); got != c.want || r.Inject == nil {
			t.Errorf("%s, to %s: %s, want %s", c.text, c.peer, got, c.want)
		}
	}
}

// inject by variable switches injection off over a file whose rules name headers.
func TestObserveOnlyWins(t *testing.T) {
	cfg := load(t, "propagation: {egress: [{cidr: 8.8.8.0/24, inject: [traceparent, baggage], baggage_keys: [a]}]}",
		"WEFT_PROPAGATION_INJECT=")
	for _, r := range cfg.Propagation.EgressRules() {
		if len(r.Inject) != 0 {
			t.Errorf("%s lets %v out", r, r.Inject)
		}
	}
}

// A variable's rules take the place of the file's, also in what is held against
// propagation.inject.
func TestVariableReplacesEgress(t *testing.T) {
	text := "propagation: {inject: [traceparent], egress: [{cidr: 8.8.8.0/24, inject: [baggage]}]}"
	if cfg := load(t, text, "WEFT_PROPAGATION_EGRESS=[{cidr: 9.9.9.0/24}]"); first(cfg.Propagation.EgressRules(), "9.9.9.9:1").CIDR.Bits() != 24 {
		t.Errorf("egress = %v", cfg.Propagation.Egress)
	}
	if _, err := Parse("weft.yaml", []byte(text), nil); err == nil {
		t.Error("a header that propagation.inject leaves out was accepted")
	}
}

// No rule is dead: what is accepted can each be reached, and the rules by
// longest prefix, as the kernel finds them, say the same as in their order.
func TestEgressOrderAndLongestPrefixAgree(t *testing.T) {
	random := rand.New(rand.NewPCG(3, 3))
	accepted, refused := 0, 0
	for range 400 {
		var items []string
		for range 1 + random.IntN(5) {
			bits := random.IntN(4)
			item := fmt.Sprintf("{cidr: 10.%d.0.0/%d", random.IntN(1<<bits)<<(8-bits), 8+bits)
			if low := random.IntN(5); low > 0 {
				item += fmt.Sprintf(", ports: %d-%d", low, low+random.IntN(4))
			}
			items = append(items, item+"}")
		}
		cfg, err := Parse("weft.yaml", []byte("propagation: {egress: ["+strings.Join(items, ", ")+"]}"), nil)
		if err != nil {
			refused++
			if !strings.Contains(err.Error(), "never matches") {
				t.Fatalf("%v: %v", items, err)
			}
			continue
		}
		accepted++
		rules := cfg.Propagation.EgressRules()
		for range 50 {
			peer := netip.AddrPortFrom(netip.AddrFrom4([4]byte{10, byte(random.IntN(256)), 0, 1}), uint16(1+random.IntN(9)))
			longest := -1
			for i, r := range rules {
				if r.CIDR.Contains(peer.Addr()) && (longest < 0 || r.CIDR.Bits() > rules[longest].CIDR.Bits()) {
					longest = i
				}
			}
			// Of the rules that cover the longest prefix, the first with the port.
			i := slices.IndexFunc(rules, func(r EgressRule) bool {
				return r.CIDR.Bits() <= rules[longest].CIDR.Bits() && r.CIDR.Contains(rules[longest].CIDR.Addr()) &&
					(len(r.Ports) == 0 || r.Ports.Contain(peer.Port()))
			})
			if want := first(rules, peer.String()); i < 0 || fmt.Sprint(rules[i]) != fmt.Sprint(want) {
				t.Fatalf("%v: to %s by prefix rule %d, by order %v", items, peer, i, want)
			}
		}
		for i, r := range rules {
			if slices.ContainsFunc(rules[:i], r.shadowedBy) {
				t.Fatalf("%v: %s can never match", items, r)
			}
		}
	}
	if accepted < 100 || refused < 100 {
		t.Errorf("%d sets accepted, %d refused: the test sees too little", accepted, refused)
	}
}

func TestPortsCover(t *testing.T) {
	for _, c := range []struct {
		ports, others string
		want          bool
	}{
		{"", "", true}, {"", "80", true}, {"80", "", false}, {"1-65535", "", true}, {"2-65535", "", false},
		{"1-65534", "", false}, {"80", "80", true}, {"80", "81", false}, {"80-90", "85-90", true}, {"80-90", "85-91", false},
		{"80-84,85-90", "82-88", true}, {"80-84,86-90", "82-88", false}, {"90-99,80-89", "80-99", true},
		{"80,443", "443,80", true}, {"80,443", "80,444", false}, {"65535", "65535", true},
	} {
		ports := func(s string) (p Ports) {
			if s != "" {
				var err error
				if p, err = ParsePorts(s); err != nil {
					t.Fatal(err)
				}
			}
			return p
		}
		if got := ports(c.ports).cover(ports(c.others)); got != c.want {
			t.Errorf("%q covers %q: %v", c.ports, c.others, got)
		}
	}
}

func TestTrust(t *testing.T) {
	for text, want := range map[string]string{
		"":                               "[0.0.0.0/0 ::/0]",
		"propagation: {trust: []}":       "[]",
		`propagation: {trust: ["::/0"]}`: "[::/0]",
		`propagation: {trust: ["::ffff:0.0.0.0/96", "::1/128", "127.0.0.1/32"]}`: "[0.0.0.0/0 127.0.0.1/32 ::1/128]",
	} {
		trust := load(t, text).Propagation.Trust
		if fmt.Sprint(trust) != want || trust == nil {
			t.Errorf("%q: %v, want %s", text, trust, want)
		}
	}
	if trust := load(t, "", "WEFT_PROPAGATION_TRUST=").Propagation.Trust; trust == nil || len(trust) != 0 {
		t.Errorf("empty variable: %v, want nobody", trust)
	}
}
