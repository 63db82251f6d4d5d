package gobin

import (
	"debug/buildinfo"
	"debug/elf"
	"errors"
	"fmt"
	"go/version"
	"io"
	"os"
	"slices"
	"strings"

	"weft/loader/gobin/field"
	"weft/loader/gobin/offsets"
)

// NotGoError says that a file is an executable, and of another language.
type NotGoError struct{ Path, Why string }

func (e *NotGoError) Error() string { return e.Path + ": not a Go program: " + e.Why }

// Analyze reads an executable. The error is a *NotGoError if it is none of Go's.
func Analyze(path string) (*Binary, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, fmt.Errorf("open: %w", err)
	}
	defer f.Close() //nolint:errcheck // read only
	return AnalyzeFile(f, path)
}

// AnalyzeFile is Analyze of an open file, which keeps a name that is replaced at
// the same time from mattering. The path is only told.
func AnalyzeFile(f *os.File, path string) (*Binary, error) {
	return analyze(f, f, path)
}

// analyze is AnalyzeFile; r is what f has, and all that is read goes through it.
func analyze(f *os.File, r io.ReaderAt, path string) (*Binary, error) {
	i, err := openImage(f, r)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", path, err)
	}
	b := &Binary{
		Path: path, Machine: strings.ToLower(strings.TrimPrefix(i.elf.Machine.String(), "EM_")),
		PIE: isPIE(i.elf), DWARF: hasDWARF(i.elf), Modules: map[string]string{}, Source: SourceUnknown,
	}
	for n := range b.Layout.Offset {
		b.Layout.Offset[n] = field.Unknown
	}
	i.readBuildInfo(b)
	if err := i.readFunctions(b); err != nil {
		if !b.BuildInfo {
			return nil, &NotGoError{path, err.Error()}
		}
		b.problem("no probe sites: %v", err)
	}
	b.Cgo = len(i.functions[funcCgo]) > 0
	b.Race = len(i.functions[funcRace]) > 0
	missing := i.readSites(b)
	i.readLayout(b)
	b.degrade(missing)
	b.onlyAtSites()
	return b, nil
}

func (b *Binary) problem(format string, args ...any) {
	b.Problems = append(b.Problems, strings.ReplaceAll(fmt.Sprintf(format, args...), "\n", " "))
}

func (i *image) readBuildInfo(b *Binary) {
	info, err := buildinfo.Read(&bounded{i.file, maxTable})
	if err != nil {
		return
	}
	b.BuildInfo, b.GoVersion = true, info.GoVersion
	for _, m := range info.Deps {
		version := m.Version
		if r := m.Replace; r != nil {
			version = ""
			if r.Path == m.Path {
				version = r.Version
			}
		}
		b.Modules[m.Path] = version
	}
	i.usual = true
	for _, s := range info.Settings {
		i.usual = i.usual && s.Key != "-pgo" && s.Key != "-gcflags"
	}
	for _, m := range info.Deps {
		i.usual = i.usual && m.Replace == nil
	}
	if _, source := fromTable(field.GGoid, offsets.Versions{Go: b.GoVersion}); source != SourceTable {
		i.usual = false
	}
	// The main module may itself be one of those: grpc's own examples.
	if info.Main.Path != "" {
		b.Modules[info.Main.Path] = info.Main.Version
	}
}

// readFunctions finds the functions by the symbol table, else by the runtime's.
func (i *image) readFunctions(b *Binary) error {
	if !b.BuildInfo && len(i.elf.Sections) > 0 && pclntabSection(i.elf) == nil {
		return errNoPclntab // before reading the symbols of what is written in C
	}
	wanted := wantedNames()
	symbols, err := i.readSymbols(wanted)
	if err != nil {
		b.problem("the symbol table is not read: %v", err)
	}
	b.Stripped = !symbols
	known := len(i.functions[funcGogo]) > 0
	if known && b.BuildInfo {
		return nil
	}
	t, err := i.findPclntab()
	if err != nil {
		if known {
			return nil
		}
		return err
	}
	if !b.BuildInfo {
		b.GoVersion = t.goVersion()
		b.problem("no build information: the version is told by the format of its table of functions only, those of modules not at all")
	}
	if known {
		return nil
	}
	if err := i.readPclntab(t, wanted); err != nil {
		return err
	}
	if len(i.functions[funcGogo]) == 0 {
		return errors.New("its table of functions does not name the runtime's: obfuscated")
	}
	return nil
}

// readSites finds the probes, and says what is wrong with sites that are not there.
func (i *image) readSites(b *Binary) map[Site]error {
	missing := map[Site]error{}
	if len(i.functions) > 0 && !i.wellPlaced() {
		b.problem("no probe sites: where its functions begin is not what the table of functions says")
		i.functions = nil
	}
	if !i.usual {
		i.readInlined(b)
	}
	for _, t := range targets() {
		if t.site == SiteGRPCWrote && ownBuffer(b.Modules[pkgGRPC]) {
			b.Absent = append(b.Absent, Absent{t.site, "not needed: its connections keep their write buffers"})
			continue
		}
		if t.site == SiteGRPCOriginate {
			names, why := originates(i.functions, b.Modules[pkgGRPC])
			if why != "" {
				b.Absent = append(b.Absent, Absent{t.site, why})
				missing[t.site] = errors.New(why)
				continue
			}
			if names != nil {
				t.functions = names
			}
		}
		probes, guarded, err := i.choose(t)
		if err != nil {
			why := err.Error()
			if !i.hasPackage(t.pkg) {
				why = t.pkg + " is not in the program"
			}
			b.Absent = append(b.Absent, Absent{t.site, why})
			missing[t.site] = err
			continue
		}
		if guarded {
			b.Layout.Guarded |= 1 << t.site
		}
		b.Probes = append(b.Probes, probes...)
	}
	return missing
}

// readLayout collects the offsets and addresses.
func (i *image) readLayout(b *Binary) {
	versions := offsets.Versions{Go: b.GoVersion, Modules: b.Modules}
	if !b.BuildInfo {
		versions.Go = ""
	}
	sources := map[field.Field]Source{}
	covered := map[uint32]bool{} // groups of whose version the table has something
	ask := false                 // the file's own debugging information: it takes long to unpack
	for _, f := range field.All() {
		b.Layout.Offset[f], sources[f] = fromTable(f, versions)
		if b.Layout.Offset[f] != field.Unknown && f != field.HpackName && f != field.HpackValue { // of two modules
			covered[groupOf(f)] = true
		}
		switch sources[f] {
		case SourceUnknown:
			ask = ask || i.uses(f)
		case SourceNearest:
			ask = ask || i.uses(f) && (groupOf(f) != 0 || f >= field.RouterFirst)
		}
	}
	if ask && b.DWARF {
		debug, err := i.debugInfo()
		if err != nil {
			b.problem("offsets are not read from the file: %v", err)
		}
		for f, source := range sources {
			if debug == nil || source == SourceTable {
				continue
			}
			if offset, known := debug.locate(f); known {
				b.Layout.Offset[f], sources[f] = offset, SourceDWARF
			}
		}
	}
	from := map[Source]int{}
	guessed := map[uint32]bool{} // groups of fields that are not known for sure, by the flag
	for f, source := range sources {
		group := groupOf(f)
		if group == 0 || !i.uses(f) {
			continue
		}
		if b.Layout.Offset[f] != field.Unknown {
			from[source]++
		}
		if source == SourceNearest || source == SourceUnknown {
			guessed[group] = true
		}
	}
	b.arguments()
	b.routers(sources)
	for _, source := range []Source{SourceDWARF, SourceTable, SourceNearest} {
		if from[source] > 0 {
			b.Source = source // the least certain
		}
	}
	b.Layout.Goidgen, b.Layout.Allp, b.Layout.Allgs = i.goidgen(), i.allp(), i.allgs()
	b.Layout.Image, b.Layout.Size = i.extent()
	if i.elf.Machine == elf.EM_AARCH64 && !b.Cgo {
		b.Layout.Flags |= FlagRegister | FlagGoroutines
	} else if offset, ok := i.threadG(); ok {
		b.Layout.TLSG = offset
		b.Layout.Flags |= FlagGoroutines
	} else {
		b.problem("where the runtime keeps the current goroutine is not known: exec keys are threads")
	}
	if b.Layout.Offset[field.GGoid] == field.Unknown {
		b.Layout.Flags &^= FlagGoroutines | FlagRegister
	}
	if name, _, _ := strings.Cut(strings.TrimPrefix(b.GoVersion, "devel "), " "); b.BuildInfo && version.Lang(name) == "go1.20" {
		b.Layout.Flags |= FlagTimerPointer
	}
	// What is newer than the table may work in another way, wherever its fields are.
	for _, g := range []struct {
		flag            uint32
		module, version string
	}{
		{FlagWrites, "Go", b.GoVersion}, {FlagWritesH2, "Go", b.GoVersion},
		{FlagWritesXNet, modXNet, b.Modules[modXNet]}, {FlagWritesGRPC, pkgGRPC, b.Modules[pkgGRPC]},
	} {
		if covered[g.flag] || !i.usesGroup(g.flag) {
			continue
		}
		if g.flag != FlagWritesH2 {
			b.Uncovered = append(b.Uncovered, g.module)
		}
		if g.version != "" {
			guessed[g.flag] = true
			if g.flag != FlagWritesH2 {
				b.problem("%s %s is not in weft's table: it is observed, and its memory never written", g.module, g.version)
			}
		}
	}
	if b.Layout.Offset[field.GGoid] == field.Unknown {
		b.Source = SourceUnknown // whatever is known of modules
	}
	// Each tier writes on its own fields and on those below it.
	if guessed[FlagWrites] || b.Source == SourceUnknown {
		return
	}
	b.Layout.Flags |= FlagWrites
	if i.hasPackage(pkgHTTP) && !guessed[FlagWritesH2] {
		b.Layout.Flags |= FlagWritesH2
	}
	if i.hasPackage(pkgXNet) && !guessed[FlagWritesXNet] {
		b.Layout.Flags |= FlagWritesXNet
	}
	if i.hasPackage(pkgGRPC) && !guessed[FlagWritesGRPC] && b.Layout.Flags&FlagWritesXNet != 0 {
		b.Layout.Flags |= FlagWritesGRPC
		if slices.ContainsFunc(b.Probes, func(p Probe) bool { return p.Site == SiteGRPCWrote }) {
			b.Layout.Flags |= FlagWrote
		}
	}
}

// fromTable is the offset of a field, which may be known to be absent.
func fromTable(f field.Field, versions offsets.Versions) (uint16, Source) {
	source := SourceUnknown
	for _, at := range f.Locations() {
		r := offsets.Lookup(at, versions)
		switch {
		case r.Present && r.Exact:
			return r.Offset, SourceTable
		case r.Present:
			return r.Offset, SourceNearest
		case r.Exact:
			source = SourceTable
		}
	}
	return field.Unknown, source
}

// groupOf is the tier that writes by a field, as its flag; 0 for what is only read
// where memory is not written.
func groupOf(f field.Field) uint32 {
	switch {
	case f == field.GRPCStatusS, f == field.GRPCStatusCode, f >= field.RouterFirst:
		return 0
	case f < field.H2First, f >= field.MapDirPtr:
		return FlagWrites
	case f < field.H2First.In(field.XNet):
		return FlagWritesH2
	case f < field.GRPCFirst && f < field.HpackName:
		return FlagWritesXNet
	case f < field.GRPCFirst:
		return FlagWrites
	}
	return FlagWritesGRPC
}

// uses says whether what a field belongs to is in the program. HTTP/1 and the
// runtime count as one: a program has what it uses of them.
func (i *image) uses(f field.Field) bool {
	if group := groupOf(f); group != 0 {
		return i.usesGroup(group)
	}
	for _, r := range routers() {
		if slices.Contains(r.fields, f) {
			return i.hasPackage(r.pkg)
		}
	}
	return i.hasPackage(pkgGRPC)
}

func (i *image) usesGroup(flag uint32) bool {
	switch flag {
	case FlagWritesXNet:
		return i.hasPackage(pkgXNet)
	case FlagWrites, FlagWritesH2:
		return true
	}
	return i.hasPackage(pkgGRPC)
}
