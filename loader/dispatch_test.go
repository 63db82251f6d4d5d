package loader

import (
	"errors"
	"os"
	"testing"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/asm"
)

// returning is a program that returns n, of a type that BPF_PROG_TEST_RUN runs.
func returning(n int32) *ebpf.ProgramSpec {
	return &ebpf.ProgramSpec{Name: "weft_test", Type: ebpf.SocketFilter, License: "GPL",
		Instructions: asm.Instructions{asm.Mov.Imm(asm.R0, n), asm.Return()}}
}

func load1(t *testing.T, n int32) *ebpf.Program {
	t.Helper()
	p, err := ebpf.NewProgram(returning(n))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { p.Close() })
	return p
}

// TestDispatch: an entry runs what is in its slot, whoever put it there, and
// nothing when it is empty.
func TestDispatch(t *testing.T) {
	needRoot(t)
	d, err := newDispatch(returning(0), socketSlot, 7)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := d.close(); err != nil {
			t.Error(err)
		}
	})
	want := func(when string, n uint32) {
		t.Helper()
		got, _, err := d.entry.Test(make([]byte, 64))
		if err != nil {
			t.Fatal(err)
		}
		if got != n {
			t.Errorf("%s: returned %d, want %d", when, got, n)
		}
	}
	want("empty", 7)
	for _, n := range []int32{1, 2} {
		if err := fill(d.slot, load1(t, n)); err != nil {
			t.Fatal(err)
		}
		want("filled", uint32(n))
	}
	for range 2 {
		if err := empty(d.slot); err != nil {
			t.Fatal(err)
		}
		want("emptied", 7)
	}
	wrong, err := ebpf.NewProgram(&ebpf.ProgramSpec{Type: ebpf.Kprobe, License: "GPL", Instructions: returning(0).Instructions})
	if err != nil {
		t.Fatal(err)
	}
	defer wrong.Close()
	if err := fill(d.slot, wrong); err == nil {
		t.Error("a program of another type was taken")
	}
	want("refused", 7)
}

// TestLegacy: slots are found while they are held, and as orphans once they are
// empty; one that is in use is nobody's to take.
func TestLegacy(t *testing.T) {
	needRoot(t)
	d, err := newDispatch(returning(0), socketSlot, 7)
	if err != nil {
		t.Fatal(err)
	}
	defer d.close() //nolint:errcheck // of this test
	info, err := d.slot.Info()
	if err != nil {
		t.Fatal(err)
	}
	id, _ := info.ID()
	found := func(look func(*legacy) error) bool {
		t.Helper()
		var l legacy
		if err := look(&l); err != nil {
			t.Fatal(err)
		}
		slot := l.slots[id]
		if err := l.close(); err != nil {
			t.Error(err)
		}
		return slot != nil
	}
	held := func(l *legacy) error { return l.of(os.Getpid()) }
	orphaned := func(l *legacy) error { return l.orphans() }
	if !found(held) {
		t.Error("not found among the descriptors of its holder")
	}
	if !found(orphaned) {
		t.Error("empty, and not found as an orphan")
	}
	if err := fill(d.slot, load1(t, 1)); err != nil {
		t.Fatal(err)
	}
	if !found(held) {
		t.Error("filled, and not found among the descriptors of its holder")
	}
	if found(orphaned) {
		t.Error("in use, and found as an orphan")
	}
	hook, err := newDispatch(returning(0), hookSlot, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer hook.close() //nolint:errcheck // of this test
	if info, err = hook.slot.Info(); err != nil {
		t.Fatal(err)
	}
	if id, _ = info.ID(); found(held) || found(orphaned) {
		t.Error("the slot of a hook was found")
	}
	var l legacy
	if err := l.of(1 << 22); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("a process that is not there: %v", err)
	}
}
