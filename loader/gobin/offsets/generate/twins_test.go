package main

import (
	"os"
	"path/filepath"
	"runtime"
	"testing"

	"weft/loader/gobin"
	"weft/loader/gobin/field"
)

// grpcTwin has all of the tiers.
const grpcTwin = `package main

import (
	"context"
	"net"
	"net/http"
	"os"

	"golang.org/x/net/http2"
	"google.golang.org/grpc"
	"google.golang.org/grpc/status"
)

func main() {
	l, err := net.Listen("tcp", os.Args[1])
	if err != nil {
		panic(err)
	}
	go grpc.NewServer().Serve(l)
	s := &http.Server{}
	if err := http2.ConfigureServer(s, nil); err != nil {
		panic(err)
	}
	go s.ListenAndServeTLS("", "")
	h := http.Client{Transport: &http2.Transport{}}
	if r, err := h.Get(os.Args[2]); err == nil {
		r.Body.Close()
	}
	c, err := grpc.Dial(os.Args[3], grpc.WithInsecure())
	if err != nil {
		panic(err)
	}
	println(status.Convert(c.Invoke(context.Background(), os.Args[4], nil, nil)).Proto().GetCode())
}
`

// TestStripped: through the table a stripped binary gets what its twin gets through
// DWARF.
func TestStripped(t *testing.T) {
	if testing.Short() {
		t.Skip("builds programs with several versions of Go, minutes of it")
	}
	const http = gobin.FlagGoroutines | gobin.FlagWrites | gobin.FlagWritesH2
	for _, c := range []struct {
		name, golang, program, require string
		pie                            bool
		flags                          uint32
		least                          int // of fields to compare
	}{
		{"go1.19.13", "go1.19.13", stdProgram, "", false, http, 50},
		{"go1.19.13 PIE", "go1.19.13", stdProgram, "", true, http, 50},
		{"go1.21.13", "go1.21.13", stdProgram, "", false, http, 50},
		{"go1.21.13 PIE", "go1.21.13", stdProgram, "", true, http, 50},
		{"go1.22.12", "go1.22.12", stdProgram, "", false, http, 50},
		{"go1.22.12 PIE", "go1.22.12", stdProgram, "", true, http, 50},
		{"go1.24.13", "go1.24.13", stdProgram, "", false, http, 50},
		{"go1.24.13 PIE", "go1.24.13", stdProgram, "", true, http, 50},
		{"installed", "local", stdProgram, "", false, http, 50},
		{"installed PIE", "local", stdProgram, "", true, http, 50},
		{"grpc 1.60", "local", grpcTwin, "require google.golang.org/grpc v1.60.1\nrequire golang.org/x/net v0.17.0\n", false, http | gobin.FlagWritesXNet | gobin.FlagWritesGRPC, 75},
	} {
		t.Run(c.name, func(t *testing.T) {
			version := c.golang
			if version == "local" {
				version = runtime.Version()
				if !covered(version) {
					t.Skipf("%s is not in the table", version)
				}
			}
			dir := t.TempDir()
			writeFile(t, dir, "go.mod", "module example.com/twin\n\ngo 1.19\n\n"+c.require)
			writeFile(t, dir, "main.go", c.program)
			exe := [2]string{filepath.Join(dir, "whole"), filepath.Join(dir, "stripped")}
			// The flags are kept in the binary's data: those of both are as long, so
			// that all else is in the same place.
			for n, flags := range []string{"-s=0 -w=0", "-s=1 -w=1"} {
				args := []string{"build", "-p", "1", "-mod=mod", "-ldflags", flags}
				if c.pie {
					args = append(args, "-buildmode=pie")
				}
				if _, err := golang(t.Context(), dir, []string{"GOTOOLCHAIN=" + c.golang}, append(args, "-o", exe[n], ".")...); err != nil {
					unlessOffline(t, err)
				}
			}
			b, err := gobin.Analyze(exe[1])
			if err != nil {
				t.Fatal(err)
			}
			if b.DWARF || b.PIE != c.pie || b.GoVersion != version || b.Source != gobin.SourceTable {
				t.Fatalf("DWARF %v, PIE %v, %s, offsets of the %s: not the twin wanted", b.DWARF, b.PIE, b.GoVersion, b.Source)
			}
			var packages []string
			for _, m := range modules() {
				packages = append(packages, m.packages()...)
			}
			truth, err := readFields(exe[0], packages)
			if err != nil {
				t.Fatal(err)
			}
			compared := 0
			for _, f := range field.All() {
				for _, at := range f.Locations() {
					want, present := truth.lookup(at)
					if !present && f.In(field.XNet) == f {
						at.Package = "vendor/" + at.Package
						want, present = truth.lookup(at)
					}
					if !present {
						continue
					}
					if got := b.Layout.Offset[f]; int64(got) != want {
						t.Errorf("%s: %d by the table, %d by DWARF", f, got, want)
					}
					compared++
					break
				}
			}
			if compared < c.least {
				t.Errorf("%d fields compared, want %d at least", compared, c.least)
			}
			if b.Layout.Flags&c.flags != c.flags {
				t.Errorf("flags are %#x, want %#x: known whole", b.Layout.Flags, c.flags)
			}
			// What is not in the table: addresses, thread-local storage.
			whole, err := gobin.Analyze(exe[0])
			if err != nil {
				t.Fatal(err)
			}
			got, want := b.Layout, whole.Layout
			if got.Goidgen != want.Goidgen || got.Allp != want.Allp || got.Allgs != want.Allgs || got.TLSG != want.TLSG || got.Flags != want.Flags || got.Guarded != want.Guarded {
				t.Errorf("goidgen %#x, allp %#x, allgs %#x, g at %d, flags %#x, guarded %#x; the twin has %#x, %#x, %#x, %d, %#x, %#x",
					got.Goidgen, got.Allp, got.Allgs, got.TLSG, got.Flags, got.Guarded, want.Goidgen, want.Allp, want.Allgs, want.TLSG, want.Flags, want.Guarded)
			}
			if got.Goidgen == 0 || got.Allgs == 0 || got.TLSG == 0 {
				t.Errorf("goidgen at %#x, g at %d: not found", got.Goidgen, got.TLSG)
			}
		})
	}
}

func writeFile(t *testing.T, dir, name, content string) {
	t.Helper()
	if err := os.WriteFile(filepath.Join(dir, name), []byte(content), 0o600); err != nil {
		t.Fatal(err)
	}
}
