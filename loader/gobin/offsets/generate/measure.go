package main

import (
	"context"
	"fmt"
	goversion "go/version"
	"io"
	"strconv"
	"time"

	"weft/loader/gobin/field"
	"weft/loader/gobin/offsets"
)

// A generator measures versions, each once.
type generator struct {
	cache cache
	lists *lists
	every bool // also where the versions on both sides are equal
	log   io.Writer
}

// place is where a field was found.
type place struct {
	offset  uint16
	present bool
}

// layout is where all fields of a module are, in the order of its locations.
type layout []place

func (l layout) equal(other layout) bool {
	for i := range l {
		if l[i] != other[i] {
			return false
		}
	}
	return true
}

// module gives the rows of a module.
func (g generator) module(ctx context.Context, m module) ([]string, error) {
	all, err := g.lists.versions(ctx, m)
	if err != nil {
		return nil, err
	}
	beside, err := g.lists.beside(ctx, m, all[len(all)-1])
	if err != nil {
		return nil, err
	}
	measured := map[int]layout{}
	at := func(i int) (layout, error) {
		if l, ok := measured[i]; ok {
			return l, nil
		}
		with, err := g.toolchain(ctx, m, all[i])
		if err != nil {
			return nil, err
		}
		l, err := g.layout(ctx, build{m, all[i], with, "amd64", beside})
		if err == nil {
			measured[i] = l
		}
		return l, err
	}
	sample := m.sample(all)
	if g.every {
		sample = sample[:0]
		for i := range all {
			sample = append(sample, i)
		}
	}
	for n, i := range sample {
		if _, err := at(i); err != nil {
			return nil, err
		}
		if n > 0 {
			if err := bisect(sample[n-1], i, at); err != nil {
				return nil, err
			}
		}
	}
	if err := g.prove(ctx, m, all, measured, beside); err != nil {
		return nil, err
	}
	return m.rows(all, measured), nil
}

// bisect measures until the layouts of low and high are equal or nothing is between.
func bisect(low, high int, at func(int) (layout, error)) error {
	a, err := at(low)
	if err != nil {
		return err
	}
	b, err := at(high)
	if err != nil || a.equal(b) || high-low < 2 {
		return err
	}
	middle := low + (high-low)/2
	if err := bisect(low, middle, at); err != nil {
		return err
	}
	return bisect(middle, high, at)
}

// layout measures a build, or finds it measured.
func (g generator) layout(ctx context.Context, b build) (layout, error) {
	f, err := g.cache.load(b)
	if err != nil {
		return nil, err
	}
	if f == nil {
		begun := time.Now()
		if f, err = b.fields(ctx); err != nil {
			return nil, fmt.Errorf("%s: %w", b, err)
		}
		if err := g.cache.store(b, f); err != nil {
			return nil, fmt.Errorf("keep %s: %w", b, err)
		}
		_, _ = fmt.Fprintf(g.log, "%s: %d fields, %.1f s\n", b, len(f), time.Since(begun).Seconds())
	}
	l, err := b.module.layout(f)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", b, err)
	}
	return l, nil
}

// layout picks what the list of fields names.
func (m module) layout(f fields) (layout, error) {
	var l layout
	for _, at := range m.locations() {
		offset, present := f.lookup(at)
		if offset < 0 || offset >= field.Unknown {
			return nil, fmt.Errorf("%s.%s.%s is at %d: too far for the table", at.Package, at.Struct, at.Path, offset)
		}
		l = append(l, place{uint16(offset), present})
	}
	return l, nil
}

// toolchain chooses the version of Go that a version is measured with: its own, or
// the newest that is in the table.
func (g generator) toolchain(ctx context.Context, m module, version string) (string, error) {
	if m.path == offsets.Std {
		return version, nil
	}
	all, err := g.lists.releases(ctx)
	if err != nil {
		return "", err
	}
	newest := all[0]
	for _, v := range all {
		if goversion.Compare(v, newest) > 0 {
			newest = v
		}
	}
	return newest, nil
}

// prove measures some versions in other ways, which must change nothing: what the
// table says is for both architectures, and for every Go a module is built with.
func (g generator) prove(ctx context.Context, m module, all []string, measured map[int]layout, beside []string) error {
	for i := range all {
		l, ok := measured[i]
		if !ok {
			continue
		}
		ends := i == 0 || i == len(all)-1
		before, known := measured[i-1]
		changed := known && !before.equal(l)
		if !ends && (!changed || !g.every) {
			continue
		}
		newest, err := g.toolchain(ctx, m, all[i])
		if err != nil {
			return err
		}
		if ends {
			if err := g.same(ctx, build{m, all[i], newest, "arm64", beside}, l); err != nil {
				return err
			}
		}
		if m.path == offsets.Std {
			continue
		}
		oldest, err := m.oldest(ctx, all[i])
		if err != nil {
			return err
		}
		if err := g.same(ctx, build{m, all[i], oldest, "amd64", nil}, l); err != nil {
			return err
		}
	}
	return nil
}

// same fails unless a build has this layout.
func (g generator) same(ctx context.Context, b build, want layout) error {
	got, err := g.layout(ctx, b)
	if err != nil {
		return err
	}
	for i, at := range b.module.locations() {
		if got[i] != want[i] {
			return fmt.Errorf("%s: %s.%s.%s is at %+v, elsewhere at %+v: the table has no column for that", b, at.Package, at.Struct, at.Path, got[i], want[i])
		}
	}
	return nil
}

// oldest is the oldest Go in the table that builds a version.
func (m module) oldest(ctx context.Context, version string) (string, error) {
	v := "go1." + strconv.Itoa(oldestMinor)
	directive, err := goDirective(ctx, m.path, version)
	if err != nil {
		return "", err
	}
	if goversion.Compare(directive, v) > 0 {
		v = directive
	}
	if goversion.Lang(v) == v && goversion.Compare(v, "go1.21") >= 0 {
		v += ".0"
	}
	return v, nil
}
