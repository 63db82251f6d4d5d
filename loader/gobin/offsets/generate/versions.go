package main

import (
	"context"
	"fmt"
	goversion "go/version"
	"os"
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

// versions are those there are, in order.
func (m module) versions(ctx context.Context) ([]string, error) {
	var all []string
	var err error
	switch {
	case m.path == offsets.Std:
		all, err = releases(ctx)
	case m.required:
		all, err = requiredByGRPC(ctx, m)
	default:
		all, err = listed(ctx, m.path)
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
func listed(ctx context.Context, path string) ([]string, error) {
	out, err := golang(ctx, os.TempDir(), nil, "list", "-m", "-versions", path)
	if err != nil {
		return nil, err
	}
	all := strings.Fields(string(out))
	return slices.DeleteFunc(all[1:], func(v string) bool { return path != "go" && semver.Prerelease(v) != "" }), nil
}

// releases are those of Go, with the first of each minor version: a proxy lists
// only those that were asked for before.
func releases(ctx context.Context) ([]string, error) {
	found, err := listed(ctx, "go")
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
func requiredByGRPC(ctx context.Context, m module) ([]string, error) {
	releases, err := listed(ctx, grpc)
	if err != nil {
		return nil, err
	}
	out, err := golang(ctx, os.TempDir(), nil, "list", "-m", m.path+"@latest")
	if err != nil {
		return nil, err
	}
	_, latest, _ := strings.Cut(strings.TrimSpace(string(out)), " ")
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

// sample are the versions to begin with, by index: the first and the last of each
// minor version of Go, which are years of patches apart; else the first and the last.
func (m module) sample(all []string) []int {
	var ends []int
	for i, v := range all {
		first := i == 0 || m.path == offsets.Std && m.minor(all[i-1]) != m.minor(v)
		last := i == len(all)-1 || m.path == offsets.Std && m.minor(all[i+1]) != m.minor(v)
		if first || last {
			ends = append(ends, i)
		}
	}
	return ends
}
