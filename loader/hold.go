package loader

import (
	"fmt"
	"log/slog"
	"slices"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/asm"
)

// holdsConstant is the constant behind which a program keeps its CPU to its end
// (bpf/socket/hold.h).
const holdsConstant = "holds_cpu"

// holdFunctions are the kernel functions that this takes. Those of interrupts came
// with Linux 6.14.
var holdFunctions = []string{"bpf_preempt_disable", "bpf_preempt_enable", "bpf_local_irq_save", "bpf_local_irq_restore"}

// holdCPU makes the programs of spec keep their CPU, or where the kernel never takes
// it from them, has no such functions, or o does not want it, takes the calls out: the
// library would look for them in every kernel module, one call after the other.
func holdCPU(spec *ebpf.CollectionSpec, o Options) error {
	holds := !o.letting && preemptionHere() != neverPreempt
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
	if !holds {
		takeOut(spec, holdFunctions)
	}
	return nil
}

// takeOut leaves out the calls of kernel functions.
func takeOut(spec *ebpf.CollectionSpec, functions []string) {
	for _, p := range spec.Programs {
		for i, ins := range p.Instructions {
			if ins.IsKfuncCall() && slices.Contains(functions, ins.Reference()) {
				p.Instructions[i] = asm.Mov.Imm(asm.R0, 0).WithSymbol(ins.Symbol())
			}
		}
	}
}

// castsConstant is the constant behind which programs load members of kernel structures
// (KERNEL_READ of bpf/include/kernel.h), and castFunction what that takes, of Linux 6.2.
const (
	castsConstant = "casts"
	castFunction  = "bpf_rdonly_cast"
)

// castPointers makes the programs of spec load them, where the kernel can and o lets
// them; elsewhere they are copied by a helper.
func castPointers(spec *ebpf.CollectionSpec, o Options) error {
	casts := !o.letting && kernelFunc(castFunction) != nil
	v, ok := spec.Variables[castsConstant]
	if !ok {
		return fmt.Errorf("set constant %s: not in the BPF object", castsConstant)
	}
	if err := v.Set(boolByte(casts)); err != nil {
		return fmt.Errorf("set constant %s: %w", castsConstant, err)
	}
	if !casts {
		takeOut(spec, []string{castFunction})
	}
	return nil
}

// usesFunctions says whether the programs of spec call kernel functions.
func usesFunctions(spec *ebpf.CollectionSpec) bool {
	for _, p := range spec.Programs {
		if slices.ContainsFunc(p.Instructions, func(ins asm.Instruction) bool { return ins.IsKfuncCall() }) {
			return true
		}
	}
	return false
}

// holdsCPU says whether holdCPU made them.
func holdsCPU(spec *ebpf.CollectionSpec) bool {
	var holds uint8
	v, ok := spec.Variables[holdsConstant]
	return ok && v.Get(&holds) == nil && holds != 0
}

// spareAfterMisses attaches the spares as soon as the kernel skipped a run. A kernel
// that was told to preempt after the start (debugfs) is found out at the next one.
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
