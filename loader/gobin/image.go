package gobin

import (
	"debug/elf"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"os"
)

// How much is read of a file that somebody else wrote; it may claim any size. The
// largest Go programs have some 60 MiB of symbols and names of functions, and a
// function of a few hundred KiB.
const (
	maxRead     = 512 << 20 // in all
	maxHeaders  = 4 << 20
	maxTable    = 128 << 20 // one section
	maxFunction = 1 << 20
	maxUnpacked = 256 << 20 // a compressed section
	maxRatio    = 32        // of its size to that in the file; linkers reach 4
)

var (
	errTooLong    = errors.New("its tables are longer than any linker makes them")
	errNotRegular = errors.New("is not a regular file")
)

// bounded reads up to left bytes, in all.
type bounded struct {
	r    io.ReaderAt
	left int64
}

// ReadAt implements io.ReaderAt.
func (b *bounded) ReadAt(p []byte, off int64) (int, error) {
	if int64(len(p)) > b.left {
		return 0, errTooLong
	}
	b.left -= int64(len(p))
	return b.r.ReadAt(p, off)
}

// image is an ELF file and the memory that it becomes.
type image struct {
	file io.ReaderAt
	size int64
	elf  *elf.File
	left int64 // of maxRead
	arch architecture

	symbols   map[string]symbol // what was wanted of the symbol table; nil if there is none
	functions map[string][]function
	usual     bool                // built as by default, of what weft's table knows: it inlines nothing that weft probes
	inlines   map[string][]string // see inlined
	relative  map[uint64]uint64   // see relocations
}

type symbol struct{ address, size uint64 }

// function is code, without the padding behind it where the symbols tell.
type function struct {
	name          string
	address, size uint64
}

// openImage reads the headers; r is what f has.
func openImage(f *os.File, r io.ReaderAt) (*image, error) {
	info, err := f.Stat()
	if err != nil {
		return nil, fmt.Errorf("stat: %w", err)
	}
	if !info.Mode().IsRegular() {
		return nil, errNotRegular
	}
	e, err := elf.NewFile(&bounded{r, maxHeaders + maxTable})
	if err != nil {
		return nil, fmt.Errorf("is not an ELF file: %w", err)
	}
	if e.Class != elf.ELFCLASS64 || e.Data != elf.ELFDATA2LSB {
		return nil, fmt.Errorf("is of %s: weft reads 64-bit little-endian programs", e.Machine)
	}
	i := &image{file: r, size: info.Size(), elf: e, left: maxRead}
	switch e.Machine {
	case elf.EM_X86_64:
		i.arch = amd64{}
	case elf.EM_AARCH64:
		i.arch = arm64{}
	default:
		return nil, fmt.Errorf("is of %s: weft reads amd64 and arm64", e.Machine)
	}
	return i, nil
}

// read is what lies in the file, and nothing that it merely claims.
func (i *image) read(off, size uint64, limit int64) ([]byte, error) {
	if size > uint64(limit) || int64(size) > i.left {
		return nil, errTooLong
	}
	if off > uint64(i.size) || size > uint64(i.size)-off {
		return nil, io.ErrUnexpectedEOF
	}
	i.left -= int64(size)
	b := make([]byte, size)
	if _, err := i.file.ReadAt(b, int64(off)); err != nil {
		return nil, err
	}
	return b, nil
}

// section is the bytes of an uncompressed section.
func (i *image) section(s *elf.Section) ([]byte, error) {
	if s.Type == elf.SHT_NOBITS || s.Flags&elf.SHF_COMPRESSED != 0 {
		return nil, fmt.Errorf("%s is not in the file as it is in memory", s.Name)
	}
	return i.read(s.Offset, s.FileSize, maxTable)
}

// unpacked is the bytes of a section that may be compressed.
func (i *image) unpacked(s *elf.Section) ([]byte, error) {
	if s.Flags&elf.SHF_COMPRESSED == 0 {
		return i.section(s)
	}
	if s.Size > maxUnpacked || s.Size/maxRatio > s.FileSize || s.FileSize > maxTable ||
		s.Offset > uint64(i.size) || s.FileSize > uint64(i.size)-s.Offset || int64(s.FileSize) > i.left {
		return nil, errTooLong
	}
	i.left -= int64(s.FileSize)
	b := make([]byte, s.Size)
	if _, err := io.ReadFull(s.Open(), b); err != nil {
		return nil, fmt.Errorf("decompress: %w", err)
	}
	return b, nil
}

// offset is where an address of memory lies in the file; of code if executable.
func (i *image) offset(address uint64, executable bool) (uint64, bool) {
	for _, p := range i.elf.Progs {
		if p.Type != elf.PT_LOAD || executable && p.Flags&elf.PF_X == 0 {
			continue
		}
		if address >= p.Vaddr && address-p.Vaddr < p.Filesz {
			return address - p.Vaddr + p.Off, true
		}
	}
	return 0, false
}

// memory is what the file puts at an address.
func (i *image) memory(address, size uint64) ([]byte, error) {
	off, ok := i.offset(address, false)
	if !ok {
		return nil, fmt.Errorf("address %#x is not in the file", address)
	}
	return i.read(off, size, maxTable)
}

// pointer is the value of a word after relocation by a bias of 0.
func (i *image) pointer(address uint64) (uint64, error) {
	if v, ok := i.relocations()[address]; ok {
		return v, nil
	}
	b, err := i.memory(address, 8)
	if err != nil {
		return 0, err
	}
	return binary.LittleEndian.Uint64(b), nil
}

// relocations are those that add the load bias: in a PIE the linker leaves the words
// themselves empty.
func (i *image) relocations() map[uint64]uint64 {
	if i.relative == nil {
		kind := uint32(elf.R_X86_64_RELATIVE)
		if i.elf.Machine == elf.EM_AARCH64 {
			kind = uint32(elf.R_AARCH64_RELATIVE)
		}
		i.relative = i.addends(kind)
	}
	return i.relative
}

// threadOffset is the offset from the thread pointer that the dynamic linker puts
// into the word at an address.
func (i *image) threadOffset(address uint64) (int32, bool) {
	kind := uint32(elf.R_X86_64_TPOFF64)
	if i.elf.Machine == elf.EM_AARCH64 {
		kind = uint32(elf.R_AARCH64_TLS_TPREL64)
	}
	if v, ok := i.addends(kind)[address]; ok {
		return i.tlsOffset(v)
	}
	return 0, false
}

// addends are those of the relocations of a kind, by address, that name no symbol.
func (i *image) addends(kind uint32) map[uint64]uint64 {
	found := map[uint64]uint64{}
	for _, s := range i.elf.Sections {
		if s.Type != elf.SHT_RELA { //nolint:misspell // the format's name
			continue
		}
		b, err := i.section(s)
		if err != nil {
			continue
		}
		for ; len(b) >= 24; b = b[24:] { // address, kind, symbol, addend
			if binary.LittleEndian.Uint32(b[8:]) == kind && binary.LittleEndian.Uint32(b[12:]) == 0 {
				found[binary.LittleEndian.Uint64(b)] = binary.LittleEndian.Uint64(b[16:])
			}
		}
	}
	return found
}

// code is the machine code of a function.
func (i *image) code(f function) ([]byte, error) {
	off, ok := i.offset(f.address, true)
	if !ok {
		return nil, errors.New("its code is not in the file")
	}
	return i.read(off, f.size, maxFunction)
}

// isPIE tells a position-independent program: both it and a library are ET_DYN.
func isPIE(e *elf.File) bool {
	if e.Type != elf.ET_DYN {
		return false
	}
	for _, p := range e.Progs {
		if p.Type == elf.PT_INTERP {
			return true
		}
	}
	const pie = 0x08000000 // DF_1_PIE
	flags, err := e.DynValue(elf.DT_FLAGS_1)
	return err == nil && len(flags) > 0 && flags[0]&pie != 0
}
