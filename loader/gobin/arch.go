package gobin

import "errors"

// architecture knows the instructions of one machine, as the compiler writes them
// and as the kernel's uprobes treat them.
type architecture interface {
	// quantum is the size of the smallest instruction, as .gopclntab has it.
	quantum() byte
	// decode reads the instruction at the start of code, which lies at pc.
	decode(code []byte, pc uint64) (instruction, error)
	// stackCheck is the number of bytes of code before the jump to morestack, if
	// the function begins by checking its stack.
	stackCheck(code []byte, pc uint64) (int, bool)
	// threadG is where code keeps g, relative to the thread pointer.
	threadG(i *image, code []byte, pc uint64) (int32, bool)
	// addressed are the addresses of data that code mentions, in order.
	addressed(code []byte, pc uint64) []access
}

// instruction is what the choice of a site asks of one.
type instruction struct {
	length   int
	text     string // as GNU tools write it
	emulated bool   // by the kernel, in place of single-stepping
	call     uint64 // target of a direct call
	branch   uint64 // target of a direct jump
	clobbers bool   // may change a register that holds an argument
	leaves   bool   // control does not go on to the next: jump, return, call
}

// access is an instruction that mentions an address.
type access struct {
	address uint64
	load    bool  // of eight bytes
	adds    int64 // the constant added atomically; 0: none
}

var errNoInstruction = errors.New("no emulated instruction, and none that is safe to step")

// place is where in a function a probe goes.
type place struct {
	at      int // offset in the code
	guarded bool
	instruction
}

// entry is the first instruction that the kernel emulates while the arguments are
// still in their registers, and which runs once a call: morestack starts a function
// over, so nothing before the stack check does. If only the jump of that check is
// emulated, the place is guarded. Failing both it is the first instruction after it,
// single-stepped.
func entry(a architecture, code []byte, pc uint64) (place, error) {
	start := 0
	guard, checked := a.stackCheck(code, pc)
	if checked {
		jump, err := a.decode(code[guard:], pc+uint64(guard))
		if err != nil {
			return place{}, err
		}
		start = guard + jump.length
		if next, err := a.decode(code[start:], pc+uint64(start)); err == nil && next.emulated && !next.leaves && next.branch == 0 {
			return place{at: start, instruction: next}, nil
		}
		return place{at: guard, guarded: true, instruction: jump}, nil
	}
	targets := branchTargets(a, code, pc)
	for at := start; at < len(code); {
		n, err := a.decode(code[at:], pc+uint64(at))
		if err != nil || at > start && targets[pc+uint64(at)] {
			break
		}
		if n.emulated {
			return place{at: at, instruction: n}, nil
		}
		if n.clobbers || n.leaves {
			break
		}
		at += n.length
	}
	n, err := a.decode(code[start:], pc+uint64(start))
	if err != nil {
		return place{}, errNoInstruction
	}
	return place{at: start, instruction: n}, nil
}

// branchTargets are the addresses that a function's own jumps lead to. They run
// more than once in a loop.
func branchTargets(a architecture, code []byte, pc uint64) map[uint64]bool {
	targets := map[uint64]bool{}
	for at := 0; at < len(code); {
		n, err := a.decode(code[at:], pc+uint64(at))
		if err != nil {
			break
		}
		if n.branch != 0 {
			targets[n.branch] = true
		}
		at += n.length
	}
	return targets
}

// behind is the first instruction after a call that the kernel emulates, up to and
// with the first jump: as often as the call returns, it runs.
func behind(a architecture, code []byte, pc uint64, call place) (place, error) {
	for at := call.at + call.length; at < len(code); {
		n, err := a.decode(code[at:], pc+uint64(at))
		if err != nil {
			return place{}, err
		}
		if n.emulated {
			return place{at: at, instruction: n}, nil
		}
		if n.leaves || n.branch != 0 {
			break
		}
		at += n.length
	}
	return place{}, errNoInstruction
}

// calls are the direct calls of targets in a function.
func calls(a architecture, code []byte, pc uint64, targets map[uint64]bool) ([]place, error) {
	var found []place
	for at := 0; at < len(code); {
		n, err := a.decode(code[at:], pc+uint64(at))
		if err != nil {
			return nil, err
		}
		if n.call != 0 && targets[n.call] {
			found = append(found, place{at: at, instruction: n})
		}
		at += n.length
	}
	return found, nil
}
