package main

import (
	"debug/dwarf"
	"debug/elf"
	"errors"
	"fmt"
	"io"
	"strings"

	"weft/loader/gobin/field"
)

// A member is a field of a struct: where, and whether it is a pointer.
type member struct {
	Offset  int64
	Pointer bool
}

// fields are the members of structs by "package.Struct.field", through structs held
// by value also "package.Struct.field.field". All of a package are kept, so that a
// new entry in the list of fields asks for no new build.
type fields map[string]member

// nesting is how many fields a path may have.
const nesting = 3

// lookup finds what the list of fields names.
func (f fields) lookup(at field.Location) (offset int64, present bool) {
	m, ok := f[at.Package+"."+at.Struct+"."+at.Path]
	if !ok || at.Pointer && !m.Pointer {
		return 0, false
	}
	return m.Offset, true
}

// readFields reads the structs of these packages from the DWARF of an executable.
func readFields(exe string, packages []string) (fields, error) {
	file, err := elf.Open(exe)
	if err != nil {
		return nil, err
	}
	defer func() { _ = file.Close() }()
	d, err := file.DWARF()
	if err != nil {
		return nil, err
	}
	wanted := map[string]bool{}
	for _, p := range packages {
		wanted[p] = true
	}
	all := fields{}
	for r := d.Reader(); ; {
		e, err := r.Next()
		if err != nil {
			return nil, err
		}
		if e == nil {
			break
		}
		switch e.Tag {
		case dwarf.TagCompileUnit:
			continue // its types are its children
		case dwarf.TagStructType:
			name, _ := e.Val(dwarf.AttrName).(string)
			pkg, ok := packageOf(name)
			if !ok || !wanted[pkg] {
				break
			}
			t, err := d.Type(e.Offset)
			if err != nil {
				return nil, fmt.Errorf("type %s: %w", name, err)
			}
			s, ok := t.(*dwarf.StructType)
			if !ok {
				return nil, fmt.Errorf("type %s is a %T", name, t)
			}
			if err := all.add(name, s, 0, nesting); err != nil {
				return nil, err
			}
		}
		r.SkipChildren()
	}
	if len(all) == 0 {
		return nil, errors.New("none of the structs is in its DWARF")
	}
	return all, nil
}

// packageOf is the package of a type's name in DWARF: "net/http.Request". Types
// with arguments, and the compiler's own, are of none.
func packageOf(name string) (string, bool) {
	if strings.ContainsAny(name, "[]{}*<>( ") {
		return "", false
	}
	slash := strings.LastIndexByte(name, '/') + 1
	dot := strings.IndexByte(name[slash:], '.')
	if dot < 0 {
		return "", false
	}
	return name[:slash+dot], true
}

func (f fields) add(prefix string, s *dwarf.StructType, base int64, depth int) error {
	for _, m := range s.Field {
		if m.Name == "_" {
			continue
		}
		name, offset := prefix+"."+m.Name, base+m.ByteOffset
		t := m.Type
		for {
			d, ok := t.(*dwarf.TypedefType)
			if !ok {
				break
			}
			t = d.Type
		}
		_, pointer := t.(*dwarf.PtrType)
		if old, ok := f[name]; ok && old != (member{offset, pointer}) {
			return fmt.Errorf("%s is at %d and at %d", name, old.Offset, offset)
		}
		f[name] = member{offset, pointer}
		if inner, ok := t.(*dwarf.StructType); ok && depth > 1 {
			if err := f.add(name, inner, offset, depth-1); err != nil {
				return err
			}
		}
	}
	return nil
}

// dump and load are for the cache: a line for each member, in order.
func (f fields) dump(w io.Writer) error {
	for _, name := range sorted(f) {
		kind := "value"
		if f[name].Pointer {
			kind = "pointer"
		}
		if _, err := fmt.Fprintf(w, "%s %d %s\n", name, f[name].Offset, kind); err != nil {
			return err
		}
	}
	return nil
}
