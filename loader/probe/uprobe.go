package probe

import (
	"errors"
	"fmt"
	"os"
	"runtime"
	"time"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/asm"
	"github.com/cilium/ebpf/link"
	"github.com/prometheus/procfs"
	"golang.org/x/sys/unix"
)

// site does nothing, and nobody calls it but the functions of this file.
func site()

// siteAddress is where site's code begins. A function value would be that of the
// wrapper which the compiler puts before assembly.
func siteAddress() uintptr

const (
	// hitCalls is how often site is called to time a hit.
	hitCalls = 500
	// cookieTried is what a program must be told of its attachment.
	cookieTried = 0x7766
)

// Uprobe attaches to a function of this very process by a perf event, calls it, and
// checks that the program ran. It touches no other process, not even one of the same
// binary. hit is what one hit costs here.
func Uprobe() (hit time.Duration, err error) {
	return uprobe(ebpf.AttachNone, func(exe *link.Executable, p *ebpf.Program, offset uint64) (link.Link, error) {
		return exe.Uprobe("", p, &link.UprobeOptions{Address: offset, PID: os.Getpid()})
	})
}

// UprobeMulti is Uprobe by a link for many places at once, with a cookie, of one
// process. The first kernels that had it took the process for its first thread; that
// is refused as well.
func UprobeMulti() (hit time.Duration, err error) {
	return uprobe(ebpf.AttachTraceUprobeMulti, func(exe *link.Executable, p *ebpf.Program, offset uint64) (link.Link, error) {
		return exe.UprobeMulti(nil, p, &link.UprobeMultiOptions{
			Addresses: []uint64{offset}, Cookies: []uint64{cookieTried}, PID: uint32(os.Getpid())})
	})
}

func uprobe(kind ebpf.AttachType, attach func(*link.Executable, *ebpf.Program, uint64) (link.Link, error)) (hit time.Duration, err error) {
	// Two numbers: hits, and the last cookie.
	seen, err := ebpf.NewMap(&ebpf.MapSpec{Type: ebpf.Array, KeySize: 4, ValueSize: 16, MaxEntries: 1})
	if err != nil {
		return 0, fmt.Errorf("create an array: %w", err)
	}
	defer seen.Close() //nolint:errcheck // nothing to do about it
	p, err := load(&ebpf.ProgramSpec{Type: ebpf.Kprobe, AttachType: kind, Instructions: uprobeProgram(seen, kind != ebpf.AttachNone)})
	if err != nil {
		return 0, err
	}
	defer p.Close() //nolint:errcheck // nothing to do about it
	offset, err := fileOffset(siteAddress())
	if err != nil {
		return 0, err
	}
	exe, err := link.OpenExecutable("/proc/self/exe")
	if err != nil {
		return 0, fmt.Errorf("open own executable: %w", err)
	}
	site() // its page is there
	bare := timed(hitCalls)
	l, err := attach(exe, p, offset)
	if err != nil {
		return 0, fmt.Errorf("attach to own executable: %w", err)
	}
	hit = timed(hitCalls) - bare
	var count [2]uint64
	err = seen.Lookup(uint32(0), &count)
	switch {
	case err != nil:
	case count[0] == 0:
		err = errors.New("attached, and did not run when its function was called on a second thread")
	case kind != ebpf.AttachNone && count[1] != cookieTried:
		err = fmt.Errorf("attached, and is told cookie %#x, not %#x", count[1], cookieTried)
	}
	return max(hit/hitCalls, 0), errors.Join(err, l.Close())
}

// uprobeProgram counts its hits, and keeps its cookie if it has one.
func uprobeProgram(seen *ebpf.Map, cookie bool) asm.Instructions {
	program := asm.Instructions{asm.Mov.Imm(asm.R7, 0)}
	if cookie {
		program = asm.Instructions{asm.FnGetAttachCookie.Call(), asm.Mov.Reg(asm.R7, asm.R0)}
	}
	return append(program,
		asm.StoreImm(asm.RFP, -4, 0, asm.Word),
		asm.LoadMapPtr(asm.R1, seen.FD()),
		asm.Mov.Reg(asm.R2, asm.RFP),
		asm.Add.Imm(asm.R2, -4),
		asm.FnMapLookupElem.Call(),
		asm.JEq.Imm(asm.R0, 0, "out"),
		asm.Mov.Imm(asm.R1, 1),
		asm.StoreXAdd(asm.R0, asm.R1, asm.DWord),
		asm.StoreMem(asm.R0, 8, asm.R7, asm.DWord),
		asm.Mov.Imm(asm.R0, 0).WithSymbol("out"),
		asm.Return(),
	)
}

// timed calls site on a thread that is not the process's first.
func timed(calls int) time.Duration {
	took := make(chan time.Duration)
	go func() {
		runtime.LockOSThread()
		defer runtime.UnlockOSThread()
		if unix.Gettid() == os.Getpid() {
			took <- timed(calls) // on another, while this one is held
			return
		}
		start := time.Now()
		for range calls {
			site()
		}
		took <- time.Since(start)
	}()
	return <-took
}

// fileOffset is where in the executable file an address of this process's code
// stands.
func fileOffset(address uintptr) (uint64, error) {
	self, err := procfs.Self()
	if err != nil {
		return 0, fmt.Errorf("open /proc/self: %w", err)
	}
	maps, err := self.ProcMaps()
	if err != nil {
		return 0, fmt.Errorf("read /proc/self/maps: %w", err)
	}
	for _, m := range maps {
		if m.StartAddr <= address && address < m.EndAddr {
			return uint64(address-m.StartAddr) + uint64(m.Offset), nil
		}
	}
	return 0, fmt.Errorf("find address %#x in /proc/self/maps", address)
}
