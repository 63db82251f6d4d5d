package gobin

import (
	"bytes"
	"debug/dwarf"
	"debug/elf"
	"errors"
	"fmt"
	"strings"

	"weft/loader/gobin/field"
)

// debugInfo answers where the fields of structs are. A program of 100 MiB has some
// 40 MiB of it: the entry of a struct is found by its name, which Go's compiler
// writes into the entry itself, and not by reading all that lies before.
type debugInfo struct {
	data    *dwarf.Data
	info    []byte
	structs map[string]*dwarf.Entry // nil: not there
}

var errNoDWARF = errors.New("no debugging information")

func (i *image) debugInfo() (*debugInfo, error) {
	sections := map[string][]byte{}
	for _, s := range i.elf.Sections {
		name, ok := strings.CutPrefix(s.Name, ".debug_")
		if !ok {
			continue
		}
		switch name {
		case "info", "abbrev", "str", "addr", "line_str", "str_offsets", "rnglists":
			b, err := i.unpacked(s)
			if err != nil {
				return nil, fmt.Errorf("read %s: %w", s.Name, err)
			}
			sections[name] = b
		}
	}
	if len(sections["info"]) == 0 || len(sections["abbrev"]) == 0 {
		return nil, errNoDWARF
	}
	d, err := dwarf.New(sections["abbrev"], nil, nil, sections["info"], nil, nil, nil, sections["str"])
	if err != nil {
		return nil, fmt.Errorf("read debugging information: %w", err)
	}
	for _, name := range []string{"addr", "line_str", "str_offsets", "rnglists"} {
		if b := sections[name]; len(b) > 0 {
			if err := d.AddSection(".debug_"+name, b); err != nil {
				return nil, fmt.Errorf("read debugging information: %w", err)
			}
		}
	}
	return &debugInfo{d, sections["info"], map[string]*dwarf.Entry{}}, nil
}

// hasDWARF tells without reading it.
func hasDWARF(e *elf.File) bool {
	s := e.Section(".debug_info")
	return s != nil && s.Type == elf.SHT_PROGBITS && s.FileSize > 0
}

// locate is the offset of a field at the first of its places. It may be known to be
// absent: that a struct is not there says so too, for all types of a program are.
func (d *debugInfo) locate(f field.Field) (offset uint16, known bool) {
	for _, at := range f.Locations() {
		offset, here := d.find(at)
		known = known || here
		if offset != field.Unknown {
			return offset, true
		}
	}
	return field.Unknown, known || d.whole()
}

// whole says whether it is of all the program, the runtime included.
func (d *debugInfo) whole() bool { return d.structure("runtime.g") != nil }

// find is the offset of a field. Known is true as well where the struct is there
// and has no such field; then the offset is field.Unknown.
func (d *debugInfo) find(at field.Location) (offset uint16, known bool) {
	e := d.structure(at.Package + "." + at.Struct)
	if e == nil {
		return field.Unknown, false
	}
	total := int64(0)
	parts := strings.Split(at.Path, ".")
	for n, part := range parts {
		m := d.member(e, part)
		if m == nil {
			return field.Unknown, true
		}
		loc, ok := m.Val(dwarf.AttrDataMemberLoc).(int64)
		if !ok || loc < 0 || loc >= field.Unknown {
			return field.Unknown, true
		}
		total += loc
		typ := d.typeOf(m)
		if n < len(parts)-1 {
			if typ == nil || typ.Tag != dwarf.TagStructType {
				return field.Unknown, true
			}
			e = typ
		} else if at.Pointer && (typ == nil || typ.Tag != dwarf.TagPointerType) {
			return field.Unknown, true
		}
	}
	if total >= field.Unknown {
		return field.Unknown, true
	}
	return uint16(total), true
}

// structure is the entry of a struct by its full name.
func (d *debugInfo) structure(name string) *dwarf.Entry {
	if e, ok := d.structs[name]; ok {
		return e
	}
	e := d.search(name)
	d.structs[name] = e
	return e
}

func (d *debugInfo) search(name string) *dwarf.Entry {
	want := append([]byte(name), 0)
	for at := 0; ; at++ {
		next := bytes.Index(d.info[at:], want)
		if next < 0 {
			return nil
		}
		at += next
		// The code of the abbreviation comes before; a name with a prefix may be that
		// of a pointer, or of a package in a vendor folder.
		start := at
		if bytes.HasSuffix(d.info[:at], []byte(vendored)) {
			for start > 0 && at-start < 256 && d.info[start-1] > ' ' {
				start--
			}
		}
		for ; start <= at; start++ {
			if bytes.ContainsAny(d.info[start:at], "[]*") {
				continue // a slice is a struct too
			}
			if e := d.structAt(start-1, string(d.info[start:at+len(name)])); e != nil {
				return e
			}
		}
	}
}

// structAt is the entry at an offset if it is a struct of that name with members.
func (d *debugInfo) structAt(offset int, name string) *dwarf.Entry {
	if offset < 0 {
		return nil
	}
	r := d.data.Reader()
	r.Seek(dwarf.Offset(offset))
	e, err := r.Next()
	if err != nil || e == nil || e.Tag != dwarf.TagStructType || !e.Children {
		return nil
	}
	if got, _ := e.Val(dwarf.AttrName).(string); got != name {
		return nil
	}
	if m, err := r.Next(); err != nil || m == nil || m.Tag != dwarf.TagMember {
		return nil
	}
	return e
}

func (d *debugInfo) member(e *dwarf.Entry, name string) *dwarf.Entry {
	r := d.data.Reader()
	r.Seek(e.Offset)
	if _, err := r.Next(); err != nil {
		return nil
	}
	for {
		m, err := r.Next()
		if err != nil || m == nil || m.Tag == 0 {
			return nil
		}
		if got, _ := m.Val(dwarf.AttrName).(string); got == name {
			return m
		}
		if m.Children {
			r.SkipChildren()
		}
	}
}

// typeOf is the entry of a member's type, behind typedefs.
func (d *debugInfo) typeOf(m *dwarf.Entry) *dwarf.Entry {
	for range 8 {
		at, ok := m.Val(dwarf.AttrType).(dwarf.Offset)
		if !ok {
			return nil
		}
		r := d.data.Reader()
		r.Seek(at)
		e, err := r.Next()
		if err != nil || e == nil {
			return nil
		}
		if e.Tag != dwarf.TagTypedef {
			return e
		}
		m = e
	}
	return nil
}
