package loader

import (
	"fmt"
	"net/netip"
	"strings"

	"github.com/cilium/ebpf"

	"weft/internal/w3c"
)

// Headers is a set of propagated headers; the bits are those of enum weft_header.
type Headers uint8

// The headers of Headers.
const (
	HeaderTraceparent Headers = 1 << iota
	HeaderTracestate
	HeaderBaggage
)

// Policy says whose context is believed and what may leave to where. Its bounds
// (see MaxEgress and others) are the configuration's to keep.
type Policy struct {
	Inject Headers
	// Trust lists the networks whose inbound context is believed.
	Trust []netip.Prefix
	// Egress narrows Inject by destination; the first rule that covers address
	// and port applies, and without one nothing is written.
	Egress []EgressRule
	// Attributes are the baggage keys that Carried events report.
	Attributes []string
	// Edges are request headers that become baggage members.
	Edges []Edge

	first int // index of the first of Egress in the kernel's table
	// edges is where the kernel has Edges; nil: in their order.
	edges *edgeTable
}

// EgressRule is what may leave to a network.
type EgressRule struct {
	Network netip.Prefix
	Ports   []PortRange // empty: any port
	Headers Headers
	Keys    []string // baggage keys; empty: all
}

// PortRange is Low to High, both included.
type PortRange struct{ Low, High uint16 }

// Edge makes a request header a baggage member.
type Edge struct{ Key, Header string } // Header in lower case

// Bounds of a Policy, those of the kernel's tables.
const (
	MaxEgress     = 64
	MaxPorts      = 4
	MaxKeys       = 16
	MaxEdges      = 8
	MaxEdgeKey    = 64
	MaxEdgeHeader = 40
)

// everyone says whether the list trusts both address families wholly.
func everyone(networks []netip.Prefix) bool {
	var four, six bool
	for _, n := range networks {
		four = four || n.Bits() == 0 && n.Addr().Is4()
		six = six || n.Bits() == 0 && n.Addr().Is6()
	}
	return four && six
}

// network is the trie's key of a prefix: IPv4 as v4-mapped IPv6.
func network(p netip.Prefix) WeftWeftNetwork {
	bits := p.Bits()
	if p.Addr().Is4() {
		bits += 96
	}
	return WeftWeftNetwork{Prefix: uint32(bits), Address: p.Masked().Addr().As16()}
}

// mapped4 is where IPv4 lives in the tries.
func mapped4() netip.Prefix { return netip.MustParsePrefix("0.0.0.0/0") }

// apply fills the policy's maps, before anything is attached.
func (p Policy) apply(maps map[string]*ebpf.Map) error {
	// A prefix of IPv6 covers the v4-mapped range in the trie; it does not mean
	// to say anything of IPv4.
	trusted := map[netip.Prefix]uint64{mapped4(): 0}
	for _, n := range p.Trust {
		trusted[n.Masked()] = 1
	}
	for n, value := range trusted {
		if err := maps["trusted"].Put(network(n), value); err != nil {
			return fmt.Errorf("write trusted network %s: %w", n, err)
		}
	}
	egress := map[netip.Prefix]uint64{mapped4(): 0}
	for _, r := range p.Egress {
		egress[r.Network.Masked()] = 0
	}
	for n := range egress {
		if err := maps["egress"].Put(network(n), p.covering(n)); err != nil {
			return fmt.Errorf("write egress network %s: %w", n, err)
		}
	}
	for i, r := range p.Egress {
		if err := maps["egress_rules"].Put(uint32(p.first+i), r.kernel()); err != nil {
			return fmt.Errorf("write egress rule %d: %w", i, err)
		}
	}
	if err := p.places().apply(maps["edges"]); err != nil {
		return err
	}
	if err := maps["attributes"].Put(uint32(0), keys(p.Attributes)); err != nil {
		return fmt.Errorf("write attribute keys: %w", err)
	}
	return nil
}

// covering is the set of rules, one bit each, that cover all of n.
func (p Policy) covering(n netip.Prefix) (rules uint64) {
	for i, r := range p.Egress {
		if r.Network.Addr().Is4() == n.Addr().Is4() && r.Network.Bits() <= n.Bits() && r.Network.Contains(n.Addr()) {
			rules |= 1 << (p.first + i)
		}
	}
	return rules
}

func (r EgressRule) kernel() WeftWeftEgress {
	k := WeftWeftEgress{Headers: uint8(r.Headers), Ports: uint8(min(len(r.Ports), MaxPorts)), Keys: keys(r.Keys)}
	for i, ports := range r.Ports[:k.Ports] {
		k.PortLow[i], k.PortHigh[i] = ports.Low, ports.High
	}
	return k
}

// places is where the kernel has Edges.
func (p Policy) places() edgeTable {
	if p.edges != nil {
		return *p.edges
	}
	table, _, _ := edgeTable{}.change(p.Edges)
	return table
}

// bit is http1_name_bit of bpf/lib/http1_message.h.
func (e Edge) bit() uint64 {
	return 1 << ((uint(e.Header[0]) + 5*uint(len(e.Header))) & 63)
}

func (e Edge) kernel() WeftWeftEdge {
	k := WeftWeftEdge{Hash: w3c.BaggageKeyHash(e.Key), NameLen: uint32(len(e.Header)), KeyLen: uint32(len(e.Key))}
	copy(k.Name[:], strings.ToLower(e.Header))
	copy(k.Key[:], e.Key)
	return k
}

func keys(names []string) (k WeftWeftKeys) {
	k.Count = uint32(min(len(names), MaxKeys))
	for i, name := range names[:k.Count] {
		k.Hash[i] = w3c.BaggageKeyHash(name)
	}
	return k
}
