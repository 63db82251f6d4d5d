package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"strings"
	"time"

	"weft/loader/gobin/field"
	"weft/loader/gobin/offsets"
)

// handful are the builds that are cheap to measure anew: with the Go that is here
// and with the oldest, and a version of each module.
func handful(ctx context.Context) ([]build, error) {
	out, err := golang(ctx, os.TempDir(), []string{"GOTOOLCHAIN=local"}, "env", "GOVERSION")
	if err != nil {
		return nil, err
	}
	version := map[string]string{
		offsets.Std: "go1.19",
		xnet:        "v0.17.0",
		grpc:        "v1.60.1",
		genproto:    "v0.0.0-20221118155620-16455021b5e6",
		rpc:         "v0.0.0-20230822172742-b8732ec3820d",
		chi:         "v5.0.8",
		oldChi:      "v1.5.5",
		gin:         "v1.9.1",
		mux:         "v1.8.0",
	}
	var all []build
	for _, m := range modules() {
		b := build{module: m, version: version[m.path], golang: "local", arch: "amd64"}
		if m.path == offsets.Std {
			if here := strings.TrimSpace(string(out)); covered(here) {
				all = append(all, build{module: m, version: here, golang: "local", arch: "amd64"})
			}
			b.golang = b.version
		}
		all = append(all, b)
	}
	return all, nil
}

// covered tells whether the table knows a version of Go.
func covered(version string) bool {
	at := field.GGoid.Locations()[0]
	return offsets.Lookup(at, offsets.Versions{Go: version}).Exact
}

// verify measures a build anew and says what the table has otherwise.
func (b build) verify(ctx context.Context) error {
	f, err := b.fields(ctx)
	if err != nil {
		return fmt.Errorf("%s: %w", b, err)
	}
	in := offsets.Versions{Go: b.version}
	if b.module.path != offsets.Std {
		in = offsets.Versions{Modules: map[string]string{b.module.path: b.version}}
	}
	var errs []error
	for _, at := range b.module.locations() {
		got := offsets.Lookup(at, in)
		offset, present := f.lookup(at)
		if !got.Exact || got.Present != present || present && int64(got.Offset) != offset {
			errs = append(errs, fmt.Errorf("%s: %s.%s.%s: the table has %+v, the program %d, %v: make offsets", b, at.Package, at.Struct, at.Path, got, offset, present))
		}
	}
	return errors.Join(errs...)
}

// check verifies a handful; everything that differs is in the error.
func check(ctx context.Context, log io.Writer) error {
	builds, err := handful(ctx)
	if err != nil {
		return err
	}
	var errs []error
	for _, b := range builds {
		begun := time.Now()
		if err := b.verify(ctx); err != nil {
			errs = append(errs, err)
			continue
		}
		_, _ = fmt.Fprintf(log, "%s: as in the table, %.1f s\n", b, time.Since(begun).Seconds())
	}
	return errors.Join(errs...)
}
