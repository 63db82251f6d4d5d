package gobin

import (
	"bytes"
	"encoding/binary"
	"errors"
	"math/rand/v2"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"testing"
	"time"
)

// TestNotGo: what is none is said to be none, on one line.
func TestNotGo(t *testing.T) {
	script := filepath.Join(t.TempDir(), "script")
	if err := os.WriteFile(script, []byte("#!/bin/sh\n"), 0o700); err != nil {
		t.Fatal(err)
	}
	var not *NotGoError
	if _, err := Analyze("/bin/true"); !errors.As(err, &not) || strings.Contains(err.Error(), "\n") {
		t.Errorf("/bin/true: %v", err)
	}
	for _, path := range []string{script, t.TempDir(), "/nonexistent"} {
		if _, err := Analyze(path); err == nil || !strings.Contains(err.Error(), path) || strings.Contains(err.Error(), "\n") {
			t.Errorf("%s: %v", path, err)
		}
	}
}

// TestDamaged: a file cut short or with wrong bytes costs neither a panic nor much
// time or memory, and no probe of it lies outside of its code.
func TestDamaged(t *testing.T) {
	path := build(t, "http", nil)
	whole, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	bare, err := os.ReadFile(strip(t, path, true))
	if err != nil {
		t.Fatal(err)
	}
	random := rand.New(rand.NewPCG(1, 2)) // the same each time
	out := filepath.Join(t.TempDir(), "damaged")
	table := int(imageOf(t, path).elf.Section(".gopclntab").Offset)
	for n := range 300 {
		data := whole
		if n%2 == 1 {
			data = bare
		}
		data = bytes.Clone(data)
		switch n % 6 {
		case 0, 1:
			data = data[:random.IntN(len(data))]
		case 2, 3: // headers
			for range 4 {
				binary.LittleEndian.PutUint32(data[random.IntN(1024)&^3:], random.Uint32()>>random.IntN(32))
			}
		case 4: // headers of sections
			start := binary.LittleEndian.Uint64(data[0x28:])
			for range 4 {
				binary.LittleEndian.PutUint64(data[start+8*random.Uint64N((uint64(len(data))-start)/8):], random.Uint64()>>random.IntN(64))
			}
		case 5: // the table of functions
			for range 2 {
				binary.LittleEndian.PutUint32(data[table+random.IntN(72)&^3:], random.Uint32()>>random.IntN(32))
			}
		}
		if err := os.WriteFile(out, data, 0o700); err != nil {
			t.Fatal(err)
		}
		var before, after runtime.MemStats
		runtime.ReadMemStats(&before)
		began := time.Now()
		b, err := Analyze(out)
		runtime.ReadMemStats(&after)
		if took, used := time.Since(began), after.TotalAlloc-before.TotalAlloc; took > 30*time.Second || used > 2*maxRead {
			t.Errorf("round %d: %v, %d MiB", n, took, used>>20)
		}
		if err != nil {
			if strings.Contains(err.Error(), "\n") {
				t.Errorf("round %d: %v", n, err)
			}
			continue
		}
		for _, p := range b.Probes {
			if p.Offset >= uint64(len(data)) {
				t.Errorf("round %d: %v lies behind the end of the file", n, p.Site)
			}
		}
	}
}

// TestMisplaced: a table of functions that is off by some bytes leads to no probe.
func TestMisplaced(t *testing.T) {
	path := build(t, "http", toolchain(oldest))
	data, err := os.ReadFile(strip(t, path, true))
	if err != nil {
		t.Fatal(err)
	}
	table := imageOf(t, path).elf.Section(".gopclntab").Offset
	start := data[table+24:] // where the code begins
	binary.LittleEndian.PutUint64(start, binary.LittleEndian.Uint64(start)+3)
	out := filepath.Join(t.TempDir(), "misplaced")
	if err := os.WriteFile(out, data, 0o700); err != nil {
		t.Fatal(err)
	}
	b := analysed(t, out)
	if len(b.Probes) > 0 || len(b.Problems) == 0 {
		t.Errorf("%d probes, problems %v", len(b.Probes), b.Problems)
	}
}
