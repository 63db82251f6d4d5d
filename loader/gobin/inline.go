package gobin

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"slices"
)

// What the compiler has inlined, as the runtime knows it for stack traces: each
// function has a table of the calls in it that are none any more. It lies behind the
// address in moduledata.gofunc; how many calls it has, the function's table of their
// indexes by place tells.
const (
	funcdataInlTree     = 3
	pcdataInlTreeIndex  = 2
	maxInlined          = 1 << 16 // calls in one function
	varGofunc           = "go:func.*"
	varGofuncBefore     = "go.func.*" // up to Go 1.19
	moduleMinpc         = 160
	moduleTextAt        = 176
	moduleGofunc        = 320 // Go 1.20 to 1.26
	moduleGofuncBefore  = 304
	callSize, callName  = 16, 4
	callSizeBefore      = 20
	callNameBefore      = 12
	funcSize            = 44 // of runtime._func, without what follows it
	funcSizeBefore      = 40
	funcNameAt          = 4
	funcPcdataAt        = 28
	pcHeaderPctabOffset = 8 + 6*8
)

var errGofunc = errors.New("where its tables of inlined calls are is not known")

// inlinedError says that a function is part of others, so that a probe on it, if it is
// still there at all, would miss what they do.
type inlinedError struct {
	function string
	into     []string
}

func (e *inlinedError) Error() string {
	s := e.function + " is inlined into " + e.into[0]
	if n := len(e.into) - 1; n > 0 {
		s += fmt.Sprintf(" and %d more", n)
	}
	return s
}

func isInlined(err error) bool {
	var e *inlinedError
	return errors.As(err, &e)
}

// readInlined looks for those that weft probes.
func (i *image) readInlined(b *Binary) {
	wanted := map[string]bool{}
	for _, t := range targets() {
		for _, name := range slices.Concat(t.functions, t.calls) {
			wanted[name] = true
		}
	}
	var err error
	if i.inlines, err = i.inlined(wanted); err != nil {
		b.problem("whether functions that weft probes are inlined is not known: %v", err)
	}
}

// inlined are the functions into which others were inlined, by the name of those, as
// far as they are wanted.
func (i *image) inlined(wanted map[string]bool) (map[string][]string, error) {
	t, err := i.findPclntab()
	if err != nil {
		return nil, err
	}
	gofunc, err := i.gofunc(t)
	if err != nil {
		return nil, err
	}
	names, err := i.read(t.offset+t.names, t.cu-t.names, maxTable)
	if err != nil {
		return nil, fmt.Errorf("read names of functions: %w", err)
	}
	whose := namesAt(names, wanted)
	if len(whose) == 0 {
		return nil, nil
	}
	table, err := i.functionTable(t)
	if err != nil {
		return nil, err
	}
	header, err := i.read(t.offset, 72, maxHeaders)
	if err != nil {
		return nil, fmt.Errorf("read .gopclntab: %w", err)
	}
	places := binary.LittleEndian.Uint64(header[pcHeaderPctabOffset:])
	if places > t.pcln {
		return nil, errors.New("its table of functions is damaged")
	}
	pctab, err := i.read(t.offset+places, t.pcln-places, maxTable)
	if err != nil {
		return nil, fmt.Errorf("read table of places: %w", err)
	}
	trees, err := i.behind(gofunc)
	if err != nil {
		return nil, err
	}
	size, nameAt, head := callSize, callName, funcSize
	if t.magic == magic118 {
		size, nameAt, head = callSizeBefore, callNameBefore, funcSizeBefore
	}
	found := map[string][]string{}
	for n := range t.functions {
		info := uint64(binary.LittleEndian.Uint32(table[8*n+4:]))
		if info+uint64(head) > uint64(len(table)) {
			return nil, errors.New("its table of functions is damaged")
		}
		f := table[info:]
		pcdata, funcdata := int(binary.LittleEndian.Uint32(f[funcPcdataAt:])), int(f[head-1])
		if funcdata <= funcdataInlTree || pcdata <= pcdataInlTreeIndex || pcdata > 64 || len(f) < head+4*(pcdata+funcdata) {
			continue
		}
		tree := uint64(binary.LittleEndian.Uint32(f[head+4*(pcdata+funcdataInlTree):]))
		index := uint64(binary.LittleEndian.Uint32(f[head+4*pcdataInlTreeIndex:]))
		if tree >= uint64(len(trees)) || index == 0 || index >= uint64(len(pctab)) {
			continue // none: all ones, or 0
		}
		calls := trees[tree:]
		for n := highest(pctab[index:]); n >= 0 && (n+1)*size <= len(calls); n-- {
			name, ok := whose[binary.LittleEndian.Uint32(calls[n*size+nameAt:])]
			if !ok {
				continue
			}
			into := nameOf(names, binary.LittleEndian.Uint32(f[funcNameAt:]))
			if !slices.Contains(found[name], into) {
				found[name] = append(found[name], into)
			}
		}
	}
	return found, nil
}

// namesAt are the wanted names by where they begin in the table of names.
func namesAt(names []byte, wanted map[string]bool) map[uint32]string {
	found := map[uint32]string{}
	for at := 0; at < len(names); {
		end := bytes.IndexByte(names[at:], 0)
		if end < 0 {
			break
		}
		if name := string(canonical(names[at : at+end])); end > 0 && wanted[name] {
			found[uint32(at)] = name
		}
		at += end + 1
	}
	return found
}

func nameOf(names []byte, at uint32) string {
	if int(at) >= len(names) {
		return "?"
	}
	end := bytes.IndexByte(names[at:], 0)
	if end < 0 {
		return "?"
	}
	return string(names[at:][:end])
}

// highest is the greatest value in a table by place: pairs of numbers, of which the
// first adds to the value and the second to the place.
func highest(table []byte) int {
	value, most := int64(-1), int64(-1)
	for first := true; ; first = false {
		delta, n := binary.Uvarint(table)
		if n <= 0 || delta == 0 && !first {
			break
		}
		table = table[n:]
		_, n = binary.Uvarint(table)
		if n <= 0 {
			break
		}
		table = table[n:]
		step := int64(delta >> 1)
		if delta&1 != 0 {
			step = ^step
		}
		value += step
		most = max(most, value)
	}
	return int(min(most, maxInlined))
}

// gofunc is the address that those tables count from.
func (i *image) gofunc(t *pclntab) (uint64, error) {
	for _, name := range []string{varGofunc, varGofuncBefore} {
		if s, ok := i.symbols[name]; ok {
			return s.address, nil
		}
	}
	at := uint64(moduleGofunc)
	if t.magic == magic118 {
		at = moduleGofuncBefore
	}
	module, ok := i.module(t)
	if !ok {
		return 0, errGofunc
	}
	address, err := i.pointer(module + at)
	if err != nil {
		return 0, errGofunc
	}
	// The start of read-only data comes before it.
	if data, err := i.pointer(module + at - 8); err != nil || data > address {
		return 0, errGofunc
	}
	return address, nil
}

// behind is what the file has from an address to the end of its segment.
func (i *image) behind(address uint64) ([]byte, error) {
	for _, p := range i.elf.Progs {
		if address >= p.Vaddr && address-p.Vaddr < p.Filesz {
			skip := address - p.Vaddr
			return i.read(p.Off+skip, min(p.Filesz-skip, maxTable), maxTable)
		}
	}
	return nil, errGofunc
}
