package main

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"weft/loader/gobin/offsets"
)

// TestMeasured: programs built now have their fields where the table says.
func TestMeasured(t *testing.T) {
	if testing.Short() {
		t.Skip("builds programs with other versions of Go and grpc, a minute of it")
	}
	builds, err := handful(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	for _, b := range builds {
		t.Run(b.String(), func(t *testing.T) {
			if err := b.verify(t.Context()); err != nil {
				unlessOffline(t, err)
			}
		})
	}
}

// unlessOffline fails the test, or skips it where there is no network to download
// from. .ci/run has one.
func unlessOffline(t *testing.T, err error) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
	defer cancel()
	if _, offline := golang(ctx, os.TempDir(), nil, "list", "-m", xnet+"@latest"); offline != nil && os.Getenv("CI") == "" {
		t.Skipf("the module proxy cannot be reached: %v", err)
	}
	t.Fatal(err)
}

// TestVerifyNotices: the check fails where the table is of something else.
func TestVerifyNotices(t *testing.T) {
	if testing.Short() {
		t.Skip("builds a program")
	}
	m := modules()[0]
	b := build{module: m, version: "go1.19", golang: "local", arch: "amd64"} // what is built here is no go1.19
	err := b.verify(t.Context())
	if err == nil || !strings.Contains(err.Error(), "net/http.Request.ctx") {
		t.Errorf("a program of another version: got %v, want the field that differs", err)
	}
}

func TestBisect(t *testing.T) {
	for _, changes := range [][]int{nil, {1}, {7}, {99}, {3, 4, 5}, {1, 50, 99}} {
		const versions = 100
		measured := map[int]layout{}
		at := func(i int) (layout, error) {
			n, _ := slices.BinarySearch(changes, i+1) // how many changes there were up to i
			measured[i] = layout{{uint16(n), true}}
			return measured[i], nil
		}
		if err := bisect(0, versions-1, at); err != nil {
			t.Fatal(err)
		}
		for _, c := range changes {
			if measured[c] == nil || measured[c-1] == nil {
				t.Errorf("changes at %v: not measured on both sides of %d", changes, c)
			}
		}
		if most := 2 + 8*len(changes); len(measured) > most {
			t.Errorf("changes at %v: %d versions measured, want at most %d", changes, len(measured), most)
		}
	}
	failed := errors.New("no such version")
	if err := bisect(0, 9, func(i int) (layout, error) {
		if i == 4 {
			return nil, failed
		}
		return layout{{uint16(i), true}}, nil
	}); !errors.Is(err, failed) {
		t.Errorf("a version that cannot be measured: got %v, want %v", err, failed)
	}
}

func TestRows(t *testing.T) {
	m := module{path: "example.com/m", has: under(rpc)} // one location
	all := []string{"v1.0.0", "v1.1.0", "v1.2.0", "v1.3.0", "v1.4.0"}
	measured := map[int]layout{0: {{0, false}}, 1: {{8, true}}, 3: {{8, true}}, 4: {{16, true}}}
	row := "example.com/m\tgoogle.golang.org/genproto/googleapis/rpc/status\tStatus\tCode\t"
	want := []string{row + "v1.0.0\tv1.0.0\t-", row + "v1.1.0\tv1.3.0\t8", row + "v1.4.0\tv1.4.0\t16"}
	if got := m.rows(all, measured); !slices.Equal(got, want) {
		t.Errorf("got %q, want %q", got, want)
	}
}

func TestSample(t *testing.T) {
	std := module{path: offsets.Std}
	all := []string{"go1.19", "go1.19.2", "go1.19.13", "go1.20", "go1.21.0", "go1.21.1"}
	if got, want := std.sample(all), []int{0, 2, 3, 4, 5}; !slices.Equal(got, want) {
		t.Errorf("of Go: got %v, want %v", got, want)
	}
	other := module{path: grpc}
	if got, want := other.sample([]string{"v1.1.0", "v1.1.1", "v1.2.0"}), []int{0, 2}; !slices.Equal(got, want) {
		t.Errorf("of a module: got %v, want %v", got, want)
	}
	if got, want := other.sample([]string{"v1.1.0"}), []int{0}; !slices.Equal(got, want) {
		t.Errorf("of one version: got %v, want %v", got, want)
	}
}

func TestCache(t *testing.T) {
	c := cache{dir: t.TempDir()}
	b := build{module: modules()[0], version: "go1.22.0", golang: "go1.22.0", arch: "amd64"}
	if f, err := c.load(b); f != nil || err != nil {
		t.Fatalf("an empty cache: got %v, %v", f, err)
	}
	want := fields{"net/http.Request.ctx": {232, false}, "runtime.g.m": {48, true}}
	if err := c.store(b, want); err != nil {
		t.Fatal(err)
	}
	got, err := c.load(b)
	if err != nil || len(got) != 2 || got["runtime.g.m"] != want["runtime.g.m"] || got["net/http.Request.ctx"] != want["net/http.Request.ctx"] {
		t.Errorf("got %v, %v, want %v", got, err, want)
	}
	other := b
	other.arch = "arm64"
	if f, err := c.load(other); f != nil || err != nil {
		t.Errorf("of another architecture: got %v, %v", f, err)
	}
	changed := b
	changed.module.program += "\n// more\n"
	if f, err := c.load(changed); f != nil || err != nil {
		t.Errorf("of another program: got %v, %v, want nothing", f, err)
	}
	more := b
	more.module.has = func(string) bool { return true }
	if f, err := c.load(more); f != nil || err != nil {
		t.Errorf("with packages that were not read: got %v, %v, want nothing", f, err)
	}
	path := c.path(b)
	content, err := os.ReadFile(path) // #nosec G304 -- in the test's own folder
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(path, append(content, "net/http.Request.URL nowhere\n"...), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := c.load(b); err == nil || !strings.Contains(err.Error(), filepath.Base(path)) {
		t.Errorf("a file that is cut: got %v, want an error that names it", err)
	}
}

func TestPackageOf(t *testing.T) {
	for name, want := range map[string]string{
		"runtime.g":                               "runtime",
		"net/http.Request":                        "net/http",
		"golang.org/x/net/http2.Framer":           "golang.org/x/net/http2",
		"vendor/golang.org/x/net/http.A":          "vendor/golang.org/x/net/http",
		"string":                                  "",
		"[]net/http.Request":                      "",
		"*net/http.Request":                       "",
		"sync/atomic.Pointer[go.shape.struct {}]": "",
		"struct { F uintptr }":                    "",
	} {
		if got, ok := packageOf(name); got != want || ok != (want != "") {
			t.Errorf("packageOf(%q) = %q, %v, want %q", name, got, ok, want)
		}
	}
}
