// Command prebuild builds the Go programs under test for a machine without Go:
//
//	go run ./test/e2e/variant/prebuild APPS CACHE OUT
//
// It leaves each in OUT under its name.
package main

import (
	"context"
	"fmt"
	"io"
	"os"
	"path/filepath"

	"weft/test/e2e/variant"
)

func main() {
	if len(os.Args) != 4 {
		fmt.Fprintln(os.Stderr, "usage: prebuild APPS CACHE OUT")
		os.Exit(2)
	}
	b := variant.Builder{Apps: os.Args[1], Cache: os.Args[2], Log: func(s string) { fmt.Fprintln(os.Stderr, "prebuild:", s) }}
	for _, v := range variant.Guest() {
		if err := place(b, v, filepath.Join(os.Args[3], v.Name())); err != nil {
			fmt.Fprintln(os.Stderr, "prebuild:", err)
			os.Exit(1)
		}
	}
}

func place(b variant.Builder, v variant.Variant, to string) error {
	from, err := b.Build(context.Background(), v)
	if err != nil {
		return err
	}
	in, err := os.Open(from)
	if err != nil {
		return err
	}
	defer in.Close()
	out, err := os.OpenFile(to+".new", os.O_CREATE|os.O_TRUNC|os.O_WRONLY, 0o755)
	if err != nil {
		return err
	}
	if _, err := io.Copy(out, in); err != nil {
		return fmt.Errorf("copy to %s: %w", to, err)
	}
	if err := out.Close(); err != nil {
		return err
	}
	return os.Rename(to+".new", to)
}
