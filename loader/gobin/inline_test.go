package gobin

import (
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"weft/loader/gobin/pgo"
)

// profile is the path of one in which all time goes by these calls.
func profile(t *testing.T, calls ...pgo.Hot) string {
	t.Helper()
	root, err := exec.CommandContext(t.Context(), "go", "env", "GOROOT").Output()
	if err != nil {
		t.Fatal(err)
	}
	text, err := pgo.Profile(strings.TrimSpace(string(root)), calls...)
	if err != nil {
		t.Fatal(err)
	}
	path := filepath.Join(t.TempDir(), "default.pgo")
	if err := os.WriteFile(path, text, 0o600); err != nil {
		t.Fatal(err)
	}
	return path
}

// TestInlined: what a profile makes the compiler inline is seen, with and without
// symbols, though the function is still there as well.
func TestInlined(t *testing.T) {
	path := build(t, "http", nil, "-pgo="+profile(t, pgo.HotServe))
	for name, path := range map[string]string{"symbols": path, "stripped": strip(t, path, true), "no headers": strip(t, path, false)} {
		t.Run(name, func(t *testing.T) {
			b := analysed(t, path)
			i := slices.IndexFunc(b.Absent, func(a Absent) bool { return a.Site == SiteServe })
			if want := pgo.HotServe.Callee + " is inlined into " + pgo.HotServe.Into; i < 0 || b.Absent[i].Why != want || b.has(SiteServe) {
				t.Errorf("absent %v, problems %v, want %s", b.Absent, b.Problems, want)
			}
		})
	}
}

// TestInlinesNothing: programs built as by default inline nothing that is probed, which
// is why only others are searched.
func TestInlinesNothing(t *testing.T) {
	for _, c := range []struct {
		program string
		env     []string
		flags   []string
	}{
		{"http", nil, nil}, {"http", toolchain(oldest), nil}, {"wire", nil, nil}, {routerApp, nil, []string{"-modfile=newest.mod"}}, {routerApp, toolchain(oldest), nil},
	} {
		path := build(t, c.program, c.env, c.flags...)
		for _, path := range []string{path, strip(t, path, true)} {
			if b := analysed(t, path); len(b.Degraded) > 0 {
				t.Errorf("%s %v: %v", c.program, c.env, b.Degraded)
			}
			i := imageOf(t, path)
			b := Binary{Modules: map[string]string{}}
			i.readBuildInfo(&b)
			if err := i.readFunctions(&b); err != nil {
				t.Fatal(err)
			}
			if i.readInlined(&b); len(b.Problems) > 0 {
				t.Errorf("%s %v: %v", c.program, c.env, b.Problems)
			}
			for _, s := range targets() {
				for _, name := range s.functions {
					if len(i.functions[name]) == 0 {
						continue
					}
					if into := i.inlines[name]; len(into) > 0 {
						t.Errorf("%s %v: %s is inlined into %v", c.program, c.env, name, into)
					}
					break // that is the one
				}
			}
		}
	}
}
