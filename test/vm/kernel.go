package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"time"
)

// kernel is an unpacked Debian kernel.
type kernel struct {
	Release string `json:"release"` // uname -r
	Version string `json:"version"` // of the Debian package
	Vmlinux string `json:"vmlinux"` // uncompressed ELF image
	Modules string `json:"modules"` // lib/modules/RELEASE
}

// newest asks for the newest kernel Debian has.
const newest = "newest"

// suitesFor tells where to look for kernels of a series.
func suitesFor(series string) []suite {
	debian, security := "debian", "debian-security"
	switch {
	case hasSeries(series, "5.10"):
		return []suite{{debian, "bullseye"}, {security, "bullseye-security"}}
	case hasSeries(series, "6.1"):
		return []suite{{debian, "bookworm"}, {security, "bookworm-security"}}
	case hasSeries(series, "6.12"):
		return []suite{{debian, "bookworm-backports"}, {debian, "trixie"}, {security, "trixie-security"}}
	default: // 6.16 and on: trixie-backports keeps old ones, sid has the newest
		return []suite{{debian, "trixie-backports"}, {debian, "sid"}}
	}
}

// hasSeries says whether version is of the series: "6.1.0-50" is of "6.1",
// "6.12.90" is not.
func hasSeries(version, series string) bool {
	rest, ok := strings.CutPrefix(version, series)
	return ok && (rest == "" || strings.ContainsRune(".-+", rune(rest[0])))
}

// fetchKernel finds the newest kernel of a series ("6.1", "6.12.90", "newest"),
// and downloads and unpacks it unless the cache holds it. What a series resolved
// to is remembered as long as package lists are good for.
func fetchKernel(ctx context.Context, cache, series string, refresh bool, log func(string, ...any)) (*kernel, error) {
	if series != newest && !regexp.MustCompile(`^\d+\.\d+[-+.~\w]*$`).MatchString(series) {
		return nil, fmt.Errorf(`kernel %q: want a series such as 5.10, 6.1, 6.12.90, or "newest"`, series)
	}
	memory := filepath.Join(cache, "kernels", series+".json")
	if info, err := os.Stat(memory); err == nil && !refresh && time.Since(info.ModTime()) < listsAge {
		if k := readKernel(memory); k != nil {
			return k, nil
		}
	}
	suites := suitesFor(series)
	key := strings.ReplaceAll(suiteNames(suites), ", ", "+")
	archive := newApt(filepath.Join(cache, "apt", key), suites, log)
	if err := archive.refresh(ctx, refresh); err != nil {
		return nil, err
	}
	packages, err := archive.search(ctx, `^linux-(image|binary|binary-unsigned|modules)-[0-9].*-cloud-amd64$`)
	if err != nil {
		return nil, err
	}
	release, wanted := pickKernel(packages, series, func(a, b string) bool { return newer(ctx, a, b) })
	if release == "" {
		return nil, fmt.Errorf("no kernel %s in %s of %s; try -refresh", series, suiteNames(suites), mirror())
	}
	k, err := unpackKernel(ctx, archive, filepath.Join(cache, "kernels"), release, wanted, log)
	if err != nil {
		return nil, fmt.Errorf("kernel %s: %w", release, err)
	}
	text, err := json.Marshal(k)
	if err != nil {
		return nil, err
	}
	return k, os.WriteFile(memory, text, 0o644)
}

func readKernel(memory string) *kernel {
	text, err := os.ReadFile(memory)
	if err != nil {
		return nil
	}
	var k kernel
	if json.Unmarshal(text, &k) != nil {
		return nil
	}
	if _, err := os.Stat(k.Vmlinux); err != nil {
		return nil // the cache was cleared or moved
	}
	return &k
}

// pickKernel picks the newest complete kernel of the series among packages,
// and the packages it is made of. Up to 6.18 linux-image-R holds all; later it
// is linux-binary-R (or -unsigned, before the signed one is out; nothing here
// checks signatures) and linux-modules-R.
func pickKernel(packages []debianPackage, series string, newer func(a, b string) bool) (string, []debianPackage) {
	type parts struct{ image, binary, unsigned, modules *debianPackage }
	releases := map[string]*parts{}
	for i := range packages {
		p := &packages[i]
		for _, kind := range []string{"linux-image-", "linux-binary-unsigned-", "linux-binary-", "linux-modules-"} {
			release, ok := strings.CutPrefix(p.name, kind)
			if !ok {
				continue
			}
			if releases[release] == nil {
				releases[release] = &parts{}
			}
			r := releases[release]
			switch kind {
			case "linux-image-":
				r.image = p
			case "linux-binary-unsigned-":
				r.unsigned = p
			case "linux-binary-":
				r.binary = p
			default:
				r.modules = p
			}
			break
		}
	}
	var best string
	var bestParts []debianPackage
	for _, release := range sortedKeys(releases) {
		if series != newest && !hasSeries(release, series) {
			continue
		}
		r := releases[release]
		var wanted []debianPackage
		switch {
		case r.binary != nil && r.modules != nil:
			wanted = []debianPackage{*r.binary, *r.modules}
		case r.unsigned != nil && r.modules != nil:
			wanted = []debianPackage{*r.unsigned, *r.modules}
		case r.image != nil && r.binary == nil && r.unsigned == nil:
			wanted = []debianPackage{*r.image}
		default:
			continue // half of it has left the archive
		}
		if best == "" || newer(wanted[0].version, bestParts[0].version) {
			best, bestParts = release, wanted
		}
	}
	return best, bestParts
}

func unpackKernel(ctx context.Context, archive *apt, dir, release string, packages []debianPackage, log func(string, ...any)) (*kernel, error) {
	k := &kernel{Release: release, Version: packages[0].version, Vmlinux: filepath.Join(dir, release, "vmlinux"),
		Modules: filepath.Join(dir, release, "modules")}
	if _, err := os.Stat(k.Vmlinux); err == nil {
		return k, nil
	}
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return nil, err
	}
	work, err := os.MkdirTemp(dir, ".unpack-*")
	if err != nil {
		return nil, err
	}
	defer os.RemoveAll(work)
	log("downloading kernel %s", release)
	debs, err := archive.download(ctx, filepath.Join(work, "debs"), packages)
	if err != nil {
		return nil, err
	}
	log("unpacking kernel %s", release)
	tree := filepath.Join(work, "tree")
	for _, deb := range debs {
		if err := unpackDeb(ctx, deb, tree); err != nil {
			return nil, err
		}
	}
	// Older packages have boot/vmlinuz-R and lib/modules/R; later ones keep
	// both in usr/lib/modules/R.
	image, err := firstThatExists(filepath.Join(tree, "boot", "vmlinuz-"+release),
		filepath.Join(tree, "usr/lib/modules", release, "vmlinuz"),
		filepath.Join(tree, "usr/lib/modules", release, "vmlinuz.unsigned"))
	if err != nil {
		return nil, err
	}
	modules, err := firstThatExists(filepath.Join(tree, "lib/modules", release), filepath.Join(tree, "usr/lib/modules", release))
	if err != nil {
		return nil, err
	}
	text, err := os.ReadFile(image)
	if err != nil {
		return nil, err
	}
	elf, err := extractVmlinux(text)
	if err != nil {
		return nil, fmt.Errorf("extract vmlinux: %w", err)
	}
	ready := filepath.Join(work, "ready")
	if err := os.MkdirAll(ready, 0o755); err != nil {
		return nil, err
	}
	if err := os.WriteFile(filepath.Join(ready, "vmlinux"), elf, 0o644); err != nil {
		return nil, err
	}
	if err := os.Rename(modules, filepath.Join(ready, "modules")); err != nil {
		return nil, err
	}
	if err := os.RemoveAll(filepath.Join(dir, release)); err != nil {
		return nil, err
	}
	return k, os.Rename(ready, filepath.Join(dir, release))
}

func firstThatExists(paths ...string) (string, error) {
	for _, p := range paths {
		if _, err := os.Stat(p); err == nil {
			return p, nil
		}
	}
	return "", errors.New("not in the package: " + strings.Join(paths, " or "))
}
