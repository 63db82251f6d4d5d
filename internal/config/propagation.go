package config

import (
	"fmt"
	"net/netip"
	"slices"
)

// Bounds of propagation; the kernel's tables hold this much.
const (
	maxTrust       = 256
	maxEgress      = 64 // the default rules included
	maxEgressPorts = 4
	maxBaggageKeys = 16
)

func defaultTrust() []netip.Prefix {
	return []netip.Prefix{netip.MustParsePrefix("0.0.0.0/0"), netip.MustParsePrefix("::/0")}
}

// privateNetworks are those that the public Internet does not route: a cluster,
// a company, this host. Baggage goes there unless told otherwise.
func privateNetworks() []netip.Prefix {
	return []netip.Prefix{
		netip.MustParsePrefix("10.0.0.0/8"),     // RFC 1918
		netip.MustParsePrefix("172.16.0.0/12"),  // RFC 1918
		netip.MustParsePrefix("192.168.0.0/16"), // RFC 1918
		netip.MustParsePrefix("127.0.0.0/8"),    // loopback
		netip.MustParsePrefix("169.254.0.0/16"), // link-local, RFC 3927
		netip.MustParsePrefix("100.64.0.0/10"),  // shared, RFC 6598: pods in some clouds
		netip.MustParsePrefix("::1/128"),        // loopback
		netip.MustParsePrefix("fc00::/7"),       // unique local, RFC 4193
		netip.MustParsePrefix("fe80::/10"),      // link-local, RFC 4291
	}
}

// EgressRules is what may leave where: the user's rules, then the default ones,
// of which those are left out that never match. The first rule that covers the
// peer's address and port applies. Inject is always set, and within p.Inject.
func (p Propagation) EgressRules() []EgressRule {
	public := make([]Header, 0, len(p.Inject))
	for _, h := range p.Inject {
		if h != HeaderBaggage {
			public = append(public, h)
		}
	}
	rules := make([]EgressRule, 0, len(p.Egress))
	for _, r := range p.Egress {
		if r.Inject == nil {
			r.Inject = p.Inject
		}
		inject := make([]Header, 0, len(r.Inject))
		for _, h := range r.Inject {
			if p.Injects(h) {
				inject = append(inject, h)
			}
		}
		r.Inject = inject
		rules = append(rules, r)
	}
	byDefault := func(network netip.Prefix, inject []Header) {
		r := EgressRule{CIDR: network, Inject: append([]Header{}, inject...)}
		if !slices.ContainsFunc(rules, r.shadowedBy) {
			rules = append(rules, r)
		}
	}
	for _, network := range privateNetworks() {
		byDefault(network, p.Inject)
	}
	byDefault(netip.MustParsePrefix("0.0.0.0/0"), public)
	byDefault(netip.MustParsePrefix("::/0"), public)
	return rules
}

// shadowedBy says that r matches nothing that an earlier rule does not match.
func (r EgressRule) shadowedBy(earlier EgressRule) bool {
	return earlier.CIDR.Bits() <= r.CIDR.Bits() && earlier.CIDR.Contains(r.CIDR.Addr()) &&
		earlier.Ports.cover(r.Ports)
}

func (r EgressRule) String() string {
	if len(r.Ports) == 0 {
		return r.CIDR.String()
	}
	return fmt.Sprintf("%s port %s", r.CIDR, r.Ports)
}

func decodeHeaders(v value) []Header {
	headers := []Header{}
	for _, item := range v.items("a list such as [traceparent]") {
		var h Header
		if !choose(item, &h, HeaderTraceparent, HeaderTracestate, HeaderBaggage) {
			continue
		}
		if slices.Contains(headers, h) {
			item.fail("%q is listed twice", string(h))
		}
		headers = append(headers, h)
	}
	// W3C Trace Context 3.3: without traceparent the receiver ignores it.
	if slices.Contains(headers, HeaderTracestate) && !slices.Contains(headers, HeaderTraceparent) {
		v.fail("tracestate without traceparent is read by nobody; add traceparent")
	}
	return headers
}

// decodePrefix reads a network; a v4-mapped one is stored as IPv4.
func decodePrefix(v value) (netip.Prefix, bool) {
	const want = `a network such as "10.0.0.0/8"`
	text, ok := v.scalar(want)
	if !ok {
		return netip.Prefix{}, false
	}
	prefix, err := netip.ParsePrefix(text)
	if err != nil {
		if address, err := netip.ParseAddr(text); err == nil && address.Zone() == "" {
			address = address.Unmap()
			v.fail("%s is an address; did you mean %s?", address, netip.PrefixFrom(address, address.BitLen()))
		} else {
			v.want(want)
		}
		return netip.Prefix{}, false
	}
	if masked := prefix.Masked(); masked != prefix {
		v.fail("%s has bits beyond its mask; did you mean %s?", prefix, masked)
		return netip.Prefix{}, false
	}
	if prefix.Addr().Is4In6() {
		prefix = netip.PrefixFrom(prefix.Addr().Unmap(), prefix.Bits()-96)
	}
	return prefix, true
}

func decodeTrust(v value) []netip.Prefix {
	trust := []netip.Prefix{}
	items := v.items(`a list of networks such as ["10.0.0.0/8"]`)
	for _, item := range items {
		prefix, ok := decodePrefix(item)
		if !ok {
			continue
		}
		if slices.Contains(trust, prefix) {
			item.fail("%s is listed twice", prefix)
		}
		trust = append(trust, prefix)
	}
	if len(items) > maxTrust {
		v.fail("%d networks, at most %d; join neighbours into larger networks", len(items), maxTrust)
	}
	slices.SortFunc(trust, netip.Prefix.Compare)
	return trust
}

// placedRule remembers where a rule was written.
type placedRule struct {
	EgressRule
	at, inject, keys value // inject and keys: zero where not set
}

func decodeEgress(v value) []EgressRule {
	bad := v.problems.count()
	var placed []placedRule
	for _, item := range v.items(`a list such as [{cidr: "10.0.0.0/8"}]`) {
		placed = append(placed, decodeEgressRule(item))
	}
	if v.problems.count() > bad {
		return nil
	}
	var rules []EgressRule
	for _, r := range placed {
		if i := slices.IndexFunc(rules, r.shadowedBy); i >= 0 {
			r.at.fail("%s never matches: %s (%s) comes first and covers it; move this entry before that one, or remove it",
				r, placed[i].at.path, placed[i])
		}
		rules = append(rules, r.EgressRule)
	}
	if n := len(Propagation{Egress: rules}.EgressRules()); n > maxEgress {
		v.fail("%d rules, %d of them default ones, at most %d; join neighbours into larger networks",
			n, n-len(rules), maxEgress)
	}
	v.problems.later("propagation.egress", func(c *Config) {
		for _, r := range placed {
			r.checkAgainst(c.Propagation)
		}
	})
	return rules
}

func decodeEgressRule(v value) placedRule {
	r := placedRule{at: v}
	bad := v.problems.count()
	v.mapping(map[string]func(value){
		"cidr": func(v value) { r.CIDR, _ = decodePrefix(v) },
		"ports": func(v value) {
			decodePorts(v, &r.Ports)
			if n := len(r.Ports); n > maxEgressPorts {
				v.fail("%d port ranges, at most %d; write a second rule for the others", n, maxEgressPorts)
			}
		},
		"inject": func(v value) { r.Inject, r.inject = decodeHeaders(v), v },
		"baggage_keys": func(v value) {
			r.BaggageKeys, r.keys = decodeKeys(v, "a list of keys such as [tenant_id]", maxBaggageKeys), v
			if len(r.BaggageKeys) == 0 && v.problems.count() == bad {
				v.fail("no keys; leave it out to let all of them leave, or leave baggage out of inject to let none")
			}
		},
	})
	if !r.CIDR.IsValid() && v.problems.count() == bad {
		v.fail(`no cidr; add one such as cidr: "0.0.0.0/0"`)
	}
	return r
}

// checkAgainst holds the rule against propagation.inject, which is the most that
// leaves anywhere. An empty one observes only, whatever the rules say.
func (r placedRule) checkAgainst(p Propagation) {
	if len(p.Inject) == 0 {
		return
	}
	for _, h := range r.Inject {
		if !p.Injects(h) {
			r.inject.fail("%s is not in propagation.inject; add it there, or remove it here", h)
		}
	}
	headers := r.Inject
	if headers == nil {
		headers = p.Inject
	}
	if r.BaggageKeys != nil && !slices.Contains(headers, HeaderBaggage) {
		r.keys.fail("baggage does not leave here; add it to inject, or remove baggage_keys")
	}
}
