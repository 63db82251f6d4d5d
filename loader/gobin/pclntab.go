package gobin

import (
	"bytes"
	"debug/elf"
	"encoding/binary"
	"errors"
	"fmt"
)

// The format of the table of functions, which every Go program carries: the
// runtime needs it for stack traces. Its magic number changes with it.
const (
	magic116 = 0xfffffffa // Go 1.16 and 1.17
	magic118 = 0xfffffff0 // Go 1.18 and 1.19
	magic120 = 0xfffffff1 // Go 1.20 and newer
)

var (
	errNoPclntab  = errors.New("it has no table of functions (.gopclntab)")
	errOldPclntab = errors.New("built by Go 1.17 or older: weft reads Go 1.19 and newer")
)

// pclntab is the header of that table, and where it lies.
type pclntab struct {
	magic          uint32
	address        uint64 // 0: not told
	offset, length uint64 // in the file; length is up to the end of what may hold it
	functions      uint64 // how many
	textStart      uint64 // as the header has it; 0 in a PIE, and from Go 1.26 on
	names, cu      uint64 // offsets in the table
	pcln           uint64
}

// goVersion is what the format tells of the version.
func (p *pclntab) goVersion() string {
	if p.magic == magic118 {
		return "go1.18 or go1.19"
	}
	return "go1.20 or newer"
}

// pclntabSection is nil if there is none.
func pclntabSection(e *elf.File) *elf.Section {
	for _, s := range e.Sections {
		if (s.Name == ".gopclntab" || s.Name == ".data.rel.ro.gopclntab") && s.Type != elf.SHT_NOBITS {
			return s
		}
	}
	return nil
}

// findPclntab reads the header, by the name of the section or, where
// there are no sections, by its magic number.
func (i *image) findPclntab() (*pclntab, error) {
	if s := pclntabSection(i.elf); s != nil {
		return i.pclntabAt(s.Addr, s.Offset, s.FileSize)
	}
	if len(i.elf.Sections) > 0 { // to search every large program for it would take long
		return nil, errNoPclntab
	}
	for _, p := range i.elf.Progs {
		if p.Type != elf.PT_LOAD || p.Flags&elf.PF_X != 0 {
			continue
		}
		b, err := i.read(p.Off, p.Filesz, maxTable)
		if err != nil {
			continue
		}
		for _, magic := range []uint32{magic120, magic118, magic116} {
			want := binary.LittleEndian.AppendUint32(nil, magic)
			want = append(want, 0, 0, i.arch.quantum(), 8)
			for at := 0; ; at++ {
				next := bytes.Index(b[at:], want)
				if next < 0 {
					break
				}
				at += next
				if at%8 != 0 {
					continue
				}
				if t, err := i.pclntabAt(p.Vaddr+uint64(at), p.Off+uint64(at), p.Filesz-uint64(at)); err == nil && i.pclntabPlausible(t) {
					return t, nil
				}
			}
		}
	}
	return nil, errNoPclntab
}

func (i *image) pclntabAt(address, offset, length uint64) (*pclntab, error) {
	b, err := i.read(offset, 72, maxHeaders)
	if err != nil {
		return nil, fmt.Errorf("read .gopclntab: %w", err)
	}
	word := func(n int) uint64 { return binary.LittleEndian.Uint64(b[8+8*n:]) }
	t := &pclntab{magic: binary.LittleEndian.Uint32(b), address: address, offset: offset, length: length, functions: word(0)}
	switch {
	case t.magic == magic116:
		return nil, errOldPclntab
	case t.magic != magic118 && t.magic != magic120:
		return nil, fmt.Errorf("its table of functions has the unknown format %#x", t.magic)
	case b[4] != 0 || b[5] != 0 || b[7] != 8:
		return nil, errors.New("the header of its table of functions is damaged")
	}
	t.textStart, t.names, t.cu, t.pcln = word(2), word(3), word(4), word(7)
	if t.names > t.cu || t.cu > t.pcln || t.pcln > length || t.functions > (length-t.pcln)/8 {
		return nil, errors.New("its table of functions is damaged")
	}
	return t, nil
}

// pclntabPlausible keeps eight bytes that look like a header from being one.
func (i *image) pclntabPlausible(t *pclntab) bool {
	names, err := i.read(t.offset+t.names, min(t.cu-t.names, 1<<20), maxTable)
	return err == nil && t.functions > 0 && bytes.Contains(names, []byte("runtime."))
}

// functionTable is the table of functions and what is behind it, which it names by
// offsets.
func (i *image) functionTable(t *pclntab) ([]byte, error) {
	size := min(t.length-t.pcln, maxTable)
	if end := uint64(i.size); t.offset+t.pcln+size > end && t.offset+t.pcln < end {
		size = end - t.offset - t.pcln
	}
	table, err := i.read(t.offset+t.pcln, size, maxTable)
	if err != nil {
		return nil, fmt.Errorf("read table of functions: %w", err)
	}
	if uint64(len(table)) < 8*t.functions+4 {
		return nil, errors.New("its table of functions is cut short")
	}
	return table, nil
}

// readPclntab takes the functions of wanted from the table of functions.
func (i *image) readPclntab(t *pclntab, wanted map[string]bool) error {
	names, err := i.read(t.offset+t.names, t.cu-t.names, maxTable)
	if err != nil {
		return fmt.Errorf("read names of functions: %w", err)
	}
	found := namesAt(names, wanted)
	table, err := i.functionTable(t)
	if err != nil {
		return err
	}
	start, err := i.textStart(t)
	if err != nil {
		return err
	}
	i.functions = map[string][]function{}
	for n := range t.functions {
		entry := binary.LittleEndian.Uint32(table[8*n:])
		info := uint64(binary.LittleEndian.Uint32(table[8*n+4:]))
		next := binary.LittleEndian.Uint32(table[8*n+8:]) // of the last one: the end
		if info+8 > uint64(len(table)) || next < entry {
			return errors.New("its table of functions is damaged")
		}
		if name, ok := found[binary.LittleEndian.Uint32(table[info+4:])]; ok {
			i.addFunction(name, function{nameOf(names, binary.LittleEndian.Uint32(table[info+4:])), start + uint64(entry), uint64(next - entry)})
		}
	}
	return nil
}

// textStart is the address that the entries count from.
func (i *image) textStart(t *pclntab) (uint64, error) {
	if s, ok := i.symbols["runtime.text"]; ok {
		return s.address, nil
	}
	if _, ok := i.offset(t.textStart, true); ok && t.textStart != 0 {
		return t.textStart, nil
	}
	if v, ok := i.relocations()[t.address+24]; ok {
		return v, nil
	}
	if v, ok := i.moduleText(t); ok {
		return v, nil
	}
	return 0, errors.New("it does not tell where its code begins")
}

// moduleText is where the code begins as the runtime's moduledata has it.
func (i *image) moduleText(t *pclntab) (uint64, bool) {
	at, ok := i.module(t)
	if !ok {
		return 0, false
	}
	start, err := i.pointer(at + moduleTextAt)
	return start, err == nil
}

// module is the address of the runtime's moduledata, which begins with the address of
// the table of functions. Its twenty-third word is where the code begins.
func (i *image) module(t *pclntab) (uint64, bool) {
	check := func(at uint64) bool {
		low, err := i.pointer(at + moduleMinpc)
		start, err2 := i.pointer(at + moduleTextAt)
		if err != nil || err2 != nil || low < start {
			return false
		}
		_, ok := i.offset(start, true)
		return ok
	}
	for at, v := range i.relocations() {
		if v == t.address && check(at) {
			return at, true
		}
	}
	want := binary.LittleEndian.AppendUint64(nil, t.address)
	for _, p := range i.elf.Progs {
		if p.Type != elf.PT_LOAD || p.Flags&elf.PF_X != 0 {
			continue
		}
		b, err := i.read(p.Off, p.Filesz, maxTable)
		if err != nil {
			continue
		}
		for at := 0; ; at += 8 {
			next := bytes.Index(b[at:], want)
			if next < 0 {
				break
			}
			at += next &^ 7
			if next%8 == 0 && check(p.Vaddr+uint64(at)) {
				return p.Vaddr + uint64(at), true
			}
		}
	}
	return 0, false
}
