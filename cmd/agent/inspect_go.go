package main

import (
	"errors"
	"slices"
	"strings"

	"weft/loader/gobin"
)

// goView is what the analysis of a Go executable tells.
type goView struct {
	Version    string       `json:"version"` // "" unknown
	Stripped   bool         `json:"stripped"`
	PIE        bool         `json:"pie"`
	Cgo        bool         `json:"cgo"`
	Race       bool         `json:"race"`
	Offsets    string       `json:"offsets"`    // dwarf, table, nearest, unknown
	Uncovered  []string     `json:"uncovered"`  // what of that is not in the table: Go, modules
	Goroutines bool         `json:"goroutines"` // the current one can be told
	Writes     []string     `json:"writes"`     // protocols whose headers may be written in memory
	Sites      []siteView   `json:"sites"`
	Absent     []absentView `json:"absent"`
	Problems   []string     `json:"problems"`
}

type siteView struct {
	Site        string `json:"site"`
	Function    string `json:"function"`
	Address     uint64 `json:"address"` // virtual, before the load bias
	Offset      uint64 `json:"offset"`  // in the file
	Instruction string `json:"instruction"`
	Emulated    bool   `json:"emulated"`
	Guarded     bool   `json:"guarded"` // on the jump of the stack check
}

type absentView struct {
	Site string `json:"site"`
	Why  string `json:"why"`
}

// inspectGo is nil for a program that is none of Go's. What cannot be read of one that
// says it is, by its build information, is a problem.
func inspectGo(path string, says bool) *goView {
	b, err := gobin.Analyze(path)
	if err != nil {
		var not *gobin.NotGoError
		if !says || errors.As(err, &not) {
			return nil
		}
		b = &gobin.Binary{Source: gobin.SourceUnknown, Problems: []string{oneLine(err)}}
	}
	v := &goView{
		Version: b.GoVersion, Stripped: b.Stripped, PIE: b.PIE, Cgo: b.Cgo, Race: b.Race,
		Offsets: string(b.Source), Uncovered: notNil(b.Uncovered), Goroutines: b.Layout.Flags&gobin.FlagGoroutines != 0,
		Writes: []string{}, Sites: []siteView{}, Absent: []absentView{}, Problems: notNil(slices.Concat(b.Problems, b.Degraded)),
	}
	for _, w := range []struct {
		flag uint32
		name string
	}{
		{gobin.FlagWrites, "HTTP/1"}, {gobin.FlagWritesH2, "HTTP/2"},
		{gobin.FlagWritesXNet, "HTTP/2 of golang.org/x/net"}, {gobin.FlagWritesGRPC, "gRPC"},
	} {
		if b.Layout.Flags&w.flag != 0 {
			v.Writes = append(v.Writes, w.name)
		}
	}
	for _, p := range b.Probes {
		v.Sites = append(v.Sites, siteView{p.Site.String(), p.Function, p.Address, p.Offset, p.Instruction, p.Emulated, p.Guarded})
	}
	for _, a := range b.Absent {
		v.Absent = append(v.Absent, absentView{a.Site.String(), a.Why})
	}
	return v
}

// stepped is how many of its sites the kernel does not emulate.
func (v *goView) stepped() int {
	n := 0
	for _, s := range v.Sites {
		if !s.Emulated {
			n++
		}
	}
	return n
}

func (v *goView) rows(t *table) {
	if v == nil {
		return
	}
	var how []string
	for _, h := range []struct {
		is   bool
		name string
	}{{v.Stripped, "stripped"}, {v.PIE, "PIE"}, {v.Cgo, "cgo"}, {v.Race, "race detector"}} {
		if h.is {
			how = append(how, h.name)
		}
	}
	version := v.Version
	if version == "" {
		version = "unknown version"
	}
	t.row("Go", "%s", strings.Join(append([]string{version}, how...), ", "))
	offsets := map[gobin.Source]string{
		gobin.SourceDWARF:   "from its debugging information",
		gobin.SourceTable:   "from the table, of exactly these versions",
		gobin.SourceNearest: "some from the table of other versions: what they belong to is observed and never written",
		gobin.SourceUnknown: "unknown: weft sees its sockets only",
	}[gobin.Source(v.Offsets)]
	if len(v.Uncovered) > 0 && gobin.Source(v.Offsets) == gobin.SourceTable {
		offsets = "from the table, of exactly these versions; it has none of " + strings.Join(v.Uncovered, ", ")
	}
	t.row("offsets", "%s", offsets)
	goroutines := "can be told apart"
	if !v.Goroutines {
		goroutines = "cannot be told apart: parents are found by thread"
	}
	t.row("goroutines", "%s", goroutines)
	writes := "nothing"
	if len(v.Writes) > 0 {
		writes = strings.Join(v.Writes, ", ") + ", where the kernel lets it"
	}
	t.row("may write", "%s", writes)
	name := "probe sites"
	for _, s := range v.Sites {
		how := "single-stepped"
		if s.Emulated {
			how = "emulated"
		}
		t.row(name, "%-22s %#x  %-16s  %s  %s", s.Site, s.Address, s.Instruction, how, s.Function)
		name = ""
	}
	if n := v.stepped(); n > 0 {
		t.row("", "%d of %d are single-stepped: each costs several times as much", n, len(v.Sites))
	}
	if len(v.Sites) == 0 {
		t.row(name, "none")
	}
	var reasons []string
	sites := map[string][]string{}
	for _, a := range v.Absent {
		if !slices.Contains(reasons, a.Why) {
			reasons = append(reasons, a.Why)
		}
		sites[a.Why] = append(sites[a.Why], a.Site)
	}
	name = "not there"
	for _, why := range reasons {
		t.row(name, "%s: %s", strings.Join(sites[why], " "), why)
		name = ""
	}
	for _, p := range v.Problems {
		t.row("problem", "%s", p)
	}
}
