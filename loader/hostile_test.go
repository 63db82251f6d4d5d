package loader

import (
	"bytes"
	"debug/elf"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"testing"
	"time"
)

// TestHostileELF: files that claim tables of terabytes cost neither memory nor time.
func TestHostileELF(t *testing.T) {
	const claimed = 1 << 40
	for name, edit := range map[string]func(h *elf.Header64, names, symbols *elf.Section64){
		"names of sections": func(_ *elf.Header64, names, _ *elf.Section64) { names.Size = claimed },
		"symbols":           func(_ *elf.Header64, _, symbols *elf.Section64) { symbols.Size = claimed },
		"number of sections": func(h *elf.Header64, names, _ *elf.Section64) {
			h.Shnum = 0 // the first section says it then
			names.Type, names.Size = uint32(elf.SHT_NULL), 1<<31
		},
		"compressed symbols": func(_ *elf.Header64, _, symbols *elf.Section64) { symbols.Flags = uint64(elf.SHF_COMPRESSED) },
	} {
		t.Run(name, func(t *testing.T) {
			path := hostileELF(t, edit)
			began := time.Now()
			allocated := func() uint64 {
				var m runtime.MemStats
				runtime.ReadMemStats(&m)
				return m.TotalAlloc
			}
			before := allocated()
			file, err := os.Open(path)
			if err != nil {
				t.Fatal(err)
			}
			defer file.Close()
			if f, err := elf.NewFile(&bounded{file, maxHeaders}); err == nil && f.Section(".go.buildinfo") != nil {
				t.Error("taken for a Go program")
			}
			// What the agent reads of a program that it traces; then what inspect does.
			if got := allocated() - before; got > 16*maxHeaders {
				t.Errorf("%d MiB were allocated for the headers", got>>20)
			}
			if took := time.Since(began); took > 30*time.Second {
				t.Errorf("it took %v", took)
			}
			b, err := InspectFile(path)
			var refused *BinaryError
			if err != nil && (!errors.As(err, &refused) || strings.Contains(err.Error(), "\n")) {
				t.Errorf("inspect: %v", err)
			}
			if err == nil && b.OpenSSL != "" {
				t.Errorf("symbols were made up: %+v", b)
			}
			if got, err := readBuild(path); err == nil {
				t.Errorf("build information was made up: %v", got)
			}
			if got := allocated() - before; got > 32*maxTables {
				t.Errorf("%d MiB were allocated, one buffer after the other", got>>20)
			}
		})
	}
}

// hostileELF is a file with holes of two terabytes, or as long as the file system
// allows, with two sections after the empty one.
func hostileELF(t *testing.T, edit func(h *elf.Header64, names, symbols *elf.Section64)) string {
	t.Helper()
	const headerSize, sectionSize = 64, 64
	h := elf.Header64{Type: uint16(elf.ET_EXEC), Machine: uint16(elf.EM_X86_64), Version: 1, Ehsize: headerSize,
		Shoff: headerSize, Shentsize: sectionSize, Shnum: 3, Shstrndx: 1, Phentsize: 56}
	copy(h.Ident[:], "\x7fELF\x02\x01\x01")
	names := elf.Section64{Type: uint32(elf.SHT_STRTAB), Off: 4096, Size: 1}
	symbols := elf.Section64{Type: uint32(elf.SHT_SYMTAB), Off: 8192, Size: 24, Entsize: 24, Link: 1}
	first := elf.Section64{}
	if edit(&h, &names, &symbols); names.Type == uint32(elf.SHT_NULL) {
		first, names = names, elf.Section64{Type: uint32(elf.SHT_STRTAB), Off: 4096, Size: 1}
	}
	var b bytes.Buffer
	for _, part := range []any{h, first, names, symbols} {
		if err := binary.Write(&b, binary.LittleEndian, part); err != nil {
			t.Fatal(err)
		}
	}
	path := filepath.Join(t.TempDir(), "hostile")
	if err := os.WriteFile(path, b.Bytes(), 0o755); err != nil {
		t.Fatal(err)
	}
	for size := int64(2) << 40; ; size /= 2 { // a file system may allow less
		err := os.Truncate(path, size)
		if err == nil {
			return path
		}
		if size < 1<<30 {
			t.Skipf("needs a file system with files of 1 GiB: %v", err)
		}
	}
}

// TestBounded: nothing is read beyond the bound, in however many steps.
func TestBounded(t *testing.T) {
	b := &bounded{strings.NewReader("abcdef"), 5}
	two := make([]byte, 2)
	for _, want := range []error{nil, nil, errTooLong} {
		if _, err := b.ReadAt(two, 0); !errors.Is(err, want) {
			t.Errorf("%v, want %v", err, want)
		}
	}
	if _, err := io.ReadAll(io.NewSectionReader(&bounded{strings.NewReader("abcdef"), 5}, 0, 6)); !errors.Is(err, errTooLong) {
		t.Errorf("six of five: %v", err)
	}
}

// TestHostileEnvironment: what a program says of itself is kept within bounds, and
// keeps nothing else of its environment in memory.
func TestHostileEnvironment(t *testing.T) {
	var pairs []string
	for i := range 5000 {
		pairs = append(pairs, fmt.Sprintf("key%d=value", i))
	}
	long := strings.Join(pairs, ",")
	cut := upTo(long, maxOwnText)
	if len(cut) > maxOwnText || !strings.HasPrefix(long, cut+",") {
		t.Errorf("%d bytes, which end in %q", len(cut), cut[len(cut)-10:])
	}
	if got := parseResource(cut); len(got) != maxOwnAttributes || got["key0"] != "value" {
		t.Errorf("%d attributes: %v", len(got), got)
	}
	if got := upTo(strings.Repeat("x", 2*maxOwnText), maxOwnText); got != "" {
		t.Errorf("%d bytes of a pair without end", len(got))
	}
	p := process{pid: 1, exe: "/bin/x", args: []string{strings.Repeat("x", 1<<20)}, env: map[string]string{}}
	if got := p.describe("", 1, nil); got.Args != nil {
		t.Errorf("%d arguments are kept for every process", len(got.Args))
	}
}

// asker is a Selector that selects nothing, and keeps what it was asked.
type asker struct{ asked []Candidate }

func (a *asker) Select(c Candidate) (string, bool) {
	a.asked = append(a.asked, c)
	return "", false
}
func (*asker) NeedsPorts() bool { return true }

// TestListenLooksAtNoDescriptors: the port of a listen record is taken from it, not
// looked for among what may be a million descriptors.
func TestListenLooksAtNoDescriptors(t *testing.T) {
	cmd, selector := child(t), &asker{} // which listens nowhere
	f := newFinder(Options{Selector: selector, Log: slog.New(slog.DiscardHandler), failed: &attachFailures{}}, nil, nil)
	f.process(&told{}, ProcessRecord{Op: ProcessListen, PID: uint32(cmd.Process.Pid), PIDStart: 1, Port: 8080})
	f.process(&told{}, ProcessRecord{Op: ProcessExec, PID: uint32(cmd.Process.Pid), PIDStart: 1})
	if a := selector.asked; len(a) != 2 || !slices.Equal(a[0].Ports, []uint16{8080}) || len(a[1].Ports) != 0 {
		t.Errorf("asked %+v", a)
	}
}

// TestHiddenProcesses: what may not be read is said once, and holds readiness up only
// where something could be granted.
func TestHiddenProcesses(t *testing.T) {
	for _, lacks := range []string{"CAP_SYS_PTRACE", ""} {
		var log bytes.Buffer
		f := newFinder(Options{Selector: &asker{}, Log: slog.New(slog.NewTextHandler(&log, nil)), failed: &attachFailures{}}, nil, nil)
		f.hidden.lacks = lacks
		self := uint32(os.Getpid())
		refused := &os.PathError{Op: "readlink", Path: "/proc/…/exe", Err: os.ErrPermission}
		if f.unread(self, os.ErrNotExist) || f.hidden.unready() != "" {
			t.Error("a process that is gone counts as hidden")
		}
		for range 2 {
			if !f.unread(self, refused) {
				t.Error("a hidden process is not noticed")
			}
		}
		f.hidden.tell(f.log)
		f.unread(self, refused) // looked at again
		if n := f.hidden.count.Load(); n != 2 {
			t.Errorf("%d hidden, want 2", n)
		}
		if s := log.String(); strings.Count(s, "\n") != 1 || !strings.Contains(s, "processes=2") || strings.Contains(s, "level=WARN") != (lacks != "") || !strings.Contains(s, lacks) {
			t.Errorf("log %q", s)
		}
		if why := f.hidden.unready(); (why == "") != (lacks == "") || !strings.Contains(why, lacks) {
			t.Errorf("unready %q", why)
		}
		// The first one that comes only after the scan is said then.
		log.Reset()
		late := newFinder(Options{Selector: &asker{}, Log: slog.New(slog.NewTextHandler(&log, nil)), failed: &attachFailures{}}, nil, nil)
		late.hidden.tell(late.log)
		late.unread(self, refused)
		late.unread(self, refused)
		if s := log.String(); strings.Count(s, "\n") != 1 || !strings.Contains(s, "processes=1") {
			t.Errorf("log %q", s)
		}
	}
}
