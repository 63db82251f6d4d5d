package main

import (
	"bufio"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
)

// A cache keeps what was measured, a file for each build, since measuring takes long.
// It is out of date only when the program changes, or another package is read, and
// its first line tells: a version never changes.
type cache struct{ dir string }

func (c cache) path(b build) string {
	name := strings.NewReplacer("/", "_", "\\", "_").Replace(b.module.path)
	return filepath.Join(c.dir, name, b.version+"_"+b.golang+"_"+b.arch)
}

// load gives what was kept, nil if nothing was.
func (c cache) load(b build) (fields, error) {
	f, err := os.Open(c.path(b))
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	defer func() { _ = f.Close() }()
	s := bufio.NewScanner(f)
	if !s.Scan() {
		return nil, s.Err()
	}
	head := strings.Fields(s.Text())
	if len(head) == 0 || head[0] != b.module.digest() || !covers(head[1:], b.module.packages()) {
		return nil, nil
	}
	all := fields{}
	for s.Scan() {
		var name, kind string
		var m member
		if _, err := fmt.Sscanf(s.Text(), "%s %d %s", &name, &m.Offset, &kind); err != nil {
			return nil, fmt.Errorf("%s: line %q: %w; remove the file", f.Name(), s.Text(), err)
		}
		m.Pointer = kind == "pointer"
		all[name] = m
	}
	return all, s.Err()
}

func covers(have, want []string) bool {
	return !slices.ContainsFunc(want, func(p string) bool { return !slices.Contains(have, p) })
}

// store keeps what was measured; a file is there whole, or not at all.
func (c cache) store(b build, f fields) error {
	path := c.path(b)
	if err := os.MkdirAll(filepath.Dir(path), 0o750); err != nil {
		return err
	}
	tmp, err := os.CreateTemp(filepath.Dir(path), ".new-")
	if err != nil {
		return err
	}
	defer func() { _ = os.Remove(tmp.Name()) }()
	w := bufio.NewWriter(tmp)
	_, err = fmt.Fprintln(w, b.module.digest(), strings.Join(b.module.packages(), " "))
	if err := errors.Join(err, f.dump(w), w.Flush(), tmp.Close()); err != nil {
		return err
	}
	return os.Rename(tmp.Name(), path)
}
