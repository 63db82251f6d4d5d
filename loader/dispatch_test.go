package loader

import (
	"bytes"
	"errors"
	"log/slog"
	"os"
	"strings"
	"testing"
	"time"

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
	orphaned := func(l *legacy) error { return l.orphans(ebpf.SocketFilter) }
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
	if found(func(l *legacy) error { return l.orphans(ebpf.SkMsg) }) {
		t.Error("no connection can be bound to it, and found as an orphan")
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

// TestSlotRefused: a slot that the kernel will not have filled is worth a warning only
// while a program jumps through it, because then connections may be bound to that.
func TestSlotRefused(t *testing.T) {
	needRoot(t)
	spec := &ebpf.ProgramSpec{Name: "weft_test", Type: ebpf.SkMsg, AttachType: ebpf.AttachSkMsgVerdict,
		License: "GPL", Instructions: returning(0).Instructions}
	d, err := newDispatch(spec, socketSlot, skPass)
	if err != nil {
		t.Fatal(err)
	}
	defer d.slot.Close()
	info, err := d.slot.Info()
	if err != nil {
		t.Fatal(err)
	}
	id, _ := info.ID()
	var log bytes.Buffer
	l := &Loader{inject: &injector{message: load1(t, 1)}, // not of the entry's type
		log: slog.New(slog.NewTextHandler(&log, &slog.HandlerOptions{Level: slog.LevelDebug}))}
	inherit := func() string {
		log.Reset()
		l.inherit(map[ebpf.MapID]*ebpf.Map{id: d.slot})
		return log.String()
	}
	if got := inherit(); !strings.Contains(got, "level=WARN") || !strings.Contains(got, "until they are opened again") {
		t.Errorf("its entry is there, and the log says %q", got)
	}
	if err := d.entry.Close(); err != nil {
		t.Fatal(err)
	}
	var got string
	for end := time.Now().Add(10 * time.Second); time.Now().Before(end); time.Sleep(10 * time.Millisecond) {
		if got = inherit(); strings.Contains(got, "level=DEBUG") && !strings.Contains(got, "level=WARN") {
			break
		}
	}
	if !strings.Contains(got, "level=DEBUG") || strings.Contains(got, "level=WARN") {
		t.Errorf("its entry is gone, and the log says %q", got)
	}
	if len(l.inject.behind) != 0 {
		t.Error("a slot that was refused is one to empty at the end")
	}
}
