// Command table rewrites docs/kernels.md from what runs of the end-to-end tests
// left in bin/results. Runs that are not there keep the rows they have.
package main

import (
	"errors"
	"flag"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
)

func main() {
	results := flag.String("results", "bin/results", "folder with one folder KERNEL-CAPTURE for each run")
	out := flag.String("out", "docs/kernels.md", "the table to rewrite")
	flag.Parse()
	if err := update(*results, *out); err != nil {
		fmt.Fprintf(os.Stderr, "table: %v\n", err)
		os.Exit(1)
	}
}

// update merges the runs in the folder results into the page out, and writes
// nothing unless all of it could be read.
func update(results, out string) error {
	old, err := os.ReadFile(out)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("read the old table: %w", err)
	}
	kept, err := parsePage(string(old))
	if err != nil {
		return fmt.Errorf("read the runs kept in %s: %w: restore the file from git, or delete it to begin anew", out, err)
	}
	fresh, err := readRuns(results)
	if err != nil {
		return err
	}
	page, err := renderPage(merge(kept, fresh))
	if err != nil {
		return err
	}
	return replace(out, page)
}

// replace writes a file as a whole or not at all.
func replace(file, text string) (err error) {
	f, err := os.CreateTemp(filepath.Dir(file), "."+filepath.Base(file)+"-*")
	if err != nil {
		return fmt.Errorf("write %s: %w", file, err)
	}
	defer func() {
		if err != nil {
			err = errors.Join(err, os.Remove(f.Name()))
		}
	}()
	_, err = f.WriteString(text)
	if err = errors.Join(err, f.Chmod(0o644), f.Close()); err != nil {
		return fmt.Errorf("write %s: %w", file, err)
	}
	return os.Rename(f.Name(), file)
}
