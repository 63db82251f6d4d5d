package loader

import (
	"os"
	"runtime"
	"testing"
	"time"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/asm"
	"golang.org/x/sys/unix"
)

// eventFile stands in for a ring: it is ready when something was written.
func eventFile(t *testing.T) (fd int, ring func()) {
	t.Helper()
	fd, err := unix.Eventfd(0, unix.EFD_CLOEXEC)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = unix.Close(fd) })
	return fd, func() {
		if _, err := unix.Write(fd, []byte{1, 0, 0, 0, 0, 0, 0, 0}); err != nil {
			t.Error(err)
		}
	}
}

func TestBellWaits(t *testing.T) {
	fd, ring := eventFile(t)
	b, err := newBell(fd)
	if err != nil {
		t.Fatal(err)
	}
	began := time.Now()
	if err := b.wait(20 * time.Millisecond); err != nil {
		t.Fatal(err)
	}
	if took := time.Since(began); took < 20*time.Millisecond {
		t.Errorf("slept %v", took)
	}
	// Rung while it sleeps, again and again: each time it wakes, long before a
	// minute is over.
	for range 20 {
		rung := make(chan struct{})
		go func() {
			defer close(rung)
			time.Sleep(2 * time.Millisecond) // it may ring too early; then the next one is heard
			for range 10 {
				ring()
				time.Sleep(10 * time.Millisecond)
			}
		}()
		if err := b.wait(time.Minute); err != nil {
			t.Fatal(err)
		}
		<-rung
	}
	if took := time.Since(began); took > 50*time.Second {
		t.Errorf("woke only after %v", took)
	}
	if err := b.close(); err != nil {
		t.Error(err)
	}
	if err := b.wait(time.Millisecond); err == nil {
		t.Error("waits for a bell that was closed")
	}
}

// With one processor, others run while the bell is waited for.
func TestBellLeavesProcessor(t *testing.T) {
	defer runtime.GOMAXPROCS(runtime.GOMAXPROCS(1))
	fd, _ := eventFile(t)
	b, err := newBell(fd)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = b.close() }()
	turns := make(chan struct{})
	go func() {
		defer close(turns)
		for range 1000 {
			time.Sleep(100 * time.Microsecond)
		}
	}()
	began := time.Now()
	waited := 0
	for ; ; waited++ {
		if err := b.wait(time.Second); err != nil {
			t.Fatal(err)
		}
		select {
		case <-turns:
		default:
			continue
		}
		break
	}
	if waited > 30 { // a tenth of a second; under a busy machine seconds
		t.Errorf("1,000 short turns of another goroutine took %v", time.Since(began))
	}
}

func TestBellOfNothing(t *testing.T) {
	if _, err := newBell(-1); err == nil {
		t.Error("listens to no file")
	}
	fd, err := unix.MemfdCreate("not for waiting", unix.MFD_CLOEXEC)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = unix.Close(fd) }()
	if _, err := newBell(fd); err == nil {
		t.Error("listens to a file that cannot be waited for")
	}
}

// A record that forces a wake-up rings; one that forbids it does not.
func TestBellOfRing(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("makes a BPF ring, which needs root")
	}
	const noWakeup, forceWakeup = 1, 2 // BPF_RB_…
	writer := func(ring *ebpf.Map, flags int32) func() {
		p, err := ebpf.NewProgram(&ebpf.ProgramSpec{Type: ebpf.SocketFilter, License: "GPL", Instructions: asm.Instructions{
			asm.Mov.Imm(asm.R1, 7), asm.StoreMem(asm.RFP, -8, asm.R1, asm.DWord),
			asm.LoadMapPtr(asm.R1, ring.FD()),
			asm.Mov.Reg(asm.R2, asm.RFP), asm.Add.Imm(asm.R2, -8),
			asm.Mov.Imm(asm.R3, 8), asm.Mov.Imm(asm.R4, flags),
			asm.FnRingbufOutput.Call(),
			asm.Mov.Imm(asm.R0, 0), asm.Return(),
		}})
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { _ = p.Close() })
		return func() {
			if _, err := p.Run(&ebpf.RunOptions{Data: make([]byte, 14)}); err != nil {
				t.Error(err)
			}
		}
	}
	// A ring each: what one leaves unread would wake the other.
	for name, c := range map[string]struct {
		flags int32
		most  time.Duration
		wakes bool
	}{
		"silent": {noWakeup, 100 * time.Millisecond, false},
		"forced": {forceWakeup, time.Minute, true},
	} {
		t.Run(name, func(t *testing.T) {
			ring, err := ebpf.NewMap(&ebpf.MapSpec{Type: ebpf.RingBuf, MaxEntries: uint32(os.Getpagesize())})
			if err != nil {
				t.Fatal(err)
			}
			defer func() { _ = ring.Close() }()
			b, err := newBell(ring.FD())
			if err != nil {
				t.Fatal(err)
			}
			defer func() { _ = b.close() }()
			write, done := writer(ring, c.flags), make(chan struct{})
			go func() {
				defer close(done)
				for range 10 { // one of them while it is waited for
					time.Sleep(5 * time.Millisecond)
					write()
				}
			}()
			began := time.Now()
			if err := b.wait(c.most); err != nil {
				t.Error(err)
			} else if woke := time.Since(began) < c.most; woke != c.wakes {
				t.Errorf("woke %v after %v", woke, time.Since(began))
			}
			<-done
		})
	}
}
