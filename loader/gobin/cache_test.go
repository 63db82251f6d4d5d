package gobin

import (
	"bytes"
	"fmt"
	"os"
	"path/filepath"
	"sync"
	"testing"
)

func cached(t *testing.T, c *Cache, path string) *Binary {
	t.Helper()
	f, err := os.Open(path)
	if err != nil {
		t.Error(err)
		return nil
	}
	defer f.Close()
	b, err := c.Analyze(f, path)
	if err != nil {
		t.Error(err)
	}
	return b
}

// TestCache: a binary in ten containers is analysed once, at the same time too; what
// differs from it where it matters is not taken for it.
func TestCache(t *testing.T) {
	data, err := os.ReadFile(build(t, "http", nil))
	if err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	put := func(name string, data []byte) string {
		path := filepath.Join(dir, name)
		if err := os.WriteFile(path, data, 0o700); err != nil {
			t.Fatal(err)
		}
		return path
	}
	var paths []string
	for n := range 10 {
		paths = append(paths, put(fmt.Sprint("copy", n), data))
	}
	c := NewCache(64)
	first := cached(t, c, paths[0])
	var all sync.WaitGroup
	for range 4 {
		for _, path := range paths {
			all.Go(func() {
				if b := cached(t, c, path); b != first {
					t.Errorf("%s has an analysis of its own", path)
				}
			})
		}
	}
	all.Wait()
	if n := c.Analysed(); n != 1 {
		t.Fatalf("%d files were analysed, want 1", n)
	}

	// Same size, same first page with the same build ID, other code.
	other := bytes.Clone(data)
	site := first.Probes[0]
	other[site.Offset]++
	if b := cached(t, c, put("other", other)); b == first || c.Analysed() != 2 {
		t.Errorf("a file with other code was taken for a copy")
	}
	// Written over, it is another file.
	put("copy3", other)
	if b := cached(t, c, paths[3]); b == first {
		t.Error("a file that was written over is remembered as it was")
	}
	// No Go program is remembered as well.
	for range 3 {
		f, err := os.Open("/bin/true")
		if err != nil {
			t.Fatal(err)
		}
		before := c.Analysed()
		if _, err := c.Analyze(f, "/bin/true"); err == nil {
			t.Error("/bin/true is taken for a Go program")
		}
		f.Close()
		if n := c.Analysed() - before; n > 1 {
			t.Errorf("read %d times", n)
		}
	}
}

// TestCacheIsBounded: it keeps as many as it may, the newest.
func TestCacheIsBounded(t *testing.T) {
	c := NewCache(3)
	dir := t.TempDir()
	for n := range 20 {
		path := filepath.Join(dir, fmt.Sprint(n))
		if err := os.WriteFile(path, fmt.Append(nil, "no program ", n), 0o600); err != nil {
			t.Fatal(err)
		}
		f, err := os.Open(path)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := c.Analyze(f, path); err == nil {
			t.Error("a text is taken for a program")
		}
		f.Close()
	}
	if len(c.inodes) != 3 || len(c.order) != 3 || len(c.copies) > 3 || c.Analysed() != 20 {
		t.Errorf("%d files, %d in order, %d alike, %d analysed", len(c.inodes), len(c.order), len(c.copies), c.Analysed())
	}
}
