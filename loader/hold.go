package loader

import (
	"fmt"
	"log/slog"
	"os"
	"strings"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/asm"
	"golang.org/x/sys/unix"
)

// holdsConstant is the constant behind which a program keeps its CPU to its end
// (bpf/socket/hold.h).
const holdsConstant = "holds_cpu"

// holdFunctions are the kernel functions that this takes. Those of interrupts came
// with Linux 6.14.
var holdFunctions = []string{"bpf_preempt_disable", "bpf_preempt_enable", "bpf_local_irq_save", "bpf_local_irq_restore"}

// holdCPU makes the programs of spec keep their CPU, or where the kernel has no such
// functions, or o does not want it, takes the calls out: the library would look for
// them in every kernel module, one call after the other.
func holdCPU(spec *ebpf.CollectionSpec, o Options) error {
	holds := !o.letting
	for _, name := range holdFunctions {
		holds = holds && kernelFunc(name) != nil
	}
	v, ok := spec.Variables[holdsConstant]
	if !ok {
		return fmt.Errorf("set constant %s: not in the BPF object", holdsConstant)
	}
	if err := v.Set(boolByte(holds)); err != nil {
		return fmt.Errorf("set constant %s: %w", holdsConstant, err)
	}
	if holds {
		return nil
	}
	for _, p := range spec.Programs {
		for i, ins := range p.Instructions {
			if ins.IsKfuncCall() {
				p.Instructions[i] = asm.Mov.Imm(asm.R0, 0).WithSymbol(ins.Symbol())
			}
		}
	}
	return nil
}

// holdsCPU says whether holdCPU made them.
func holdsCPU(spec *ebpf.CollectionSpec) bool {
	var holds uint8
	v, ok := spec.Variables[holdsConstant]
	return ok && v.Get(&holds) == nil && holds != 0
}

// preempts says whether this kernel is known to preempt what runs in it. It may also
// do so and not tell: PREEMPT_DYNAMIC without debugfs.
func preempts() bool {
	if text, err := os.ReadFile("/sys/kernel/debug/sched/preempt"); err == nil {
		return strings.Contains(string(text), "(full)") || strings.Contains(string(text), "(lazy)")
	}
	if text, err := os.ReadFile("/proc/cmdline"); err == nil {
		for _, word := range strings.Fields(string(text)) {
			if mode, ok := strings.CutPrefix(word, "preempt="); ok {
				return mode == "full" || mode == "lazy"
			}
		}
	}
	var name unix.Utsname
	if unix.Uname(&name) != nil {
		return false
	}
	version := unix.ByteSliceToString(name.Version[:])
	return strings.Contains(version, "PREEMPT") && !strings.Contains(version, "PREEMPT_DYNAMIC")
}

// spareAfterMisses attaches the spares as soon as the kernel skipped a run.
func (c *collection) spareAfterMisses(log *slog.Logger) {
	if c.sparing {
		return
	}
	for name, d := range c.entries {
		if d.spare == nil {
			continue
		}
		stats, err := d.entry.Stats()
		if err != nil || stats.RecursionMisses == 0 {
			continue
		}
		c.mu.Lock()
		c.sparing = true
		c.mu.Unlock()
		if err := c.attachSpares(); err != nil {
			log.Warn("runs of programs that the kernel preempts are missed", "err", err)
			return
		}
		log.Info("this kernel preempts programs; each hook has a spare from now on", "missed", name)
		return
	}
}
