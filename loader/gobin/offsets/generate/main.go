// Command generate writes the table of package offsets: it builds a small program
// with each version of Go and of the modules that weft knows, reads its DWARF, and
// notes where the fields are. See README.md.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"os"
	"os/signal"
	"path/filepath"
	"syscall"
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	if err := run(ctx); err != nil {
		_, _ = fmt.Fprintln(os.Stderr, "generate:", err)
		os.Exit(1)
	}
}

func run(ctx context.Context) error {
	user, err := os.UserCacheDir()
	if err != nil {
		user = os.TempDir()
	}
	out := flag.String("o", "table.tsv", "the table to write")
	dir := flag.String("cache", filepath.Join(user, "weft-offsets"), "what was measured is kept here")
	every := flag.Bool("every", false, "measure every version, also between two that are equal; takes hours")
	only := flag.String("only", "", "measure this module, print its rows, write no table")
	verify := flag.Bool("check", false, "measure a handful anew and compare them with the table")
	flag.Parse()
	if flag.NArg() > 0 {
		return fmt.Errorf("%q: no arguments are expected", flag.Args())
	}
	// Others work on this machine too.
	if err := syscall.Setpriority(syscall.PRIO_PROCESS, 0, 10); err != nil {
		return fmt.Errorf("lower own priority: %w", err)
	}
	if *verify {
		return check(ctx, os.Stderr)
	}
	g := generator{
		cache: cache{dir: *dir},
		lists: &lists{dir: *dir, log: os.Stderr, known: map[string]string{}},
		every: *every,
		log:   os.Stderr,
	}
	var rows []string
	found := *only == ""
	for _, m := range modules() {
		if *only != "" && m.path != *only {
			continue
		}
		found = true
		r, err := g.module(ctx, m)
		if err != nil {
			return fmt.Errorf("%s: %w", m.path, err)
		}
		rows = append(rows, r...)
	}
	if !found {
		return fmt.Errorf("-only %s: no such module: see modules.go", *only)
	}
	if *only != "" {
		return errors.Join(write(os.Stdout, rows), ctx.Err())
	}
	return replace(*out, rows)
}
