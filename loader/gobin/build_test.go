package gobin

import (
	"bytes"
	"context"
	"debug/elf"
	"encoding/binary"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"sync"
	"testing"
	"time"
)

// oldest is the oldest toolchain supported; go downloads it from the module proxy.
const oldest = "go1.19.13"

// built are the programs that the tests have in common.
var built = struct {
	sync.Mutex
	dir   string
	paths map[string]string
}{paths: map[string]string{}}

func TestMain(m *testing.M) {
	dir, err := os.MkdirTemp("", "gobin")
	if err != nil {
		panic(err)
	}
	built.dir = dir
	status := m.Run()
	if err := os.RemoveAll(dir); err != nil {
		panic(err)
	}
	os.Exit(status)
}

// build is a program of testdata, built once. It is shared: copy it to change it.
func build(t *testing.T, program string, env []string, flags ...string) string {
	t.Helper()
	key := fmt.Sprint(program, env, flags)
	built.Lock()
	defer built.Unlock()
	if path, ok := built.paths[key]; ok {
		return path
	}
	out := filepath.Join(built.dir, strconv.Itoa(len(built.paths)), filepath.Base(program))
	ctx, cancel := context.WithTimeout(t.Context(), 8*time.Minute)
	defer cancel()
	c := exec.CommandContext(ctx, "go", append(append([]string{"build", "-o", out}, flags...), ".")...)
	c.Dir = filepath.Join("testdata", program) // which may lead out of it
	c.Env = append(os.Environ(), "GOFLAGS=-buildvcs=false", "CGO_ENABLED=0", "GOWORK=off",
		"GODEBUG=goindex=0") // go1.19 would not take a main module of files for one
	c.Env = append(c.Env, env...)
	if said, err := c.CombinedOutput(); err != nil {
		t.Fatalf("go build %s %v %v: %v\n%s", program, env, flags, err, said)
	}
	built.paths[key] = out
	return out
}

func toolchain(v string) []string { return []string{"GOTOOLCHAIN=" + v} }

func analysed(t *testing.T, path string) *Binary {
	t.Helper()
	b, err := Analyze(path)
	if err != nil {
		t.Fatal(err)
	}
	for _, a := range b.Absent {
		if a.Why == "" || bytes.ContainsRune([]byte(a.Why), '\n') {
			t.Errorf("%v is absent for the reason %q", a.Site, a.Why)
		}
	}
	return b
}

// strip is a copy without symbols and debugging information, all else in its place;
// without headers also without the headers of sections.
func strip(t *testing.T, path string, headers bool) string {
	t.Helper()
	data, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	f, err := elf.NewFile(bytes.NewReader(data))
	if err != nil {
		t.Fatal(err)
	}
	const headerSize, typeAt = 64, 4
	start := binary.LittleEndian.Uint64(data[0x28:])
	for n, s := range f.Sections {
		if s.Type == elf.SHT_SYMTAB || s.Type == elf.SHT_PROGBITS && len(s.Name) > 6 && s.Name[:6] == ".debug" {
			at := start + uint64(n)*headerSize + typeAt
			binary.LittleEndian.PutUint32(data[at:], uint32(elf.SHT_NULL))
			clear(data[s.Offset : s.Offset+s.FileSize])
		}
	}
	if !headers {
		clear(data[start : start+uint64(len(f.Sections))*headerSize])
		binary.LittleEndian.PutUint64(data[0x28:], 0)
		clear(data[0x3c:0x40]) // number of sections, and which has their names
	}
	out := filepath.Join(t.TempDir(), filepath.Base(path))
	if err := os.WriteFile(out, data, 0o700); err != nil {
		t.Fatal(err)
	}
	return out
}

func imageOf(t *testing.T, path string) *image {
	t.Helper()
	f, err := os.Open(path)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { f.Close() })
	i, err := openImage(f, f)
	if err != nil {
		t.Fatal(err)
	}
	return i
}
