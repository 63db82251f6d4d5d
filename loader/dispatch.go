package loader

import (
	"errors"
	"fmt"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/asm"
)

// Names of the slots' maps: of hooks, which end with their agent, and of sockets, by
// which the next agent finds those that an agent left behind.
const (
	hookSlot   = "weft_hook"
	socketSlot = "weft_sockets"
)

// dispatch stands between a hook and the program that does its work: attached is a
// program that only jumps to the one in its slot, if there is any. So the work can
// change hands between two runs of a hook, without the hook being let go.
type dispatch struct {
	slot  *ebpf.Map
	entry *ebpf.Program
	spare *ebpf.Program // attached beside entry, or nil (addSpare)
	jump  *ebpf.ProgramSpec
}

// newDispatch loads an entry for the hook of spec; its slot, of that name, is empty.
// otherwise is what the entry returns then.
func newDispatch(spec *ebpf.ProgramSpec, name string, otherwise int32) (*dispatch, error) {
	slot, err := ebpf.NewMap(&ebpf.MapSpec{Name: name, Type: ebpf.ProgramArray,
		KeySize: 4, ValueSize: 4, MaxEntries: 1})
	if err != nil {
		return nil, fmt.Errorf("create the slot of %s: %w", spec.Name, err)
	}
	jump := spec.Copy()
	jump.Instructions = asm.Instructions{
		// The context is in R1 already.
		asm.LoadMapPtr(asm.R2, slot.FD()),
		asm.Mov.Imm(asm.R3, 0),
		asm.FnTailCall.Call(),
		asm.Mov.Imm(asm.R0, otherwise),
		asm.Return(),
	}
	entry, err := ebpf.NewProgram(jump)
	if err != nil {
		return nil, errors.Join(fmt.Errorf("load the entry of %s: %w", spec.Name, shortVerifierError(err)), slot.Close())
	}
	return &dispatch{slot: slot, entry: entry, jump: jump}, nil
}

// addSpare loads a second entry. The kernel skips a run of an entry that it finds
// preempted on the same CPU; the spare then takes that run. The program behind must
// do nothing when it is run a second time.
func (d *dispatch) addSpare() error {
	spare, err := ebpf.NewProgram(d.jump)
	if err != nil {
		return fmt.Errorf("load a spare entry of %s: %w", d.jump.Name, shortVerifierError(err))
	}
	d.spare = spare
	return nil
}

// fill makes p the program that runs from now on; those running end first by
// themselves.
func fill(slot *ebpf.Map, p *ebpf.Program) error {
	if err := slot.Put(uint32(0), p); err != nil {
		return fmt.Errorf("fill dispatch slot: %w", err)
	}
	return nil
}

// empty makes the entry return at once.
func empty(slot *ebpf.Map) error {
	if err := slot.Delete(uint32(0)); err != nil && !errors.Is(err, ebpf.ErrKeyNotExist) {
		return fmt.Errorf("empty dispatch slot: %w", err)
	}
	return nil
}

func (d *dispatch) close() error {
	err := errors.Join(d.slot.Close(), d.entry.Close())
	if d.spare != nil {
		err = errors.Join(err, d.spare.Close())
	}
	return err
}
