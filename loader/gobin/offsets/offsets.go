// Package offsets knows where the fields that weft reads are in the structs of Go
// and of its modules, by version. The table is generated: see generate.
package offsets

import (
	_ "embed" // the table
	"fmt"
	"sort"
	"strconv"
	"strings"
	"sync"

	"weft/loader/gobin/field"
)

// Std is the module of the standard library in the table; its versions are Go's.
const Std = "std"

// vendored is where the standard library keeps its copies of golang.org/x.
const vendored = "vendor/"

// Versions are what a binary was built from.
type Versions struct {
	// Go is the version as the binary has it, such as "go1.26.1".
	Go string
	// Modules are versions by path. A module replaced by another path has the
	// version "": nothing is known of it.
	Modules map[string]string
}

// Result is what the table knows.
type Result struct {
	// Offset in bytes from the start of the struct; of no meaning unless Present.
	Offset uint16
	// Present: the field is there.
	Present bool
	// Exact: this is known of the very version. If not, Offset is that of the
	// nearest older version: a guess, good for observing, never for writing.
	Exact bool
}

// Lookup finds a field. A version is known if it lies between two that were
// measured and agree, or is a newer patch of a known minor version, and no patch
// has ever moved the field. A version that is not quite one of these is guessed;
// of a newer minor version than the table's nothing is said.
func Lookup(at field.Location, in Versions) Result {
	module, version, pkg := in.of(at.Package)
	at.Package = pkg
	return find(schemeOf(module), load()[key{module, at}], version)
}

// of is the module that a package belongs to, its version, and the package's name
// there.
func (v Versions) of(pkg string) (module, version, name string) {
	if first, _, _ := strings.Cut(pkg, "/"); !strings.Contains(first, ".") {
		return Std, v.Go, pkg
	}
	for path, ver := range v.Modules {
		if len(path) > len(module) && (pkg == path || strings.HasPrefix(pkg, path+"/")) {
			module, version = path, ver
		}
	}
	if module == "" && strings.HasPrefix(pkg, "golang.org/x/") {
		return Std, v.Go, vendored + pkg
	}
	return module, version, pkg
}

// A span of versions, both ends included, in which a field is at the same place.
type span struct {
	first, last string
	offset      uint16
	present     bool
}

type key struct {
	module string
	at     field.Location
}

// table is by module and field, the spans in order of version.
type table map[key][]span

//go:embed table.tsv
var tsv string

var load = sync.OnceValue(func() table {
	t, err := parse(tsv)
	if err != nil {
		panic(fmt.Sprintf("offsets: %v", err)) // it is part of the program, and tested
	}
	return t
})

// parse reads the table: lines of module, package, struct, field (with an asterisk
// if only a pointer counts), first version, last version, offset or "-" for none.
func parse(tsv string) (table, error) {
	t := table{}
	n := 0
	for line := range strings.Lines(tsv) {
		n++
		line = strings.TrimSuffix(line, "\n")
		if line == "" || strings.HasPrefix(line, "#") {
			continue
		}
		c := strings.Split(line, "\t")
		if len(c) != 7 {
			return nil, fmt.Errorf("line %d: %d columns, want 7", n, len(c))
		}
		path, pointer := strings.CutPrefix(c[3], "*")
		k := key{c[0], field.Location{Package: c[1], Struct: c[2], Path: path, Pointer: pointer}}
		s := span{first: c[4], last: c[5]}
		if c[6] != "-" {
			offset, err := strconv.ParseUint(c[6], 10, 16)
			if err != nil || offset == field.Unknown {
				return nil, fmt.Errorf("line %d: offset %q", n, c[6])
			}
			s.offset, s.present = uint16(offset), true
		}
		sch := schemeOf(k.module)
		for _, v := range []string{s.first, s.last} {
			if got, plain := sch.parse(v); got != v || !plain {
				return nil, fmt.Errorf("line %d: version %q", n, v)
			}
		}
		spans := t[k]
		if sch.compare(s.first, s.last) > 0 || len(spans) > 0 && sch.compare(spans[len(spans)-1].last, s.first) >= 0 {
			return nil, fmt.Errorf("line %d: %s to %s is out of order", n, s.first, s.last)
		}
		t[k] = append(spans, s)
	}
	return t, nil
}

// find answers from the spans of a field.
func find(sch scheme, spans []span, version string) Result {
	v, plain := sch.parse(version)
	// The first span that begins after it.
	next := sort.Search(len(spans), func(i int) bool { return sch.compare(spans[i].first, v) > 0 })
	// Nothing is known of what is older than the table.
	if v == "" || next == 0 {
		return Result{}
	}
	s := spans[next-1]
	// Nor of a newer minor version, not even a guess: Go 1.23 moved goid, and where it
	// had been now lies what is the same in every goroutine.
	if next == len(spans) && sch.compare(v, s.last) > 0 && sch.minor(v) != sch.minor(s.last) {
		return Result{}
	}
	known := sch.compare(v, s.last) <= 0
	if !known && (next == len(spans) || sch.minor(spans[next].first) != sch.minor(v)) {
		known = sch.minor(v) == sch.minor(s.last) && !sch.pre(v) && sch.steady(spans)
	}
	return Result{Offset: s.offset, Present: s.present, Exact: known && plain}
}

// steady tells whether no patch release has ever moved the field. (Patch releases
// do: Go 1.26.9 moved fields of HTTP/2.)
func (sch scheme) steady(spans []span) bool {
	for i := 1; i < len(spans); i++ {
		before, after := spans[i-1].last, spans[i].first
		if sch.minor(before) == sch.minor(after) && !sch.pre(before) && !sch.pre(after) {
			return false
		}
	}
	return true
}
