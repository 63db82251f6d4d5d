package gobin

import (
	"os"
	"os/exec"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"

	"weft/loader/gobin/field"
)

var http1Sites = []Site{SiteServe, SiteRoundTrip, SiteWrite, SiteTLSWrite, SiteTLSResponse, SiteTLSIdle, SiteTLSClose}

func h2Sites(flavour field.Flavour) []Site {
	var all []Site
	for _, s := range []Site{SiteH2ServerHeaders, SiteH2Handler, SiteH2ServerEnd, SiteH2Request, SiteH2Write,
		SiteH2Response, SiteH2ClientEnd, SiteH2ServerReset, SiteH2RoundTrip} {
		all = append(all, s.In(flavour))
	}
	return all
}

var grpcSites = []Site{SiteGRPCHandler, SiteGRPCStatus, SiteGRPCServerEnd, SiteGRPCNewStream, SiteGRPCQueued,
	SiteGRPCWrite, SiteGRPCClientEnd, SiteGRPCOriginate, SiteGRPCHandlerStatus, SiteGRPCWrote}

// TestSites: each site is there once, emulated, and go tool objdump has the same
// instruction at its address.
func TestSites(t *testing.T) {
	for _, c := range []struct {
		name, program, goVersion string
		env                      []string
		sites                    [][]Site
		entry                    string // instruction of the entries
		guarded                  bool
	}{
		{"local", "http", "go1.26", nil, [][]Site{http1Sites, h2Sites(field.Bundled)}, "push %rbp", false},
		{"oldest", "http", oldest, toolchain(oldest), [][]Site{http1Sites, h2Sites(field.Bundled)}, "jbe 0x", true},
		{"wire", "wire", "go1.26", nil, [][]Site{http1Sites, h2Sites(field.Bundled), h2Sites(field.XNet), grpcSites}, "push %rbp", false},
		{"arm64", "http", "go1.26", []string{"GOARCH=arm64"}, [][]Site{http1Sites, h2Sites(field.Bundled)}, "b.ls 0x", true},
	} {
		t.Run(c.name, func(t *testing.T) {
			path := build(t, c.program, c.env)
			b := analysed(t, path)
			if !strings.HasPrefix(b.GoVersion, c.goVersion) || !b.BuildInfo || b.Stripped || b.PIE || b.Cgo || b.Race || !b.DWARF {
				t.Errorf("%+v", b)
			}
			want := slices.Sorted(slices.Values(slices.Concat(c.sites...)))
			var got []Site
			for _, p := range b.Probes {
				got = append(got, p.Site)
			}
			if slices.Sort(got); !slices.Equal(got, want) {
				t.Fatalf("sites %v\nwant  %v\nabsent %v", got, want, b.Absent)
			}
			data, err := os.ReadFile(path)
			if err != nil {
				t.Fatal(err)
			}
			for _, p := range b.Probes {
				checkProbe(t, b, p, data, disassembled(t, path, p.Function, b.Machine == "aarch64"), c.entry, c.guarded)
			}
			if len(b.Absent)+len(want) != len(targets()) {
				t.Errorf("%d sites of %d are not accounted for", len(targets())-len(want)-len(b.Absent), len(targets()))
			}
		})
	}
}

func checkProbe(t *testing.T, b *Binary, p Probe, data []byte, lines []line, entry string, guarded bool) {
	t.Helper()
	_, call := p.Site.Function()
	n := slices.IndexFunc(lines, func(l line) bool { return l.address == p.Address })
	if n < 0 {
		t.Fatalf("%v: no instruction begins at %#x", p.Site, p.Address)
	}
	if !strings.HasPrefix(string(data[p.Offset:]), lines[n].code) {
		t.Errorf("%v: at %#x the file has other bytes than memory at %#x", p.Site, p.Offset, p.Address)
	}
	if !p.Emulated {
		t.Errorf("%v is single-stepped: %s", p.Site, p.Instruction)
	}
	if call == "" {
		if !strings.HasPrefix(p.Instruction, entry) || n > 6 || p.Guarded != guarded || (b.Layout.Guarded>>p.Site&1 == 1) != guarded {
			t.Errorf("%v: instruction %d of its function is %q, guarded %v", p.Site, n, p.Instruction, p.Guarded)
		}
		return
	}
	if p.Guarded || b.Layout.Guarded>>p.Site&1 == 1 {
		t.Errorf("%v is a call, and guarded", p.Site)
	}
	// All calls of that function are sites.
	for _, l := range lines {
		if strings.HasPrefix(l.text, "CALL "+call+"(SB)") && l.address != p.Address && p.Site != SiteGRPCWrote {
			t.Errorf("%v: %#x calls %s too", p.Site, l.address, call)
		}
	}
	if p.Site == SiteGRPCWrote { // behind the call, with no other way to go in between
		for n--; n > 0 && !strings.HasPrefix(lines[n].text, "CALL") && !strings.HasPrefix(lines[n].text, "J"); n-- {
		}
	}
	if !strings.HasPrefix(lines[n].text, "CALL "+call+"(SB)") {
		t.Errorf("%v: at %#x there is %q", p.Site, p.Address, lines[n].text)
	}
}

// line is one of go tool objdump.
type line struct {
	address    uint64
	code, text string
}

func disassembled(t *testing.T, path, function string, arm64 bool) []line {
	t.Helper()
	out, err := exec.CommandContext(t.Context(), "go", "tool", "objdump", "-s", "^"+regexp.QuoteMeta(function)+"$", path).Output()
	if err != nil {
		t.Fatalf("go tool objdump: %v", err)
	}
	var lines []line
	for l := range strings.Lines(string(out)) {
		cells := strings.Fields(l) // main.go:12  0x4a0b20  493b6610  CMPQ …
		if len(cells) < 4 || !strings.HasPrefix(cells[1], "0x") {
			continue
		}
		address, err := strconv.ParseUint(cells[1][2:], 16, 64)
		if err != nil {
			t.Fatal(err)
		}
		var code []byte
		for n := 0; n+2 <= len(cells[2]); n += 2 {
			b, err := strconv.ParseUint(cells[2][n:n+2], 16, 8)
			if err != nil {
				t.Fatal(err)
			}
			code = append(code, byte(b))
		}
		if len(code) == 4 && arm64 {
			slices.Reverse(code)
		}
		lines = append(lines, line{address, string(code), strings.Join(cells[3:], " ")})
	}
	return lines
}

// TestStripped: without symbols, and without headers of sections, the same is found.
func TestStripped(t *testing.T) {
	for _, c := range []struct {
		name  string
		env   []string
		flags []string
	}{
		{name: "static"},
		{name: "oldest", env: toolchain(oldest)},
		{name: "PIE", flags: []string{"-buildmode=pie"}},
		{name: "arm64", env: []string{"GOARCH=arm64"}},
		{name: "arm64 PIE", env: []string{"GOARCH=arm64"}, flags: []string{"-buildmode=pie"}},
		{name: "cgo", env: []string{"CGO_ENABLED=1"}, flags: []string{"-ldflags=-linkmode=external"}},
	} {
		t.Run(c.name, func(t *testing.T) {
			path := build(t, "http", c.env, c.flags...)
			whole := analysed(t, path)
			for _, headers := range []bool{true, false} {
				got := analysed(t, strip(t, path, headers))
				if !got.Stripped || got.DWARF || got.PIE != whole.PIE || got.Cgo != whole.Cgo {
					t.Errorf("section headers %v: %+v", headers, got)
				}
				if !slices.EqualFunc(got.Probes, whole.Probes, func(a, b Probe) bool {
					a.Function = b.Function
					return a == b
				}) {
					t.Errorf("section headers %v: probes differ:\n%v\n%v", headers, got.Probes, whole.Probes)
				}
				if !headers && whole.PIE { // package buildinfo does not find it there
					if got.BuildInfo || got.Layout.Flags != 0 || got.Source != SourceUnknown || len(got.Problems) == 0 {
						t.Errorf("without a version: %+v", got)
					}
					continue
				}
				if got.GoVersion != whole.GoVersion || got.Layout != whole.Layout || got.Source != whole.Source {
					t.Errorf("section headers %v: layouts differ:\n%+v %s\n%+v %s", headers, got.Layout, got.Source, whole.Layout, whole.Source)
				}
				if whole.Layout.Goidgen == 0 || whole.Layout.Allp == 0 || whole.Layout.Allgs == 0 {
					t.Errorf("goidgen at %#x, allp at %#x, allgs at %#x", whole.Layout.Goidgen, whole.Layout.Allp, whole.Layout.Allgs)
				}
			}
		})
	}
}
