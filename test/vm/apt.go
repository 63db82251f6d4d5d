package main

import (
	"bufio"
	"bytes"
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"time"
)

// apt is a private view of the Debian archive: its own sources, lists and an
// empty package database, so that the host's apt is neither asked nor changed.
// Signatures are checked against Debian's keyring as usual.
type apt struct {
	dir    string
	suites []suite
	log    func(format string, args ...any)
}

// suite is a directory below dists/ of an archive.
type suite struct{ archive, name string }

const (
	keyring = "/usr/share/keyrings/debian-archive-keyring.gpg"
	// listsAge is how old the package lists may grow before they are fetched again.
	listsAge = 7 * 24 * time.Hour
)

// debianPackage is one stanza of a Packages index.
type debianPackage struct{ name, version string }

func newApt(dir string, suites []suite, log func(string, ...any)) *apt {
	return &apt{dir: dir, suites: suites, log: log}
}

func mirror() string {
	if m := os.Getenv("WEFT_VM_MIRROR"); m != "" {
		return strings.TrimSuffix(m, "/")
	}
	return "http://deb.debian.org"
}

func (a *apt) command(ctx context.Context, tool string, args ...string) *exec.Cmd {
	set := []string{
		"Dir::Etc::sourcelist=" + filepath.Join(a.dir, "sources.list"),
		"Dir::Etc::sourceparts=/dev/null",
		"Dir::State=" + filepath.Join(a.dir, "state"),
		"Dir::State::status=" + filepath.Join(a.dir, "state", "status"),
		"Dir::Cache=" + filepath.Join(a.dir, "cache"),
		"APT::Architecture=amd64",
		"APT::Architectures=amd64",
		"APT::Sandbox::User=root",
		"APT::Install-Recommends=false",
		"Acquire::Languages=none",
		"Acquire::Retries=3",
		"Acquire::http::Timeout=30",
		"Debug::NoLocking=true",
	}
	var all []string
	for _, s := range set {
		all = append(all, "-o", s)
	}
	cmd := exec.CommandContext(ctx, tool, append(all, args...)...)
	cmd.Env = append(os.Environ(), "LC_ALL=C", "DEBIAN_FRONTEND=noninteractive")
	return cmd
}

func (a *apt) output(ctx context.Context, tool string, args ...string) ([]byte, error) {
	return output(a.command(ctx, tool, args...))
}

// output runs the command; an error ends with the last line it complained with.
func output(cmd *exec.Cmd) ([]byte, error) {
	var stderr bytes.Buffer
	cmd.Stderr = &stderr
	out, err := cmd.Output()
	if err != nil {
		lines := strings.Split(strings.TrimSpace(stderr.String()), "\n")
		return nil, fmt.Errorf("%s: %w: %s", filepath.Base(cmd.Path), err, lines[len(lines)-1])
	}
	return out, nil
}

// refresh fetches the package lists if they are old or missing.
func (a *apt) refresh(ctx context.Context, force bool) error {
	stamp := filepath.Join(a.dir, "updated")
	info, err := os.Stat(stamp)
	if err == nil && !force && time.Since(info.ModTime()) < listsAge {
		return nil
	}
	haveLists := err == nil
	if _, err := os.Stat(keyring); err != nil {
		return fmt.Errorf("find Debian's keys: %w; install debian-archive-keyring", err)
	}
	for _, d := range []string{"state/lists/partial", "cache/archives/partial"} {
		if err := os.MkdirAll(filepath.Join(a.dir, d), 0o755); err != nil {
			return err
		}
	}
	var sources strings.Builder
	for _, s := range a.suites {
		fmt.Fprintf(&sources, "deb [signed-by=%s arch=amd64 target=Packages check-valid-until=no] %s/%s %s main\n",
			keyring, mirror(), s.archive, s.name)
	}
	for name, text := range map[string]string{"sources.list": sources.String(), "state/status": ""} {
		if err := os.WriteFile(filepath.Join(a.dir, name), []byte(text), 0o644); err != nil {
			return err
		}
	}
	a.log("fetching package lists of %s", suiteNames(a.suites))
	if _, err := a.output(ctx, "apt-get", "-q", "update", "--error-on=any"); err != nil {
		if haveLists && !force {
			a.log("fetch package lists: %v; going on with those of %s", err, info.ModTime().Format(time.DateOnly))
			return nil
		}
		return fmt.Errorf("fetch package lists: %w", err)
	}
	return os.WriteFile(stamp, nil, 0o644)
}

func suiteNames(suites []suite) string {
	names := make([]string, len(suites))
	for i, s := range suites {
		names[i] = s.name
	}
	return strings.Join(names, ", ")
}

// search lists the packages whose name matches the regular expression, each in
// its newest version.
func (a *apt) search(ctx context.Context, pattern string) ([]debianPackage, error) {
	out, err := a.output(ctx, "apt-cache", "search", "--names-only", pattern)
	if err != nil {
		return nil, fmt.Errorf("search packages: %w", err)
	}
	var names []string
	for line := range strings.Lines(string(out)) {
		if name, _, ok := strings.Cut(line, " - "); ok {
			names = append(names, name)
		}
	}
	if len(names) == 0 {
		return nil, nil
	}
	if out, err = a.output(ctx, "apt-cache", append([]string{"show", "--no-all-versions"}, names...)...); err != nil {
		return nil, fmt.Errorf("show packages: %w", err)
	}
	return parseStanzas(out), nil
}

func parseStanzas(text []byte) []debianPackage {
	var packages []debianPackage
	var p debianPackage
	lines := bufio.NewScanner(bytes.NewReader(append(text, '\n', '\n')))
	lines.Buffer(nil, 1<<20)
	for lines.Scan() {
		key, value, _ := strings.Cut(lines.Text(), ": ")
		switch {
		case key == "Package":
			p.name = value
		case key == "Version":
			p.version = value
		case lines.Text() == "" && p.name != "":
			packages = append(packages, p)
			p = debianPackage{}
		}
	}
	return packages
}

// closure lists what installing the packages on an empty system would install.
func (a *apt) closure(ctx context.Context, packages []string) ([]debianPackage, error) {
	args := append([]string{"-q", "-s", "-y", "install"}, packages...)
	out, err := a.output(ctx, "apt-get", args...)
	if err != nil {
		return nil, fmt.Errorf("resolve %s: %w", strings.Join(packages, ", "), err)
	}
	var all []debianPackage
	for line := range strings.Lines(string(out)) {
		// Inst libc6 (2.36-9+deb12u10 Debian:12.11/stable [amd64])
		fields := strings.Fields(line)
		if len(fields) >= 3 && fields[0] == "Inst" {
			all = append(all, debianPackage{fields[1], strings.TrimPrefix(fields[2], "(")})
		}
	}
	return all, nil
}

// download puts the .deb files into an empty directory and gives their paths.
func (a *apt) download(ctx context.Context, dir string, packages []debianPackage) ([]string, error) {
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return nil, err
	}
	args := []string{"-q", "download"}
	for _, p := range packages {
		args = append(args, p.name+"="+p.version)
	}
	cmd := a.command(ctx, "apt-get", args...)
	cmd.Dir = dir
	if _, err := output(cmd); err != nil {
		return nil, fmt.Errorf("download packages: %w", err)
	}
	files, err := filepath.Glob(filepath.Join(dir, "*.deb"))
	if err != nil {
		return nil, err
	}
	if len(files) != len(packages) {
		return nil, fmt.Errorf("download packages: %d of %d arrived", len(files), len(packages))
	}
	return files, nil
}

// newer compares versions by Debian's rules.
func newer(ctx context.Context, a, b string) bool {
	return exec.CommandContext(ctx, "dpkg", "--compare-versions", a, "gt", b).Run() == nil
}

// unpackDeb unpacks into dir and through links to directories that are there;
// dpkg-deb -x would replace them.
func unpackDeb(ctx context.Context, deb, dir string) error {
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return err
	}
	dpkg := exec.CommandContext(ctx, "dpkg-deb", "--fsys-tarfile", deb)
	var complaint bytes.Buffer
	dpkg.Stderr = &complaint
	stream, err := dpkg.StdoutPipe()
	if err != nil {
		return err
	}
	if err := dpkg.Start(); err != nil {
		return fmt.Errorf("unpack: %w", err)
	}
	tar := exec.CommandContext(ctx, "tar", "-x", "-C", dir, "--keep-directory-symlink", "--no-same-owner")
	tar.Stdin = stream
	_, tarErr := output(tar)
	if err := dpkg.Wait(); err != nil {
		return fmt.Errorf("unpack %s: %w: %s", filepath.Base(deb), err, strings.TrimSpace(complaint.String()))
	}
	if tarErr != nil {
		return fmt.Errorf("unpack %s: %w", filepath.Base(deb), tarErr)
	}
	return nil
}
