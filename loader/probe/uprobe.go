package probe

import (
	"errors"
	"fmt"
	"os"
	"reflect"
	"runtime"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/asm"
	"github.com/cilium/ebpf/link"
	"github.com/prometheus/procfs"
)

// uprobeSite is a function of this program that nobody calls but Uprobe.
//
//go:noinline
func uprobeSite(x int) int { return x + os.Getpagesize() }

// Uprobe attaches to a function of this very process, calls it, and checks that
// the program ran. It touches no other process, not even one of the same binary.
func Uprobe() error {
	hits, err := ebpf.NewMap(&ebpf.MapSpec{Type: ebpf.Array, KeySize: 4, ValueSize: 8, MaxEntries: 1})
	if err != nil {
		return fmt.Errorf("create an array: %w", err)
	}
	defer hits.Close() //nolint:errcheck // nothing to do about it
	p, err := load(&ebpf.ProgramSpec{Type: ebpf.Kprobe, Instructions: asm.Instructions{
		asm.StoreImm(asm.RFP, -4, 0, asm.Word),
		asm.LoadMapPtr(asm.R1, hits.FD()),
		asm.Mov.Reg(asm.R2, asm.RFP),
		asm.Add.Imm(asm.R2, -4),
		asm.FnMapLookupElem.Call(),
		asm.JEq.Imm(asm.R0, 0, "out"),
		asm.Mov.Imm(asm.R1, 1),
		asm.StoreXAdd(asm.R0, asm.R1, asm.DWord),
		asm.Mov.Imm(asm.R0, 0).WithSymbol("out"),
		asm.Return(),
	}})
	if err != nil {
		return err
	}
	defer p.Close() //nolint:errcheck // nothing to do about it
	offset, err := fileOffset(reflect.ValueOf(uprobeSite).Pointer())
	if err != nil {
		return err
	}
	exe, err := link.OpenExecutable("/proc/self/exe")
	if err != nil {
		return fmt.Errorf("open own executable: %w", err)
	}
	l, err := exe.Uprobe("", p, &link.UprobeOptions{Address: offset, PID: os.Getpid()})
	if err != nil {
		return fmt.Errorf("attach to own executable: %w", err)
	}
	runtime.KeepAlive(uprobeSite(0))
	var count uint64
	err = hits.Lookup(uint32(0), &count)
	if err == nil && count == 0 {
		err = errors.New("attached, and did not run when its function was called")
	}
	return errors.Join(err, l.Close())
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
