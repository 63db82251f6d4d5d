package loader

import (
	"fmt"
	"math"
	"slices"
	"time"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/asm"
	"github.com/cilium/ebpf/btf"
)

// edgeTable says where the kernel has a policy's edges. A header block that is being
// read remembers the place of a header in it, and the values read so far by place. So
// an edge keeps its place from one policy to the next; the place of one that ended is
// still told to the programs, which then finish such blocks, but under a name that no
// header has; and a new one gets a place that no block read now can mean.
type edgeTable [MaxEdges]edgePlace

type edgePlace struct {
	Edge
	state placeState
}

type placeState uint8

const (
	placeFree placeState = iota
	placeLive
	placeEnded
)

// change is the table for another policy. reused is the set, one bit each, of places
// in it that meant something else before the policy that t is of. False: there is no
// room for all of both.
func (t edgeTable) change(to []Edge) (next edgeTable, reused uint8, ok bool) {
	next = t
	for i := range next {
		if next[i].state == placeLive {
			next[i].state = placeEnded
		}
	}
	var added []Edge
	for _, e := range to {
		if i := slices.IndexFunc(next[:], func(p edgePlace) bool { return p.state != placeFree && p.Edge == e }); i >= 0 {
			next[i].state = placeLive
		} else {
			added = append(added, e)
		}
	}
	for _, e := range added {
		i := slices.IndexFunc(next[:], func(p edgePlace) bool { return p.state == placeFree })
		if i < 0 {
			for j := range next {
				if next[j].state == placeEnded && t[j].state != placeLive {
					i = j
				}
			}
		}
		if i < 0 {
			return t, 0, false
		}
		if next[i].state == placeEnded {
			reused |= 1 << i
		}
		next[i] = edgePlace{Edge: e, state: placeLive}
	}
	return next, reused, true
}

// What the parser of bpf/lib/http1_message.h remembers.
const (
	edgeKind  = 7 // HTTP1_KIND_CALLER: of a line that the first place of the table names
	phaseSkip = 1 // HTTP1_PHASE_SKIP: a value without meaning
	phaseKeep = 4 // HTTP1_PHASE_KEEP: one that is kept
)

// noName is longer than any header's name.
const noName = math.MaxUint32

// apply writes the table for the programs, which look no further than the first place
// that was never used.
func (t edgeTable) apply(into *ebpf.Map) error {
	for i, p := range t {
		if p.state == placeFree {
			continue
		}
		k := p.kernel()
		if p.state == placeEnded {
			k.NameLen = noName
		}
		if err := into.Put(uint32(i), k); err != nil {
			return fmt.Errorf("write header %s: %w", p.Header, err)
		}
	}
	return nil
}

// forgetEdges makes header blocks that are being read forget the headers that had
// these places. It is for places that have ended, in the programs that run.
func (l *Loader) forgetEdges(places uint8) error {
	spec, err := LoadWeft()
	if err != nil {
		return fmt.Errorf("read embedded BPF object: %w", err)
	}
	at := map[string]int16{}
	for _, field := range []string{"kind", "phase", "piece", "begun"} {
		if at[field], err = memberOffset(spec, "conn", "dir", "parser", field); err != nil { // of what is received, the first
			return err
		}
	}
	// A line that is being read becomes one of no meaning, and what was read of its
	// value is forgotten by the next step. Should a program read it just now, the
	// connection may be taken for something else than HTTP, and left alone.
	err = l.walk("conns", asm.Instructions{
		asm.LoadMem(asm.R3, asm.R6, at["kind"], asm.Byte),
		asm.JLT.Imm(asm.R3, edgeKind, "out"),
		asm.Sub.Imm(asm.R3, edgeKind),
		asm.JGE.Imm(asm.R3, MaxEdges, "out"),
		asm.Mov.Imm(asm.R4, int32(places)),
		asm.RSh.Reg(asm.R4, asm.R3),
		asm.And.Imm(asm.R4, 1),
		asm.JEq.Imm(asm.R4, 0, "out"),
		asm.StoreImm(asm.R6, at["kind"], 0, asm.Byte),
		asm.StoreImm(asm.R6, at["piece"], 1, asm.Byte),
		asm.StoreImm(asm.R6, at["begun"], 0, asm.Byte),
		asm.LoadMem(asm.R3, asm.R6, at["phase"], asm.Byte),
		asm.JNE.Imm(asm.R3, phaseKeep, "out"),
		asm.StoreImm(asm.R6, at["phase"], phaseSkip, asm.Byte),
	})
	if err != nil {
		return err
	}
	time.Sleep(graceful) // programs that had read the kind already
	begun, err := memberOffset(spec, "slot", "edges")
	if err != nil {
		return err
	}
	return l.walk("slots", asm.Instructions{
		asm.LoadMem(asm.R3, asm.R6, begun, asm.Word),
		asm.And.Imm(asm.R3, ^int32(places)),
		asm.StoreMem(asm.R6, begun, asm.R3, asm.Word),
	})
}

// memberOffset is where a member of a struct of the BPF object is, by the way to it:
// of an array, in its first element; through members without a name.
func memberOffset(spec *ebpf.CollectionSpec, name string, way ...string) (int16, error) {
	var s *btf.Struct
	if err := spec.Types.TypeByName(name, &s); err != nil {
		return 0, fmt.Errorf("find struct %s: %w", name, err)
	}
	offset, at := uint32(0), btf.Type(s)
	for _, member := range way {
		within, typ := findMember(at, member)
		if typ == nil {
			return 0, fmt.Errorf("find member %s of struct %s: there is none", member, name)
		}
		offset, at = offset+within, typ
	}
	if offset > math.MaxInt16 {
		return 0, fmt.Errorf("reach member %s of struct %s: %d bytes are too far", way[len(way)-1], name, offset)
	}
	return int16(offset), nil
}

func findMember(in btf.Type, name string) (uint32, btf.Type) {
	in = btf.UnderlyingType(in)
	if a, ok := in.(*btf.Array); ok {
		in = btf.UnderlyingType(a.Type)
	}
	var members []btf.Member
	switch t := in.(type) {
	case *btf.Struct:
		members = t.Members
	case *btf.Union:
		members = t.Members
	}
	for _, m := range members {
		if m.Name == name {
			return m.Offset.Bytes(), m.Type
		}
		if m.Name == "" {
			if within, typ := findMember(m.Type, name); typ != nil {
				return m.Offset.Bytes() + within, typ
			}
		}
	}
	return 0, nil
}
