package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"runtime"
	"slices"
	"strings"
	"time"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/asm"
	"github.com/cilium/ebpf/link"
	"github.com/prometheus/procfs"
	"golang.org/x/sys/unix"

	"weft/loader/probe"
)

// trapKind is a place for a probe: the first instruction of a function that does
// nothing else.
type trapKind struct {
	name    string
	text    string // the instruction, and where it stands
	kernel  string // what the kernel does with it
	address uintptr
	call    func()
	returns bool // a probe at the return instead
}

// trapReading is what one kind costs by each way of attaching, ns a hit, by round.
type trapReading struct {
	kind        trapKind
	multi, perf []float64 // multi: none where the kernel has no uprobe_multi
	outside     []float64 // a process that is not selected, while another of its binary is
}

// trapRound is what a round of one kind takes; detaching a perf event takes longest.
const trapRound = time.Second

// trapTime is how long calls are made for one figure, about.
const trapTime = 40 * time.Millisecond

// calls are what a child is asked to make; called is the CPU time they took.
type calls struct {
	Kind  string
	Count int
}

type called struct{ Took time.Duration }

// trapped is a process that is probed.
func trapped(in io.Reader, out io.Writer) error {
	runtime.LockOSThread()
	kinds := trapKinds()
	return answer(in, out, func(c calls) (called, error) {
		at := slices.IndexFunc(kinds, func(k trapKind) bool { return k.name == c.Kind })
		if at < 0 {
			return called{}, fmt.Errorf("no function for %q", c.Kind)
		}
		call := kinds[at].call
		begun, err := ownTime()
		if err != nil {
			return called{}, err
		}
		for range c.Count {
			call()
		}
		ended, err := ownTime()
		return called{ended - begun}, err
	})
}

// ownTime is the CPU time of this thread: what others do meanwhile is not in it.
func ownTime() (time.Duration, error) {
	var t unix.Timespec
	if err := unix.ClockGettime(unix.CLOCK_THREAD_CPUTIME_ID, &t); err != nil {
		return 0, fmt.Errorf("read the thread's CPU time: %w", err)
	}
	return time.Duration(t.Nano()), nil
}

// measureTraps probes one of two processes of this binary. That the other pays
// nothing is what scope by process is worth.
func measureTraps(ctx context.Context, b *bench) (_ *results, err error) {
	r, err := newRig("traps", promise{}, load{})
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, r.close()) }()
	var both [2]*child
	for i := range both {
		if both[i], err = r.child(ctx, roleTrapped, r.traced); err != nil {
			return nil, err
		}
	}
	_, multi := probe.UprobeMulti()
	if _, err := probe.Uprobe(); err != nil {
		return nil, fmt.Errorf("probe this process: %w", err)
	}
	res := &results{settings: b.settings, machine: b.machine, empty: b.empty}
	for _, k := range trapKinds() {
		res.traps = append(res.traps, trapReading{kind: k})
	}
	for n := range b.rounds {
		for i := range res.traps {
			if ctx.Err() != nil {
				return nil, ctx.Err()
			}
			if err := res.traps[i].round(both, multi == nil); err != nil {
				return nil, err
			}
			b.progress.add(trapRound)
		}
		b.say("traps, round %d/%d", n+1, b.rounds)
	}
	return res, b.record.traps(res.traps)
}

// round measures a kind once by each way.
func (t *trapReading) round(both [2]*child, multi bool) error {
	perf, _, err := t.hit(both, perfUprobe)
	if err != nil {
		return err
	}
	t.perf = append(t.perf, perf)
	if !multi {
		return nil
	}
	inside, outside, err := t.hit(both, multiUprobe)
	if err != nil {
		return err
	}
	t.multi, t.outside = append(t.multi, inside), append(t.outside, outside)
	return nil
}

// attaching puts a program at an offset of this executable, for one process.
type attaching func(exe *link.Executable, k trapKind, offset uint64, pid int) (detach func() error, err error)

// hit is what a hit costs beyond a bare call, ns, in the probed process and in
// another of its binary.
func (t *trapReading) hit(both [2]*child, attach attaching) (inside, outside float64, err error) {
	var bare, with [2]float64
	for i, c := range both {
		if bare[i], err = t.each(c); err != nil {
			return 0, 0, err
		}
	}
	exe, err := link.OpenExecutable("/proc/self/exe")
	if err != nil {
		return 0, 0, fmt.Errorf("open own executable: %w", err)
	}
	offset, err := fileOffset(t.kind.address)
	if err != nil {
		return 0, 0, err
	}
	detach, err := attach(exe, t.kind, offset, both[0].cmd.Process.Pid)
	if err != nil {
		return 0, 0, fmt.Errorf("probe %s: %w", t.kind.name, err)
	}
	defer func() { err = errors.Join(err, detach()) }()
	for i, c := range both {
		if with[i], err = t.each(c); err != nil {
			return 0, 0, err
		}
	}
	return with[0] - bare[0], with[1] - bare[1], nil
}

// each is how long one call takes, ns: as many as take a while.
func (t *trapReading) each(c *child) (float64, error) {
	var took called
	for count := 1000; ; count *= 4 {
		if err := c.request(calls{t.kind.name, count}, &took); err != nil {
			return 0, err
		}
		if took.Took >= trapTime {
			return float64(took.Took) / float64(count), nil
		}
	}
}

// returnsZero is a program that does nothing.
func returnsZero(kind ebpf.AttachType) (*ebpf.Program, error) {
	p, err := ebpf.NewProgram(&ebpf.ProgramSpec{Name: "weft_bench_trap", Type: ebpf.Kprobe, AttachType: kind, License: "GPL",
		Instructions: asm.Instructions{asm.Mov.Imm(asm.R0, 0), asm.Return()}})
	if err != nil {
		return nil, fmt.Errorf("load an empty program: %w", err)
	}
	return p, nil
}

func perfUprobe(exe *link.Executable, k trapKind, offset uint64, pid int) (detach func() error, err error) {
	p, err := returnsZero(ebpf.AttachNone)
	if err != nil {
		return nil, err
	}
	attach := exe.Uprobe
	if k.returns {
		attach = exe.Uretprobe
	}
	l, err := attach("", p, &link.UprobeOptions{Address: offset, PID: pid})
	return undo(l, p, err)
}

func multiUprobe(exe *link.Executable, k trapKind, offset uint64, pid int) (detach func() error, err error) {
	p, err := returnsZero(ebpf.AttachTraceUprobeMulti)
	if err != nil {
		return nil, err
	}
	attach := exe.UprobeMulti
	if k.returns {
		attach = exe.UretprobeMulti
	}
	l, err := attach(nil, p, &link.UprobeMultiOptions{Addresses: []uint64{offset}, PID: uint32(pid)})
	return undo(l, p, err)
}

func undo(l link.Link, p *ebpf.Program, err error) (detach func() error, _ error) {
	if err != nil {
		return nil, errors.Join(err, p.Close())
	}
	return func() error { return errors.Join(l.Close(), p.Close()) }, nil
}

// fileOffset is where in the executable an address of this process's code stands. Its
// children run the same.
func fileOffset(address uintptr) (uint64, error) {
	self, err := procfs.NewProc(os.Getpid())
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

func (r *results) writeTraps(b *strings.Builder) {
	fmt.Fprintf(b, "A probe at one instruction runs a program that does nothing, in a process that does nothing but pass there: what a hit costs beyond a bare call, ns of CPU time, median of %d rounds (least–most). Weft's probes are of the emulated kinds, and by uprobe_multi where the kernel has it.\n\n", r.settings.rounds)
	b.WriteString("| instruction | the kernel | by uprobe_multi | by perf event | another process of the same binary |\n|---|---|--:|--:|--:|\n")
	cell := func(v []float64) string {
		if len(v) == 0 {
			return "not on this kernel"
		}
		return spread(v)
	}
	for _, t := range r.traps {
		fmt.Fprintf(b, "| %s | %s | %s | %s | %s |\n", t.kind.text, t.kind.kernel, cell(t.multi), cell(t.perf), cell(t.outside))
	}
	b.WriteString("\n")
}
