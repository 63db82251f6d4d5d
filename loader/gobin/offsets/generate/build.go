package main

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
)

// A build is one program to read: a module's version, built with a version of Go.
type build struct {
	module  module
	version string
	golang  string // "go1.26.1", or "local" for the toolchain that runs this
	arch    string
	// beside are requirements as in a go.mod, so that builds of one module share
	// what they have compiled. Without, it is what the version itself requires.
	beside []string
}

func (b build) String() string {
	s := b.module.path + " " + b.version
	if b.version != b.golang {
		s += " with " + b.golang
	}
	if b.arch != "amd64" {
		s += " on " + b.arch
	}
	return s
}

// fields builds the program in a folder of its own, and reads it.
func (b build) fields(ctx context.Context) (fields, error) {
	dir, err := os.MkdirTemp("", "weft-offsets-")
	if err != nil {
		return nil, err
	}
	defer func() { _ = os.RemoveAll(dir) }()
	// Go 1.19 takes a path without a dot for one of the standard library.
	// From Go 1.17 on the requirements of requirements are not read: hundreds.
	mod := "module example.com/probe\n\ngo 1.19\n\n"
	if b.module.path != "std" {
		mod += "require " + b.module.path + " " + b.version + "\n"
	}
	for _, r := range b.beside {
		mod += "require " + r + "\n"
	}
	if b.beside != nil { // they may require a newer one
		mod += "replace " + b.module.path + " => " + b.module.path + " " + b.version + "\n"
	}
	for name, content := range map[string]string{"go.mod": mod, "main.go": b.module.program} {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(content), 0o600); err != nil {
			return nil, err
		}
	}
	const exe = "probe"
	if _, err := b.command(ctx, dir, "build", "-p", "1", "-mod=mod", "-o", exe, "."); err != nil {
		return nil, err
	}
	f, err := readFields(filepath.Join(dir, exe), b.module.packages())
	if err != nil {
		return nil, fmt.Errorf("read what was built: %w", err)
	}
	return f, nil
}

// command runs the go command of this build.
func (b build) command(ctx context.Context, dir string, args ...string) ([]byte, error) {
	return golang(ctx, dir, []string{"GOTOOLCHAIN=" + b.golang, "GOARCH=" + b.arch, "GOAMD64=v1"}, args...)
}

// golang runs the go command, with nothing of the caller's own settings that would
// change what is built.
func golang(ctx context.Context, dir string, env []string, args ...string) ([]byte, error) {
	cmd := exec.CommandContext(ctx, "go", args...) // #nosec G204 -- of this program's own making
	cmd.Dir = dir
	cmd.Env = append(os.Environ(), "GOFLAGS=", "GOWORK=off", "GOOS=linux", "CGO_ENABLED=0", "GOEXPERIMENT=", "GO111MODULE=on")
	cmd.Env = append(cmd.Env, env...)
	var stderr bytes.Buffer
	cmd.Stderr = &stderr
	out, err := cmd.Output()
	if err != nil {
		return nil, fmt.Errorf("go %s: %w: %s", strings.Join(args, " "), err, last(stderr.String()))
	}
	return out, nil
}

// last is the end of what a command said, in one line.
func last(s string) string {
	lines := strings.Split(strings.TrimSpace(s), "\n")
	return strings.Join(lines[max(0, len(lines)-3):], "; ")
}

// goDirective is the version of Go that a module's version asks for, "" for none.
func goDirective(ctx context.Context, path, version string) (string, error) {
	m, err := requirements(ctx, path, version)
	if err != nil || m.Go == "" {
		return "", err
	}
	return "go" + m.Go, nil
}

// goMod is what is read of a go.mod.
type goMod struct {
	Go      string
	Require []struct{ Path, Version string }
}

// requirements reads the go.mod of a module's version.
func requirements(ctx context.Context, path, version string) (goMod, error) {
	var info struct{ GoMod string }
	out, err := golang(ctx, os.TempDir(), nil, "list", "-m", "-json", path+"@"+version)
	if err != nil {
		return goMod{}, err
	}
	if err := json.Unmarshal(out, &info); err != nil {
		return goMod{}, fmt.Errorf("read what go list said: %w", err)
	}
	out, err = golang(ctx, os.TempDir(), nil, "mod", "edit", "-json", info.GoMod)
	if err != nil {
		return goMod{}, err
	}
	var m goMod
	if err := json.Unmarshal(out, &m); err != nil {
		return goMod{}, fmt.Errorf("read %s: %w", info.GoMod, err)
	}
	return m, nil
}
