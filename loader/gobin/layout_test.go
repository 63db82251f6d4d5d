package gobin

import (
	"bufio"
	"bytes"
	"net"
	"net/http"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"reflect"
	"runtime"
	"strconv"
	"strings"
	"testing"

	"golang.org/x/net/http2"
	"golang.org/x/net/http2/hpack"

	"weft/loader/gobin/field"
)

// TestOffsetsOfThisProgram: the compiler of this test says where its own fields are.
// Of the modules that it is made of, a test does not tell the versions: for these a
// program of the same module speaks.
func TestOffsetsOfThisProgram(t *testing.T) {
	exe, err := Analyze("/proc/self/exe")
	if err != nil {
		t.Fatal(err)
	}
	if exe.GoVersion != runtime.Version() {
		t.Errorf("version %q, want %q", exe.GoVersion, runtime.Version())
	}
	wire := analysed(t, build(t, "wire", nil))
	for f, of := range map[field.Field]struct {
		v    any
		path string
	}{
		field.RequestMethod:                      {http.Request{}, "Method"},
		field.RequestURL:                         {http.Request{}, "URL"},
		field.RequestHost:                        {http.Request{}, "Host"},
		field.RequestCtx:                         {http.Request{}, "ctx"},
		field.RequestPattern:                     {http.Request{}, "Pattern"},
		field.RequestProtoMajor:                  {http.Request{}, "ProtoMajor"},
		field.RequestHeader:                      {http.Request{}, "Header"},
		field.URLPath:                            {url.URL{}, "Path"},
		field.URLRawQuery:                        {url.URL{}, "RawQuery"},
		field.ReaderBuf:                          {bufio.Reader{}, "buf"},
		field.ReaderW:                            {bufio.Reader{}, "w"},
		field.WriterBuf:                          {bufio.Writer{}, "buf"},
		field.WriterN:                            {bufio.Writer{}, "n"},
		field.WriterWr:                           {bufio.Writer{}, "wr"},
		field.TCPConnFD:                          {net.TCPConn{}, "conn.fd"},
		field.ClientResponseStatus:               {http.Response{}, "StatusCode"},
		field.HpackName:                          {hpack.HeaderField{}, "Name"},
		field.HpackValue:                         {hpack.HeaderField{}, "Value"},
		field.H2ClientConnBw.In(field.XNet):      {http2.ClientConn{}, "bw"}, //nolint:staticcheck // programs use it
		field.H2FramerW.In(field.XNet):           {http2.Framer{}, "w"},
		field.H2FramerWbuf.In(field.XNet):        {http2.Framer{}, "wbuf"},
		field.H2ClientConnStreams.In(field.XNet): {http2.ClientConn{}, "streams"}, //nolint:staticcheck // programs have it
		field.H2HeadersStreamID.In(field.XNet):   {http2.HeadersFrame{}, "FrameHeader.StreamID"},
	} {
		want, typ := uintptr(0), reflect.TypeOf(of.v)
		for part := range strings.SplitSeq(of.path, ".") {
			m, ok := typ.FieldByName(part)
			if !ok {
				t.Fatalf("%v has no field %s", typ, part)
			}
			want, typ = want+m.Offset, m.Type
		}
		if got := wire.Layout.Offset[f]; uintptr(got) != want {
			t.Errorf("%v: %d, want %d", f, got, want)
		}
		if got := exe.Layout.Offset[f]; uintptr(got) != want && f < field.H2First.In(field.XNet) {
			t.Errorf("%v of the test: %d, want %d", f, got, want)
		}
	}
}

// TestTableAgrees: where the table knows a version, the debugging information of a
// program of that version says the same.
func TestTableAgrees(t *testing.T) {
	for name, env := range map[string][]string{"local": nil, "oldest": toolchain(oldest)} {
		t.Run(name, func(t *testing.T) {
			path := build(t, "http", env)
			b := analysed(t, path)
			if b.Source != SourceTable || b.Layout.Flags != FlagGoroutines|FlagWrites|FlagWritesH2 {
				t.Errorf("offsets from %s, flags %#x", b.Source, b.Layout.Flags)
			}
			debug := debugOf(t, path)
			checked := 0
			for _, f := range field.All() {
				offset, known := debug.locate(f)
				if !known {
					t.Errorf("%v is not known by the debugging information", f)
				}
				// A struct that the linker left out is in the table all the same.
				if offset == field.Unknown {
					continue
				}
				if checked++; b.Layout.Offset[f] != offset {
					t.Errorf("%v: table %d, debugging information %d", f, b.Layout.Offset[f], offset)
				}
			}
			if checked < 60 {
				t.Errorf("%d fields only were found", checked)
			}
		})
	}
}

// TestWithoutVersion: what no table knows is read from the file.
func TestWithoutVersion(t *testing.T) {
	path := build(t, "wire", nil)
	debug := debugOf(t, path)
	b := analysed(t, path)
	for _, f := range field.All() {
		if offset, _ := debug.locate(f); offset != field.Unknown && b.Layout.Offset[f] != offset {
			t.Errorf("%v: %d, debugging information %d", f, b.Layout.Offset[f], offset)
		}
	}
	if b.Layout.Flags != FlagGoroutines|FlagWrites|FlagWritesH2|FlagWritesXNet|FlagWritesGRPC|FlagWrote {
		t.Errorf("flags %#x, offsets from %s", b.Layout.Flags, b.Source)
	}
	if got := b.Layout.Offset[field.GRPCOriginateArg]; got != 1 {
		t.Errorf("clientHeaderHandler takes its headers in register %d", got)
	}
}

// TestNewerVersion: of a Go that the table does not have, a program with debugging
// information is observed, and never written.
func TestNewerVersion(t *testing.T) {
	data, err := os.ReadFile(build(t, "wire", nil))
	if err != nil {
		t.Fatal(err)
	}
	version := runtime.Version()
	if !bytes.HasPrefix([]byte(version), []byte("go1.26")) {
		t.Skipf("replaces go1.26 in a file, and this is %s: needs a toolchain of Go 1.26", version)
	}
	data = bytes.ReplaceAll(data, []byte(version), []byte("go1.97"+version[len("go1.26"):]))
	path := filepath.Join(t.TempDir(), "newer")
	if err := os.WriteFile(path, data, 0o700); err != nil {
		t.Fatal(err)
	}
	whole := analysed(t, path)
	if whole.Source != SourceDWARF && whole.Source != SourceTable || whole.Layout.Flags != FlagGoroutines || len(whole.Problems) != 1 {
		t.Errorf("%s: offsets from %s, flags %#x, problems %q", whole.GoVersion, whole.Source, whole.Layout.Flags, whole.Problems)
	}
	if bare := analysed(t, strip(t, path, true)); bare.Layout.Flags != 0 || len(bare.Probes) != len(whole.Probes) {
		t.Errorf("stripped: flags %#x, %d probes", bare.Layout.Flags, len(bare.Probes))
	}
}

func debugOf(t *testing.T, path string) *debugInfo {
	t.Helper()
	i := imageOf(t, path)
	debug, err := i.debugInfo()
	if err != nil {
		t.Fatal(err)
	}
	return debug
}

// TestThread: a program finds its g relative to the thread pointer, and the analysis
// says the same of its file.
func TestThread(t *testing.T) {
	if runtime.GOARCH != "amd64" {
		t.Skip("runs programs for amd64: needs such a machine")
	}
	cgo := "CGO_ENABLED=1"
	for _, c := range []struct {
		name     string
		env      []string
		flags    []string
		pie, cgo bool
	}{
		{name: "plain"},
		{name: "PIE", flags: []string{"-buildmode=pie"}, pie: true},
		{name: "cgo", env: []string{cgo}, cgo: true},
		{name: "cgo PIE", env: []string{cgo}, flags: []string{"-buildmode=pie"}, pie: true, cgo: true},
		{name: "static", env: []string{cgo}, flags: []string{"-ldflags=-linkmode=external -extldflags=-static"}, cgo: true},
		{name: "static PIE", env: []string{cgo}, flags: []string{"-buildmode=pie", "-ldflags=-linkmode=external -extldflags=-static-pie"}, pie: true, cgo: true},
		{name: "race", env: []string{cgo}, flags: []string{"-race"}, cgo: true},
		{name: "oldest", env: toolchain(oldest)},
	} {
		t.Run(c.name, func(t *testing.T) {
			path := build(t, "thread", c.env, c.flags...)
			said, err := exec.CommandContext(t.Context(), path).Output()
			if err != nil {
				t.Fatalf("run: %v", err)
			}
			want, err := strconv.Atoi(strings.TrimSpace(string(said)))
			if err != nil {
				t.Fatal(err)
			}
			for _, file := range []string{path, strip(t, path, true)} {
				b := analysed(t, file)
				if int(b.Layout.TLSG) != want || b.Layout.Flags&FlagGoroutines == 0 {
					t.Errorf("g is at %d, said to be at %d; flags %#x", want, b.Layout.TLSG, b.Layout.Flags)
				}
				if b.PIE != c.pie || b.Cgo != c.cgo || b.Race != (c.name == "race") {
					t.Errorf("PIE %v, cgo %v, race %v", b.PIE, b.Cgo, b.Race)
				}
				if len(b.Probes) > 0 || len(b.Absent) != len(targets()) || b.Absent[0].Why != "net/http is not in the program" {
					t.Errorf("a program without HTTP: %v %v", b.Probes, b.Absent)
				}
			}
		})
	}
}

// TestThreadARM64: load_g says it in every program, though only those with cgo use
// it. It was not run on such a machine.
func TestThreadARM64(t *testing.T) {
	path := build(t, "http", []string{"GOARCH=arm64"})
	i := imageOf(t, path)
	if _, err := i.readSymbols(wantedNames()); err != nil {
		t.Fatal(err)
	}
	if offset, ok := i.threadG(); !ok || offset != 16 { // behind the two words of the thread's own
		t.Errorf("g is at %d, %v", offset, ok)
	}
	if b := analysed(t, path); b.Layout.Flags&(FlagGoroutines|FlagRegister) != FlagGoroutines|FlagRegister || b.Layout.TLSG != 0 {
		t.Errorf("without cgo: flags %#x, g at %d", b.Layout.Flags, b.Layout.TLSG)
	}
}

// TestGoidgen: goidgen is the first field of the scheduler, whose address is told.
func TestGoidgen(t *testing.T) {
	for name, env := range map[string][]string{"local": nil, "oldest": toolchain(oldest), "arm64": {"GOARCH=arm64"}} {
		path := build(t, "http", env)
		at := field.Location{Package: "runtime", Struct: "schedt", Path: "goidgen"}
		if offset, _ := debugOf(t, path).find(at); offset != 0 {
			t.Errorf("%s: goidgen is at %d of schedt", name, offset)
		}
	}
}

// TestWritesAtSites: a program into which nothing can be written, because the site is
// not there, is left to its sockets, whatever is known of its fields.
func TestWritesAtSites(t *testing.T) {
	const writes = FlagWrites | FlagWritesH2 | FlagWritesXNet | FlagWritesGRPC | FlagWrote
	b := analysed(t, build(t, "thread", nil))
	if b.has(SiteWrite) || b.Layout.Flags&FlagGoroutines == 0 {
		t.Fatalf("sites %v, flags %#x", b.Probes, b.Layout.Flags)
	}
	if b.Layout.Flags&writes != 0 {
		t.Errorf("no HTTP at all: flags %#x", b.Layout.Flags)
	}
	for _, c := range []struct {
		sites []Site
		want  uint32
	}{
		{[]Site{SiteWrite}, FlagWrites},
		{[]Site{SiteH2Write}, FlagWritesH2},
		{[]Site{SiteH2Write.In(field.XNet)}, FlagWritesXNet},
		{[]Site{SiteGRPCWrite}, FlagWritesGRPC},
		{[]Site{SiteGRPCWrite, SiteGRPCWrote}, FlagWritesGRPC | FlagWrote},
		{[]Site{SiteWrite, SiteH2Write, SiteH2Write.In(field.XNet), SiteGRPCWrite, SiteGRPCWrote}, writes},
	} {
		b := Binary{Layout: Layout{Flags: writes | FlagGoroutines}}
		for _, s := range c.sites {
			b.Probes = append(b.Probes, Probe{Site: s})
		}
		if b.onlyAtSites(); b.Layout.Flags != c.want|FlagGoroutines {
			t.Errorf("%v: flags %#x, want %#x", c.sites, b.Layout.Flags, c.want|FlagGoroutines)
		}
	}
}
