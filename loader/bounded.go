package loader

import (
	"debug/elf"
	"errors"
	"io"
)

// How much is read of files that others wrote. A file with holes may be as long as
// its author likes, and its tables too; linkers write a few KiB of section headers,
// and 30 MiB of symbols for the largest of interpreters.
const (
	maxHeaders = 4 << 20
	maxTables  = 64 << 20
)

var errTooLong = errors.New("its tables are longer than any linker makes them")

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

// compressed says whether a table that weft reads is compressed: a few bytes of it
// could become any number in memory. Linkers compress debugging sections alone.
func compressed(f *elf.File) bool {
	for _, s := range f.Sections {
		switch s.Type {
		case elf.SHT_SYMTAB, elf.SHT_DYNSYM, elf.SHT_STRTAB, elf.SHT_DYNAMIC:
			if s.Flags&elf.SHF_COMPRESSED != 0 {
				return true
			}
		}
	}
	return false
}
