// Package variant builds one Go program with many toolchains and in many ways,
// once: what was built from the same sources is kept.
package variant

import (
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"time"
)

// Variant is a way of building a program.
type Variant struct {
	Program   string // folder in test/apps, a module of its own
	Modfile   string // "" for go.mod
	Toolchain string // such as 1.19.13; "" for the one that is installed
	Stripped  bool   // -ldflags="-s -w"
	PIE       bool
	CGO       bool
	Race      bool     // needs cgo
	Flags     []string // further flags of go build
	Suffix    string   // tells variants with Flags apart
}

// Name is the file name: program, module file, toolchain, and what differs from
// a plain static build.
func (v Variant) Name() string {
	parts := []string{v.Program}
	if v.Modfile != "" {
		parts = append(parts, strings.TrimSuffix(v.Modfile, ".mod"))
	}
	if v.Toolchain == "" {
		parts = append(parts, "local")
	} else {
		parts = append(parts, "go"+v.Toolchain)
	}
	for _, o := range []struct {
		on   bool
		name string
	}{{v.Stripped, "stripped"}, {v.PIE, "pie"}, {v.CGO, "cgo"}, {v.Race, "race"}, {v.Suffix != "", v.Suffix}} {
		if o.on {
			parts = append(parts, o.name)
		}
	}
	return strings.Join(parts, "-")
}

// Go is test/apps/gomatrix by a toolchain; the installed one takes the newest
// modules.
func Go(toolchain string, stripped bool) Variant {
	v := Variant{Program: "gomatrix", Toolchain: toolchain, Stripped: stripped}
	if toolchain == "" {
		v.Modfile = "newest.mod"
	}
	return v
}

// Routers is test/apps/gorouters, with the routers of a module file.
func Routers(modfile, toolchain string, stripped bool) Variant {
	return Variant{Program: "gorouters", Modfile: modfile, Toolchain: toolchain, Stripped: stripped}
}

// GRPC is test/apps/gogrpc with each version of grpc-go, by a Go of its time.
func GRPC() []Variant {
	return []Variant{
		{Program: "gogrpc"},
		{Program: "gogrpc", Modfile: "grpc160.mod", Toolchain: "1.22.12", Stripped: true},
		{Program: "gogrpc", Modfile: "grpc150.mod", Toolchain: "1.19.13", Stripped: true},
	}
}

// Small is what every run of the tests covers: static programs of five versions
// of Go, each stripped and not, and one whose contexts are made in another way.
func Small() []Variant {
	var all []Variant
	for _, toolchain := range []string{"", "1.24.13", "1.22.12", "1.21.13", "1.19.13"} {
		all = append(all, Go(toolchain, false), Go(toolchain, true))
	}
	return append(all, Go("1.20.14", true))
}

// Full is every version of Go, each stripped or not, PIE or not, and without cgo,
// with it, or, if it is not PIE, with the race detector, which needs cgo.
func Full() []Variant {
	var all []Variant
	for _, toolchain := range []string{"", "1.25.10", "1.24.13", "1.23.12", "1.22.12", "1.21.13", "1.20.14", "1.19.13"} {
		for _, stripped := range []bool{false, true} {
			for _, pie := range []bool{false, true} {
				for _, c := range []string{"", "cgo", "race"} {
					if pie && c == "race" {
						continue // Go refuses to build that
					}
					v := Go(toolchain, stripped)
					v.PIE, v.CGO, v.Race = pie, c == "cgo", c == "race"
					all = append(all, v)
				}
			}
		}
	}
	return all
}

// Guest is what a machine without Go is given.
func Guest() []Variant {
	return append([]Variant{Go("", false), Go("1.22.12", false), Go("1.19.13", true)}, GRPC()...)
}

// Builder knows where sources and results are.
type Builder struct {
	Apps  string // test/apps
	Cache string // folder of what was built
	Log   func(string)
}

// Build returns the path of the program. It compiles at the lowest priority.
// Toolchains and modules come through the module proxy, so that the first build
// of each needs a network.
func (b Builder) Build(ctx context.Context, v Variant) (string, error) {
	goTool, err := exec.LookPath("go")
	if err != nil {
		return "", fmt.Errorf("build %s: %w", v.Name(), err)
	}
	dir := filepath.Join(b.Apps, v.Program)
	env := b.environment(v)
	version, err := b.output(ctx, dir, env, goTool, "version")
	if err != nil {
		return "", fmt.Errorf("build %s: toolchain %s: %w", v.Name(), v.Toolchain, err)
	}
	args := []string{"build"}
	if v.Modfile != "" {
		args = append(args, "-modfile="+v.Modfile)
	}
	if v.Stripped {
		args = append(args, "-ldflags=-s -w")
	}
	if v.PIE {
		args = append(args, "-buildmode=pie")
	}
	if v.Race {
		args = append(args, "-race")
	}
	args = append(args, v.Flags...)
	sum, err := digest(dir, version, strings.Join(args, " "))
	if err != nil {
		return "", fmt.Errorf("build %s: %w", v.Name(), err)
	}
	out := filepath.Join(b.Cache, v.Name()+"-"+sum)
	if _, err := os.Stat(out); err == nil {
		return out, nil
	} else if !errors.Is(err, fs.ErrNotExist) {
		return "", err
	}
	if err := os.MkdirAll(b.Cache, 0o755); err != nil {
		return "", err
	}
	start := time.Now()
	tmp := fmt.Sprintf("%s.%d", out, os.Getpid())
	argv := append([]string{"-n", "19", goTool}, append(args, "-o", tmp, ".")...)
	if _, err := b.output(ctx, dir, env, "nice", argv...); err != nil {
		return "", fmt.Errorf("build %s: %w", v.Name(), err)
	}
	// Renamed when whole: others may build the same.
	if err := os.Rename(tmp, out); err != nil {
		return "", err
	}
	if b.Log != nil {
		b.Log(fmt.Sprintf("built %s in %v", v.Name(), time.Since(start).Round(100*time.Millisecond)))
	}
	return out, nil
}

func (b Builder) environment(v Variant) []string {
	cgo := "0"
	if v.CGO || v.Race {
		cgo = "1"
	}
	// -buildvcs is not known before Go 1.18, -modfile decides what -mod would.
	env := append(os.Environ(), "CGO_ENABLED="+cgo, "GOFLAGS=", "GOWORK=off")
	if v.Toolchain != "" {
		// The module index of Go 1.19 fails for a main module.
		env = append(env, "GOTOOLCHAIN=go"+v.Toolchain, "GODEBUG=goindex=0")
	}
	return env
}

func (b Builder) output(ctx context.Context, dir string, env []string, name string, args ...string) (string, error) {
	cmd := exec.CommandContext(ctx, name, args...)
	cmd.Dir, cmd.Env = dir, env
	text, err := cmd.CombinedOutput()
	if err != nil {
		return string(text), fmt.Errorf("%s %s: %w: %.2000s", name, strings.Join(args, " "), err, text)
	}
	return string(text), nil
}

// digest is of what the program is made from.
func digest(dir string, more ...string) (string, error) {
	h := sha256.New()
	err := filepath.WalkDir(dir, func(path string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() {
			return err
		}
		text, err := os.ReadFile(path)
		if err != nil {
			return err
		}
		fmt.Fprintf(h, "%s %d\n", path[len(dir):], len(text))
		_, _ = h.Write(text)
		return nil
	})
	for _, m := range more {
		fmt.Fprintln(h, m)
	}
	return fmt.Sprintf("%x", h.Sum(nil)[:6]), err
}
