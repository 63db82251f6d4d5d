package main

import (
	"context"
	"errors"
	"fmt"
	goversion "go/version"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"

	"golang.org/x/mod/semver"

	"weft/loader/gobin/offsets"
)

// compare orders the versions of a module.
func (m module) compare(a, b string) int {
	if m.path == offsets.Std {
		return goversion.Compare(a, b)
	}
	return semver.Compare(a, b)
}

func (m module) minor(v string) string {
	if m.path == offsets.Std {
		return goversion.Lang(v)
	}
	return semver.MajorMinor(v)
}

// lists asks which versions there are. Each answer is kept, for when there is no
// network.
type lists struct {
	dir   string
	log   io.Writer
	known map[string]string
}

// list runs go list -m, once for the same arguments.
func (l *lists) list(ctx context.Context, args ...string) (string, error) {
	asked := strings.Join(args, " ")
	if answer, ok := l.known[asked]; ok {
		return answer, nil
	}
	kept := filepath.Join(l.dir, "list "+strings.ReplaceAll(asked, "/", "_"))
	out, err := golang(ctx, os.TempDir(), []string{"GOTOOLCHAIN=local"}, append([]string{"list", "-m"}, args...)...)
	if err == nil {
		err = errors.Join(os.MkdirAll(l.dir, 0o750), os.WriteFile(kept, out, 0o600))
	} else if old, absent := os.ReadFile(kept); absent == nil && ctx.Err() == nil { // #nosec G304 -- a file of its own
		_, _ = fmt.Fprintf(l.log, "as when last asked: %v\n", err)
		out, err = old, nil
	}
	if err != nil {
		return "", err
	}
	l.known[asked] = string(out)
	return string(out), nil
}

// versions are those there are of a module, in order.
func (l *lists) versions(ctx context.Context, m module) ([]string, error) {
	var all []string
	var err error
	switch {
	case m.path == offsets.Std:
		all, err = l.releases(ctx)
	case m.required:
		all, err = l.requiredByGRPC(ctx, m)
	default:
		all, err = l.listed(ctx, m.path)
		all = append(all, m.more...)
	}
	if err != nil {
		return nil, err
	}
	all = slices.DeleteFunc(all, func(v string) bool {
		return m.first != "" && m.compare(v, m.first) < 0 || m.before != "" && m.compare(v, m.before) >= 0
	})
	slices.SortFunc(all, m.compare)
	all = slices.Compact(all)
	if len(all) == 0 {
		return nil, fmt.Errorf("no versions from %s on", m.first)
	}
	return all, nil
}

// listed are the releases of a module.
func (l *lists) listed(ctx context.Context, path string) ([]string, error) {
	out, err := l.list(ctx, "-versions", path)
	if err != nil {
		return nil, err
	}
	all := strings.Fields(out)
	return slices.DeleteFunc(all[1:], func(v string) bool { return path != "go" && semver.Prerelease(v) != "" }), nil
}

// releases are those of Go, with the first of each minor version: a proxy lists
// only those that were asked for before.
func (l *lists) releases(ctx context.Context) ([]string, error) {
	found, err := l.listed(ctx, "go")
	if err != nil {
		return nil, err
	}
	var all []string
	for minor := oldestMinor; minor <= newestMinor; minor++ {
		v := "go1." + strconv.Itoa(minor)
		if minor >= 21 {
			v += ".0"
		}
		all = append(all, v)
	}
	for _, v := range found {
		v = "go" + v
		minor, err := strconv.Atoi(strings.TrimPrefix(goversion.Lang(v), "go1."))
		if err != nil || minor < oldestMinor || minor > newestMinor || strings.Contains(v, "rc") || strings.Contains(v, "beta") {
			continue
		}
		all = append(all, v)
	}
	return all, nil
}

// requiredByGRPC are the versions of a module that the releases of grpc require,
// and its latest.
func (l *lists) requiredByGRPC(ctx context.Context, m module) ([]string, error) {
	releases, err := l.listed(ctx, grpc)
	if err != nil {
		return nil, err
	}
	out, err := l.list(ctx, m.path+"@latest")
	if err != nil {
		return nil, err
	}
	_, latest, _ := strings.Cut(strings.TrimSpace(out), " ")
	all := []string{latest}
	for _, v := range releases {
		if semver.Compare(v, "v1.40.0") < 0 {
			continue
		}
		r, err := requirements(ctx, grpc, v)
		if err != nil {
			return nil, err
		}
		for _, q := range r.Require {
			if q.Path == m.path {
				all = append(all, q.Version)
			}
		}
	}
	return all, nil
}

// beside is what all versions of grpc are built with: what the newest requires, and
// the newest of what only older ones do. Compiling it for each takes most of the time.
func (l *lists) beside(ctx context.Context, m module, newest string) ([]string, error) {
	if m.path != grpc {
		return nil, nil
	}
	r, err := requirements(ctx, m.path, newest)
	if err != nil {
		return nil, err
	}
	var all []string
	for _, q := range r.Require {
		all = append(all, q.Path+" "+q.Version)
	}
	for _, path := range []string{"github.com/golang/protobuf", genproto} {
		out, err := l.list(ctx, path+"@latest")
		if err != nil {
			return nil, err
		}
		all = append(all, strings.TrimSpace(out))
	}
	return all, nil
}

// sample are the versions to begin with, by index: the first and the last of each
// minor version of Go, which are years of patches apart; else the first and the last.
func (m module) sample(all []string) []int {
	var ends []int
	var minor string
	for i, v := range all {
		first := i == 0 || m.path == offsets.Std && m.minor(v) != minor
		if first && i > 0 && (len(ends) == 0 || ends[len(ends)-1] != i-1) {
			ends = append(ends, i-1) // the last of the minor version before
		}
		if first {
			ends = append(ends, i)
		}
		minor = m.minor(v)
	}
	if n := len(all) - 1; len(ends) > 0 && ends[len(ends)-1] != n {
		ends = append(ends, n)
	}
	return ends
}
