package loader

import (
	"encoding/binary"
	"math/rand/v2"
	"net/netip"
	"os"
	"path/filepath"
	"reflect"
	"slices"
	"strings"
	"testing"

	"github.com/cilium/ebpf"

	"weft/internal/w3c"
)

// needRoot skips where maps cannot be made, and fails where they must be.
func needRoot(t testing.TB) {
	t.Helper()
	if os.Geteuid() == 0 && !testing.Short() {
		return
	}
	const why = "makes BPF maps: run as root and without -short"
	if os.Getenv("CI") == "true" {
		t.Fatal("CI must run this test; it " + why)
	}
	t.Skip(why)
}

// mapsOf makes the object's own maps of these names, without its programs.
func mapsOf(t *testing.T, names ...string) map[string]*ebpf.Map {
	t.Helper()
	needRoot(t)
	spec, err := LoadWeft()
	if err != nil {
		t.Fatal(err)
	}
	maps := map[string]*ebpf.Map{}
	for _, name := range names {
		m, err := ebpf.NewMap(spec.Maps[name])
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { m.Close() })
		maps[name] = m
	}
	return maps
}

func policyMaps(t *testing.T) map[string]*ebpf.Map {
	t.Helper()
	return mapsOf(t, "trusted", "egress", "egress_rules", "edges", "attributes")
}

func prefixes(list ...string) (out []netip.Prefix) {
	for _, p := range list {
		out = append(out, netip.MustParsePrefix(p))
	}
	return out
}

// peer is the key the programs look an address up by: peer_network in
// bpf/maps/policy.h.
func peer(address string) WeftWeftNetwork {
	return WeftWeftNetwork{Prefix: 128, Address: netip.MustParseAddr(address).As16()}
}

func TestNetwork(t *testing.T) {
	for text, want := range map[string]struct {
		bits    uint32
		address string
	}{
		"0.0.0.0/0":         {96, "::ffff:0.0.0.0"},
		"10.0.0.0/8":        {104, "::ffff:10.0.0.0"},
		"192.0.2.7/32":      {128, "::ffff:192.0.2.7"},
		"::/0":              {0, "::"},
		"2001:db8::/32":     {32, "2001:db8::"},
		"::1/128":           {128, "::1"},
		"10.1.2.3/8":        {104, "::ffff:10.0.0.0"}, // bits beyond the mask must not be in the key
		"2001:db8::ff/33":   {33, "2001:db8::"},
		"2001:db8:8000::/1": {1, "::"},
	} {
		got := network(netip.MustParsePrefix(text))
		if got.Prefix != want.bits || got.Address != netip.MustParseAddr(want.address).As16() {
			t.Errorf("%s: %d bits of %s, want %d of %s", text, got.Prefix, netip.AddrFrom16(got.Address), want.bits, want.address)
		}
	}
}

func TestEveryone(t *testing.T) {
	for _, c := range []struct {
		trust []string
		want  bool
	}{
		{[]string{"0.0.0.0/0", "::/0"}, true},
		{[]string{"10.0.0.0/8", "::/0", "0.0.0.0/0"}, true},
		{[]string{"0.0.0.0/0"}, false},
		{[]string{"::/0"}, false},
		{[]string{"0.0.0.0/1", "128.0.0.0/1", "::/0"}, false}, // all the same, by looking up
		{nil, false},
	} {
		if got := everyone(prefixes(c.trust...)); got != c.want {
			t.Errorf("%v: %t", c.trust, got)
		}
	}
}

func TestCovering(t *testing.T) {
	p := Policy{}
	for _, n := range prefixes("10.0.0.0/8", "10.1.0.0/16", "0.0.0.0/0", "::/0", "fc00::/7", "10.1.0.0/16") {
		p.Egress = append(p.Egress, EgressRule{Network: n})
	}
	for text, want := range map[string]uint64{
		"0.0.0.0/0":     0b000100,
		"10.0.0.0/8":    0b000101,
		"10.1.0.0/16":   0b100111,
		"10.1.2.3/32":   0b100111,
		"10.0.0.0/7":    0b000100, // wider than the rule: not all of it is covered
		"11.0.0.0/8":    0b000100,
		"::/0":          0b001000, // says nothing of IPv4, and IPv4 nothing of it
		"fd00::/8":      0b011000,
		"2001:db8::/32": 0b001000,
	} {
		if got := p.covering(netip.MustParsePrefix(text)); got != want {
			t.Errorf("%s: rules %06b, want %06b", text, got, want)
		}
	}
	var most Policy
	for range MaxEgress {
		most.Egress = append(most.Egress, EgressRule{Network: mapped4()})
	}
	if got := most.covering(mapped4()); got != 1<<64-1 {
		t.Errorf("%d rules: %064b", MaxEgress, got)
	}
}

// TestTrustedByLongestPrefix asks the kernel's trie what the programs ask it.
func TestTrustedByLongestPrefix(t *testing.T) {
	for _, c := range []struct {
		trust              []string
		believed, mistrust []string
	}{
		{[]string{"0.0.0.0/0", "::/0"}, []string{"10.1.2.3", "192.0.2.1", "::1", "2001:db8::1"}, nil},
		{nil, nil, []string{"10.1.2.3", "127.0.0.1", "::1", "2001:db8::1"}},
		// A network of IPv6, however wide, does not mean IPv4.
		{[]string{"::/0"}, []string{"::1", "2001:db8::1"}, []string{"10.1.2.3", "::ffff:10.1.2.3"}},
		{[]string{"::/64"}, []string{"::1", "::1:2:3:4"}, []string{"10.1.2.3", "2001:db8::1"}},
		{[]string{"0.0.0.0/0"}, []string{"10.1.2.3", "255.255.255.255", "::ffff:10.1.2.3"}, []string{"::1", "::a01:203", "2001:db8::1"}},
		{[]string{"10.0.0.0/8", "192.0.2.7/32", "fd00::/8"}, []string{"10.0.0.0", "10.255.255.255", "192.0.2.7", "fd00::1"},
			[]string{"9.255.255.255", "11.0.0.0", "192.0.2.6", "192.0.2.8", "fc00::1", "::1"}},
		{[]string{"10.1.2.3/8"}, []string{"10.200.0.1"}, []string{"11.1.2.3"}},
	} {
		maps := policyMaps(t)
		if err := (Policy{Trust: prefixes(c.trust...)}).apply(maps); err != nil {
			t.Fatal(err)
		}
		for want, addresses := range map[bool][]string{true: c.believed, false: c.mistrust} {
			for _, address := range addresses {
				var value uint64
				err := maps["trusted"].Lookup(peer(address), &value)
				if got := err == nil && value != 0; got != want {
					t.Errorf("trust %v: %s believed: %t (%v), want %t", c.trust, address, got, err, want)
				}
			}
		}
	}
}

// kernelEgress finds the rule for a peer as weft_egress_find of
// bpf/socket/carry.h does; -1: none.
func kernelEgress(t *testing.T, maps map[string]*ebpf.Map, address netip.Addr, port uint16) int {
	t.Helper()
	var rules uint64
	if maps["egress"].Lookup(peer(address.String()), &rules) != nil {
		return -1
	}
	for i := range MaxEgress {
		if rules>>i&1 == 0 {
			continue
		}
		var r WeftWeftEgress
		if err := maps["egress_rules"].Lookup(uint32(i), &r); err != nil {
			t.Fatal(err)
		}
		covers := r.Ports == 0
		for j := range int(r.Ports) {
			covers = covers || port >= r.PortLow[j] && port <= r.PortHigh[j]
		}
		if covers {
			return i
		}
	}
	return -1
}

// firstEgress is what the configuration promises: the first rule of the list that
// covers address and port.
func firstEgress(rules []EgressRule, address netip.Addr, port uint16) int {
	return slices.IndexFunc(rules, func(r EgressRule) bool {
		return r.Network.Contains(address) && (len(r.Ports) == 0 || slices.ContainsFunc(r.Ports, func(p PortRange) bool {
			return p.Low <= port && port <= p.High
		}))
	})
}

// TestEgressFirstMatch: the longest prefix leads to the first rule, whatever the
// order of the rules, nested and overlapping, in both families.
func TestEgressFirstMatch(t *testing.T) {
	needRoot(t)
	random := rand.New(rand.NewPCG(1, 2))
	address := func() netip.Addr {
		// Few bits vary, so that networks nest and addresses fall into them.
		if random.IntN(2) == 0 {
			return netip.AddrFrom4([4]byte{10, byte(random.IntN(3)), byte(random.IntN(2)) << 7, byte(random.IntN(3))})
		}
		var a [16]byte
		if random.IntN(2) == 0 {
			a[0], a[1] = 0xfd, byte(random.IntN(3))
		}
		a[15] = byte(random.IntN(3))
		return netip.AddrFrom16(a)
	}
	found, none := 0, 0
	for round := range 60 {
		var p Policy
		for range 1 + random.IntN(12) {
			a := address()
			bits := []int{0, 7, 8, 16, 17, a.BitLen() - 1, a.BitLen()}[random.IntN(7)]
			r := EgressRule{Network: netip.PrefixFrom(a, bits).Masked()}
			for range random.IntN(3) {
				low := uint16(random.IntN(8))
				r.Ports = append(r.Ports, PortRange{low, low + uint16(random.IntN(3))})
			}
			p.Egress = append(p.Egress, r)
		}
		maps := policyMaps(t)
		if err := p.apply(maps); err != nil {
			t.Fatal(err)
		}
		for range 100 {
			a, port := address(), uint16(random.IntN(10))
			got, want := kernelEgress(t, maps, a, port), firstEgress(p.Egress, a, port)
			if got != want {
				t.Fatalf("round %d: %s port %d falls under rule %d, want %d of %+v", round, a, port, got, want, p.Egress)
			}
			if want < 0 {
				none++
			} else {
				found++
			}
		}
		for _, m := range maps {
			m.Close() // those of all rounds together are many
		}
	}
	if found < 1000 || none < 1000 {
		t.Errorf("%d peers fell under a rule, %d under none: too one-sided to say much", found, none)
	}
}

func TestPolicyTooManyNetworks(t *testing.T) {
	maps := policyMaps(t)
	var p Policy
	for i := range 2000 {
		p.Trust = append(p.Trust, netip.PrefixFrom(netip.AddrFrom4([4]byte{10, byte(i >> 8), byte(i), 0}), 24))
	}
	if err := p.apply(maps); err == nil || !strings.Contains(err.Error(), "write trusted network 10.") {
		t.Errorf("2000 networks: %v", err)
	}
}

// TestPolicyTables reads back what the programs will read.
func TestPolicyTables(t *testing.T) {
	maps := policyMaps(t)
	p := Policy{
		Egress: []EgressRule{{Network: mapped4(), Headers: HeaderTraceparent | HeaderBaggage, Keys: []string{"tenant"},
			Ports: []PortRange{{80, 80}, {8000, 8999}}}},
		Attributes: []string{"user_id", "tenant"},
		Edges:      []Edge{{Key: "user_id", Header: "x-user-id"}, {Key: "t", Header: "x-tenant"}},
	}
	if err := p.apply(maps); err != nil {
		t.Fatal(err)
	}
	var egress WeftWeftEgress
	var attributes WeftWeftKeys
	var edge WeftWeftEdge
	for name, into := range map[string]any{"egress_rules": &egress, "attributes": &attributes} {
		if err := maps[name].Lookup(uint32(0), into); err != nil {
			t.Fatal(err)
		}
	}
	if egress != p.Egress[0].kernel() {
		t.Errorf("egress rule %+v", egress)
	}
	if want := keys(p.Attributes); attributes != want {
		t.Errorf("attributes %+v, want %+v", attributes, want)
	}
	for i, want := range append(p.Edges, Edge{}) {
		if err := maps["edges"].Lookup(uint32(i), &edge); err != nil {
			t.Fatal(err)
		}
		if want == (Edge{}) {
			if edge.NameLen != 0 { // where the programs stop looking
				t.Errorf("edge %d is %+v, want none", i, edge)
			}
		} else if edge != want.kernel() {
			t.Errorf("edge %d is %+v", i, edge)
		}
	}
}

func TestEgressRuleInKernelForm(t *testing.T) {
	got := EgressRule{
		Headers: HeaderTraceparent | HeaderTracestate, Keys: []string{"foobar", "a"},
		Ports: []PortRange{{80, 80}, {443, 444}, {1, 65535}},
	}.kernel()
	want := WeftWeftEgress{PortLow: [4]uint16{80, 443, 1}, PortHigh: [4]uint16{80, 444, 65535}, Ports: 3, Headers: 3,
		// FNV-1a of 64 bits, as its authors' test vectors have them.
		Keys: WeftWeftKeys{Count: 2, Hash: [MaxKeys]uint64{0x85944171f73967e8, 0xaf63dc4c8601ec8c}}}
	if got != want {
		t.Errorf("got  %+v\nwant %+v", got, want)
	}
	if any := (EgressRule{Network: mapped4()}).kernel(); any != (WeftWeftEgress{}) {
		t.Errorf("any port, nothing may leave: %+v", any)
	}
}

func TestEdgeInKernelForm(t *testing.T) {
	got := Edge{Key: "user_id", Header: "x-user-id"}.kernel()
	want := WeftWeftEdge{NameLen: 9, KeyLen: 7, Hash: w3c.BaggageKeyHash("user_id")}
	copy(want.Name[:], "x-user-id")
	copy(want.Key[:], "user_id")
	if got != want {
		t.Errorf("got  %+v\nwant %+v", got, want)
	}
	longest := Edge{Key: strings.Repeat("k", MaxEdgeKey), Header: strings.Repeat("h", MaxEdgeHeader)}.kernel()
	if longest.NameLen != MaxEdgeHeader || longest.KeyLen != MaxEdgeKey ||
		longest.Name[MaxEdgeHeader-1] != 'h' || longest.Name[MaxEdgeHeader] != 0 || longest.Key[MaxEdgeKey-1] != 'k' {
		t.Errorf("%+v", longest)
	}
}

// TestEdgeBit: the parser announces a header only if its bit is wanted, so a bit
// that differs from C's would lose the header in silence.
func TestEdgeBit(t *testing.T) {
	for header, want := range map[string]uint{"x-user-id": 37, "a": 38, "x-tenant": 32, "t": 57, "ab": 43} {
		if got := (Edge{Header: header}).bit(); got != 1<<want {
			t.Errorf("%s: bit %#x, want %#x", header, got, uint64(1)<<want)
		}
	}
	// The objects hold the bits of the headers that weft itself reads.
	bits := func(headers ...string) (all uint64) {
		for _, h := range headers {
			all |= Edge{Header: h}.bit()
		}
		return all
	}
	response := bits("content-length", "transfer-encoding", "upgrade")
	request := response | bits("host", "traceparent", "tracestate", "baggage")
	files, err := filepath.Glob("weft_*_bpfel.o")
	if err != nil || len(files) != 2 {
		t.Fatalf("objects %v, error %v", files, err)
	}
	for _, file := range files {
		spec, err := ebpf.LoadCollectionSpec(file)
		if err != nil {
			t.Fatal(err)
		}
		for name, want := range map[string]uint64{"responses": response, "requests": request} {
			if !loads(spec.Programs["weft_msg"], want) {
				t.Errorf("%s: HTTP1_NAMES of %s are not %#x", file, name, want)
			}
		}
		if wrong := request ^ 1; loads(spec.Programs["weft_msg"], wrong) {
			t.Errorf("%s: %#x is found, too: this test says nothing", file, wrong)
		}
	}
}

// loads says whether the program loads this constant of 64 bits.
func loads(p *ebpf.ProgramSpec, constant uint64) bool {
	for _, in := range p.Instructions {
		if in.OpCode.IsDWordLoad() && uint64(in.Constant) == constant {
			return true
		}
	}
	return false
}

// TestBoundsAreTheKernels: more than a table holds would fail at start, fewer
// would refuse what fits.
func TestBoundsAreTheKernels(t *testing.T) {
	spec, err := LoadWeft()
	if err != nil {
		t.Fatal(err)
	}
	for name, want := range map[string]uint32{
		"egress_rules": MaxEgress, "edges": MaxEdges, "sampling_rules": MaxSamplingRules, "limits": maxServices,
	} {
		if got := spec.Maps[name].MaxEntries; got != want {
			t.Errorf("map %s holds %d, Go says %d", name, got, want)
		}
	}
	for what, pair := range map[string][2]int{
		"ports":          {len(WeftWeftEgress{}.PortLow), MaxPorts},
		"keys":           {len(WeftWeftKeys{}.Hash), MaxKeys},
		"key of an edge": {len(WeftWeftEdge{}.Key), MaxEdgeKey},
		"bits of rules":  {8 * binary.Size(WeftWeftTarget{}.Rules), MaxSamplingRules},
		// The parser stores names by words of eight bytes (HTTP1_NAME_LONGEST).
		"name of an edge": {len(WeftWeftEdge{}.Name) - 8, MaxEdgeHeader},
	} {
		if pair[0] != pair[1] {
			t.Errorf("%s: %d in C, %d in Go", what, pair[0], pair[1])
		}
	}
	for goName, pair := range map[string][2]int{
		"traceparent": {int(HeaderTraceparent), int(WeftWeftHeaderWEFT_HEADER_TRACEPARENT)},
		"tracestate":  {int(HeaderTracestate), int(WeftWeftHeaderWEFT_HEADER_TRACESTATE)},
		"baggage":     {int(HeaderBaggage), int(WeftWeftHeaderWEFT_HEADER_BAGGAGE)},
	} {
		if pair[0] != pair[1] {
			t.Errorf("bit of %s: %d in Go, %d in C", goName, pair[0], pair[1])
		}
	}
}

// TestConstants reads the programs' constants back from the object they are set in.
func TestConstants(t *testing.T) {
	edges := []Edge{{Key: "user_id", Header: "x-user-id"}, {Key: "tenant", Header: "x-tenant"}}
	all := prefixes("0.0.0.0/0", "::/0")
	for name, c := range map[string]struct {
		options Options
		want    map[string]any
	}{
		"nothing": {Options{}, map[string]any{
			"sampler_parent_based": uint8(0), "sampler_threshold": uint64(1 << 56), "sampler_marks": uint8(0),
			"limit_interval_ns": uint64(0), "inject_headers": uint8(0), "trust_restricted": uint8(1),
			"edge_names": uint64(0), "attribute_count": uint8(0), "discover": uint8(0),
		}},
		"everything": {Options{
			Sampling: Sampling{ParentBased: true, Ratio: 0.5, MaxPerSecond: 100, Marks: true},
			Policy: Policy{Inject: HeaderTraceparent | HeaderTracestate | HeaderBaggage, Trust: all, Edges: edges,
				Attributes: []string{"user_id", "tenant"}},
			Selector: nobody{},
		}, map[string]any{
			"sampler_parent_based": uint8(1), "sampler_threshold": uint64(1 << 55), "sampler_marks": uint8(1),
			"limit_interval_ns": uint64(10e6), "inject_headers": uint8(7), "trust_restricted": uint8(0),
			"edge_names": uint64(1<<37 | 1<<32), "attribute_count": uint8(2), "discover": uint8(1),
		}},
	} {
		t.Run(name, func(t *testing.T) {
			spec, err := LoadWeft()
			if err != nil {
				t.Fatal(err)
			}
			if err := setConstants(spec, c.options, everyConstant); err != nil {
				t.Fatal(err)
			}
			for constant, want := range c.want {
				got := reflect.New(reflect.TypeOf(want))
				if err := spec.Variables[constant].Get(got.Interface()); err != nil {
					t.Fatal(err)
				}
				if got.Elem().Interface() != want {
					t.Errorf("%s is %v, want %v", constant, got.Elem(), want)
				}
			}
		})
	}
}

// nobody selects no process.
type nobody struct{}

func (nobody) Select(Candidate) (string, bool) { return "", false }
func (nobody) NeedsPorts() bool                { return false }
