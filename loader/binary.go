package loader

import (
	"bufio"
	"debug/buildinfo"
	"debug/elf"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"regexp"
	"strings"
)

// Runtime is the language a program runs in, as far as there is evidence.
type Runtime struct {
	Language string // "go", "python", …; "" if nothing tells
	Version  string // of the toolchain or interpreter, if it tells
	Module   string // main module and version of a Go program
	Evidence string // where that was read
}

// Binary is what an ELF file tells.
type Binary struct {
	Path        string
	Kind        string // "executable" or "shared library"
	Machine     string // as in ELF: "x86_64", "aarch64"
	Linking     string // "static" or "dynamic"
	Interpreter string // dynamic loader, "" if none
	Libraries   []string
	OpenSSL     string // how OpenSSL is part of it, "" if it is not seen
	Runtime     Runtime
}

// BinaryError says in one line why a file cannot be inspected.
type BinaryError struct{ Path, Why string }

func (e *BinaryError) Error() string { return e.Path + ": " + e.Why }

// InspectFile reads an ELF file without running it. The error is a *BinaryError.
func InspectFile(path string) (*Binary, error) {
	info, err := os.Stat(path)
	if err == nil && !info.Mode().IsRegular() {
		return nil, &BinaryError{path, "is not a regular file; name an executable or a library"}
	}
	var f *os.File
	if err == nil {
		f, err = os.Open(path)
	}
	switch {
	case errors.Is(err, os.ErrNotExist):
		return nil, &BinaryError{path, "no such file; a PID is digits only"}
	case errors.Is(err, os.ErrPermission):
		return nil, &BinaryError{path, "may not be read: run as root"}
	case err != nil:
		return nil, &BinaryError{path, err.Error()}
	}
	defer f.Close() //nolint:errcheck // read only
	e, err := elf.NewFile(&bounded{f, maxTables})
	if err != nil {
		return nil, &BinaryError{path, notELF(f)}
	}
	if compressed(e) {
		return nil, &BinaryError{path, "its tables are compressed, as no linker writes them"}
	}
	b := &Binary{Path: path, Kind: "executable", Linking: "static", Machine: machine(e.Machine)}
	if b.Libraries, err = e.ImportedLibraries(); err != nil {
		return nil, &BinaryError{path, "its dynamic section is damaged: " + err.Error()}
	}
	for _, p := range e.Progs {
		if p.Type == elf.PT_INTERP {
			name := make([]byte, min(p.Filesz, 4096))
			if n, err := p.ReadAt(name, 0); err == nil || errors.Is(err, io.EOF) {
				b.Interpreter = strings.TrimRight(string(name[:n]), "\x00")
			}
		}
	}
	if b.Interpreter != "" || len(b.Libraries) > 0 {
		b.Linking = "dynamic"
	}
	if e.Type == elf.ET_DYN && b.Interpreter == "" && !isPIE(e) {
		b.Kind = "shared library"
	}
	b.OpenSSL = openSSL(e, b.Libraries)
	name := path
	if target, err := filepath.EvalSymlinks(path); err == nil { // python3 → python3.11
		name = target
	}
	b.Runtime = runtimeOf(path, name, b.Libraries)
	return b, nil
}

func notELF(f *os.File) string {
	line, err := bufio.NewReader(io.NewSectionReader(f, 0, 256)).ReadString('\n')
	if interpreter, ok := strings.CutPrefix(line, "#!"); ok && (err == nil || errors.Is(err, io.EOF)) {
		return "is not an ELF file but a script for " + strings.TrimSpace(interpreter) + "; inspect that, or the PID of the running script"
	}
	return "is not an ELF file"
}

// isPIE tells a static position-independent program from a library: both are
// ET_DYN without an interpreter.
func isPIE(e *elf.File) bool {
	const pie = 0x08000000 // DF_1_PIE
	flags, err := e.DynValue(elf.DT_FLAGS_1)
	return err == nil && len(flags) > 0 && flags[0]&pie != 0
}

func machine(m elf.Machine) string {
	return strings.ToLower(strings.TrimPrefix(m.String(), "EM_"))
}

// openSSL looks for the library, or for its functions in the file itself, as in
// node.
func openSSL(e *elf.File, libraries []string) string {
	for _, l := range libraries {
		if strings.HasPrefix(l, "libssl.so") {
			return "links " + l
		}
	}
	dynamic, _ := e.DynamicSymbols() // none is the same as unreadable here
	static, _ := e.Symbols()
	for _, s := range append(dynamic, static...) {
		if s.Name == "SSL_write" && s.Section != elf.SHN_UNDEF {
			return "contains SSL_write"
		}
	}
	return ""
}

// interpreters tells languages by the name of an executable or of a library that
// holds the interpreter; the group is the version.
var interpreters = []struct {
	language string
	name     *regexp.Regexp
}{
	{"python", regexp.MustCompile(`^(?:lib)?python([23](?:\.[0-9]+)?)?(?:\.so.*)?$`)},
	{"javascript", regexp.MustCompile(`^(?:node|nodejs|bun|deno|libnode\.so\.([0-9]+))$`)},
	{"java", regexp.MustCompile(`^(?:java|libjvm\.so)$`)},
	{"ruby", regexp.MustCompile(`^(?:ruby|libruby)(?:-?([0-9]\.[0-9]+))?(?:\.so.*)?$`)},
	{"php", regexp.MustCompile(`^(?:php|php-fpm|php-cgi|libphp)([0-9]\.[0-9]+)?(?:\.so)?$`)},
	{"perl", regexp.MustCompile(`^(?:perl|libperl\.so\.)([0-9]\.[0-9.]+)?$`)},
	{"dotnet", regexp.MustCompile(`^(?:dotnet|libcoreclr\.so)$`)},
	{"erlang", regexp.MustCompile(`^beam(?:\.smp)?$`)},
}

// runtimeOf reads a Go build, else goes by names: of the executable, then of the
// libraries it has. Where nothing tells, nothing is said.
func runtimeOf(open, exe string, libraries []string) Runtime {
	if info, err := readBuild(open); err == nil {
		r := Runtime{Language: "go", Version: info.GoVersion, Evidence: "Go build information", Module: info.Main.Path}
		if r.Module == "" {
			r.Module = info.Path
		} else if info.Main.Version != "" {
			r.Module += " " + info.Main.Version
		}
		return r
	}
	for i, path := range append([]string{exe}, libraries...) {
		base := filepath.Base(path)
		for _, known := range interpreters {
			m := known.name.FindStringSubmatch(base)
			if m == nil {
				continue
			}
			r := Runtime{Language: known.language, Evidence: "library " + base}
			if i == 0 {
				r.Evidence = "name of the executable"
			}
			if len(m) > 1 {
				r.Version = m[1]
			}
			return r
		}
	}
	return Runtime{}
}

// readBuild is buildinfo.ReadFile for a file that somebody else wrote.
func readBuild(path string) (*buildinfo.BuildInfo, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	defer f.Close() //nolint:errcheck // read only
	return buildinfo.Read(&bounded{f, maxTables})
}

// String is "go go1.26.0 (weft v1.2)".
func (r Runtime) String() string {
	if r.Language == "" {
		return "not told by the file"
	}
	s := r.Language
	if r.Version != "" {
		s += " " + strings.TrimPrefix(r.Version, r.Language)
	}
	if r.Module != "" {
		s += ", module " + r.Module
	}
	return fmt.Sprintf("%s (%s)", s, r.Evidence)
}
