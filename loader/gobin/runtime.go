package gobin

import (
	"debug/elf"
	"math"
	"slices"
	"strings"
)

// Functions that tell about the program or its runtime.
const (
	funcGogo     = "runtime.gogo"
	funcSetG     = "gogo" // what that jumps to: writes g to thread-local storage
	funcLoadG    = "runtime.load_g"
	funcNewproc1 = "runtime.newproc1"
	funcRetake   = "runtime.retake"
	funcAllgadd  = "runtime.allgadd"
	funcCgo      = "crosscall2"
	funcRace     = "runtime.racefuncenter"
	varText      = "runtime.text"
	varSched     = "runtime.sched"
	varAllp      = "runtime.allp"
	varAllgs     = "runtime.allgs"
	varTLSG      = "runtime.tlsg"
)

// wantedNames is what is looked for in the tables.
func wantedNames() map[string]bool {
	wanted := map[string]bool{}
	for _, t := range targets() {
		for _, n := range append(slices.Clone(t.functions), t.calls...) {
			wanted[n] = true
		}
	}
	for _, n := range []string{funcGogo, funcSetG, funcLoadG, funcNewproc1, funcRetake, funcAllgadd, funcCgo, funcRace, varText, varSched, varAllp, varAllgs, varTLSG, varGofunc, varGofuncBefore} {
		wanted[n] = true
	}
	return wanted
}

// tlsOffset is how far an address of the program's thread-local segment is from the
// thread pointer. On amd64 the segment ends there; on arm64 it begins behind 16 bytes.
func (i *image) tlsOffset(inSegment uint64) (int32, bool) {
	for _, p := range i.elf.Progs {
		if p.Type != elf.PT_TLS || p.Memsz > 1<<20 || p.Align > 1<<16 || inSegment > p.Memsz {
			continue
		}
		align := max(p.Align, 1)
		if i.elf.Machine == elf.EM_AARCH64 {
			return int32((16+align-1)/align*align + inSegment), true
		}
		// The end is aligned; the start is as far from a multiple as in the file.
		size := p.Memsz + (-p.Memsz-p.Vaddr)&(align-1)
		return int32(int64(inSegment) - int64(size)), true
	}
	return 0, false
}

// threadG is where g is kept, relative to the thread pointer. In code rather than
// by the symbol: the code of a stripped program says the same.
func (i *image) threadG() (int32, bool) {
	name := funcSetG
	if i.elf.Machine == elf.EM_AARCH64 {
		name = funcLoadG
	}
	for _, f := range i.functions[name] {
		code, err := i.code(f)
		if err != nil {
			continue
		}
		if offset, ok := i.arch.threadG(i, code, f.address); ok {
			return offset, true
		}
	}
	if s, ok := i.symbols[varTLSG]; ok {
		return i.tlsOffset(s.address)
	}
	return 0, false
}

// goidgen is the address of runtime.sched.goidgen, the first field of a schedt. In a
// stripped program it is what newproc1 adds 16 to, as many ids as a P takes at once.
func (i *image) goidgen() uint64 {
	if s, ok := i.symbols[varSched]; ok {
		return s.address
	}
	var found []uint64
	for _, f := range i.functions[funcNewproc1] {
		if code, err := i.code(f); err == nil {
			for _, a := range i.arch.addressed(code, f.address) {
				if a.adds == 16 {
					found = append(found, a.address)
				}
			}
		}
	}
	if slices.Sort(found); len(slices.Compact(found)) == 1 {
		return found[0]
	}
	return 0
}

// allp is the address of runtime.allp. In a stripped program it is the one pair of
// words, pointer and length, that retake reads.
func (i *image) allp() uint64 { return i.slice(varAllp, funcRetake, 2) }

// allgs is the address of runtime.allgs. In a stripped program it is the one slice,
// with its capacity, that allgadd reads.
func (i *image) allgs() uint64 { return i.slice(varAllgs, funcAllgadd, 3) }

// slice is the address of a variable by its symbol, else by the code of a function: the
// one place of which it reads so many words in a row.
func (i *image) slice(symbol, function string, words uint64) uint64 {
	if s, ok := i.symbols[symbol]; ok {
		return s.address
	}
	var found []uint64
	for _, f := range i.functions[function] {
		code, err := i.code(f)
		if err != nil {
			continue
		}
		loaded := map[uint64]bool{}
		for _, a := range i.arch.addressed(code, f.address) {
			if a.load {
				loaded[a.address] = true
			}
		}
		for a := range loaded {
			n := uint64(1)
			for n < words && loaded[a+8*n] {
				n++
			}
			if n == words {
				found = append(found, a)
			}
		}
	}
	if slices.Sort(found); len(slices.Compact(found)) == 1 {
		return found[0]
	}
	return 0
}

// extent is where the executable lies in memory: its lowest address and how far from
// there its last segment ends.
func (i *image) extent() (low, size uint64) {
	high := uint64(0)
	low = math.MaxUint64
	for _, p := range i.elf.Progs {
		if p.Type == elf.PT_LOAD && p.Vaddr+p.Memsz > p.Vaddr {
			low, high = min(low, p.Vaddr), max(high, p.Vaddr+p.Memsz)
		}
	}
	if high <= low {
		return 0, 0
	}
	return low, high - low
}

// wellPlaced keeps probes out of the middle of instructions: where functions begin
// must be right, and a wrong start of the code would move all of them. All of these
// have frames large enough to check the stack first.
func (i *image) wellPlaced() bool {
	checked, all := 0, 0
	for _, t := range targets() {
		for _, name := range t.functions {
			for _, f := range i.functions[name] {
				if code, err := i.code(f); err == nil {
					all++
					if _, ok := i.arch.stackCheck(code, f.address); ok {
						checked++
					}
				}
			}
		}
	}
	return 2*checked >= all
}

// hasPackage says whether any function of a package is wanted and there.
func (i *image) hasPackage(pkg string) bool {
	for name := range i.functions {
		if p := packageOf(name); p == pkg || strings.HasPrefix(p, pkg+"/") {
			return true
		}
	}
	return false
}
