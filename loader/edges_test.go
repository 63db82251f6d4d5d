package loader

import (
	"math/rand/v2"
	"os"
	"regexp"
	"slices"
	"strconv"
	"testing"

	"github.com/cilium/ebpf"
)

func edges(keys ...string) (out []Edge) {
	for _, k := range keys {
		out = append(out, Edge{Key: k, Header: "x-" + k})
	}
	return out
}

// TestEdgePlaces: whatever policies follow each other, a place that a header block may
// remember means in the next one what it meant, or nothing.
func TestEdgePlaces(t *testing.T) {
	names := []string{"a", "b", "c", "d", "e", "f", "g", "h", "i", "j", "k", "l"}
	random := rand.New(rand.NewPCG(1, 2))
	refused, reuses := 0, 0
	for range 2000 {
		var table edgeTable
		var live []Edge
		for range 12 {
			random.Shuffle(len(names), func(i, j int) { names[i], names[j] = names[j], names[i] })
			want := edges(names[:random.IntN(MaxEdges+1)]...)
			next, reused, ok := table.change(want)
			union := slices.Clone(live)
			for _, e := range want {
				if !slices.Contains(union, e) {
					union = append(union, e)
				}
			}
			if ok != (len(union) <= MaxEdges) {
				t.Fatalf("%v behind %v: %v", want, live, ok)
			}
			if !ok {
				refused++
				if next != table || reused != 0 {
					t.Fatal("a refused change changes the table")
				}
				continue
			}
			var got []Edge
			for i, p := range next {
				before := table[i]
				switch {
				case before.state == placeLive && p.Edge != before.Edge:
					t.Fatalf("place %d meant %v, and means %v", i, before.Edge, p.Edge)
				case before.state == placeEnded && p.Edge != before.Edge && reused>>i&1 == 0:
					t.Fatalf("place %d of %v is given to %v, and nobody is told to forget it", i, before.Edge, p.Edge)
				case reused>>i&1 == 1 && (before.state != placeEnded || p.state != placeLive):
					t.Fatalf("place %d goes from %v to %v, and is to be forgotten", i, before, p)
				}
				if p.state == placeLive {
					got = append(got, p.Edge)
				}
				if reused>>i&1 == 1 {
					reuses++
				}
			}
			if !sameEdges(got, want) {
				t.Fatalf("the table has %v, want %v", got, want)
			}
			table, live = next, want
		}
	}
	if refused == 0 || reuses == 0 {
		t.Errorf("%d changes refused, %d places used again: these were not tried", refused, reuses)
	}
}

func sameEdges(a, b []Edge) bool {
	return len(a) == len(b) && !slices.ContainsFunc(a, func(e Edge) bool { return !slices.Contains(b, e) })
}

// TestEdgeTableInKernelForm: the programs stop at the first place without a length, so
// none stands before one that is used; and no header is as long as one that has ended.
func TestEdgeTableInKernelForm(t *testing.T) {
	m := policyMaps(t)["edges"]
	table, _, _ := edgeTable{}.change(edges("a", "b", "c"))
	table, _, _ = table.change(edges("c"))
	if err := table.apply(m); err != nil {
		t.Fatal(err)
	}
	var got [4]WeftWeftEdge
	for i := range got {
		if err := m.Lookup(uint32(i), &got[i]); err != nil {
			t.Fatal(err)
		}
	}
	for i, e := range edges("a", "b") {
		want := e.kernel()
		want.NameLen = noName
		if got[i] != want {
			t.Errorf("ended place %d: %+v", i, got[i])
		}
	}
	if got[2] != edges("c")[0].kernel() || got[3] != (WeftWeftEdge{}) {
		t.Errorf("%+v", got[2:])
	}
}

func TestEdgesKnowTheParser(t *testing.T) {
	text, err := os.ReadFile("../bpf/lib/http1_message.h")
	if err != nil {
		t.Fatal(err)
	}
	for name, want := range map[string]int{"KIND_CALLER": edgeKind, "PHASE_SKIP": phaseSkip, "PHASE_KEEP": phaseKeep} {
		found := regexp.MustCompile(`HTTP1_` + name + ` = (\d+),`).FindSubmatch(text)
		if found == nil {
			t.Fatalf("no HTTP1_%s", name)
		}
		if n, err := strconv.Atoi(string(found[1])); err != nil || n != want {
			t.Errorf("HTTP1_%s is %s, here %d", name, found[1], want)
		}
	}
}

// TestForgetEdges has header blocks in the kernel's maps forget some places, and keep
// the rest.
func TestForgetEdges(t *testing.T) {
	needRoot(t)
	spec, err := LoadWeft()
	if err != nil {
		t.Fatal(err)
	}
	maps := map[string]*ebpf.Map{}
	for name, entries := range map[string]uint32{"conns": 64, "slots": 4} {
		m := spec.Maps[name]
		m.MaxEntries = entries
		if maps[name], err = ebpf.NewMap(m); err != nil {
			t.Fatal(err)
		}
		defer maps[name].Close() //nolint:errcheck // the test ends
	}
	at := func(name string, way ...string) int {
		t.Helper()
		offset, err := memberOffset(spec, name, way...)
		if err != nil {
			t.Fatal(err)
		}
		return int(offset)
	}
	kind, phase, piece, begun := at("conn", "dir", "parser", "kind"), at("conn", "dir", "parser", "phase"),
		at("conn", "dir", "parser", "piece"), at("conn", "dir", "parser", "begun")
	edges := at("slot", "edges")
	const places = 1<<0 | 1<<3 | 1<<7
	phases := []byte{phaseKeep, phaseSkip, 3}
	for n := range uint64(48) {
		conn := make([]byte, maps["conns"].ValueSize())
		for i := range conn {
			conn[i] = 0xee
		}
		conn[kind], conn[phase], conn[piece], conn[begun] = byte(n/3), phases[n%3], 0, 1
		if err := maps["conns"].Put(n, conn); err != nil {
			t.Fatal(err)
		}
	}
	slot := make([]byte, maps["slots"].ValueSize())
	slot[edges], slot[edges+1] = 0xff, 0x55
	if err := maps["slots"].Put(uint32(2), slot); err != nil {
		t.Fatal(err)
	}
	l := &Loader{coll: &collection{Collection: &ebpf.Collection{Maps: maps}}}
	if err := l.forgetEdges(places); err != nil {
		t.Fatal(err)
	}
	for n := range uint64(48) {
		var conn []byte
		if err := maps["conns"].Lookup(n, &conn); err != nil {
			t.Fatal(err)
		}
		want := [4]byte{byte(n / 3), phases[n%3], 0, 1}
		if place := int(n)/3 - edgeKind; place >= 0 && place < MaxEdges && places>>place&1 == 1 {
			want[0], want[2], want[3] = 0, 1, 0
			if want[1] == phaseKeep {
				want[1] = phaseSkip
			}
		}
		if got := [4]byte{conn[kind], conn[phase], conn[piece], conn[begun]}; got != want {
			t.Errorf("kind %d, phase %d: now %v, want %v", n/3, phases[n%3], got, want)
		}
		conn[kind], conn[phase], conn[piece], conn[begun] = 0xee, 0xee, 0xee, 0xee
		if slices.ContainsFunc(conn, func(b byte) bool { return b != 0xee }) {
			t.Errorf("connection %d: another byte is changed", n)
		}
	}
	if err := maps["slots"].Lookup(uint32(2), &slot); err != nil {
		t.Fatal(err)
	}
	if slot[edges] != ^byte(places) || slot[edges+1] != 0x55 {
		t.Errorf("edges of a slot: %x", slot[edges:edges+2])
	}
}
