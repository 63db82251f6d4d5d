package gobin

import (
	"errors"
	"fmt"

	"golang.org/x/arch/x86/x86asm"
)

type amd64 struct{}

func (amd64) quantum() byte { return 1 }

var errUnknownInstruction = errors.New("an instruction cannot be decoded")

func (amd64) decode(code []byte, pc uint64) (instruction, error) {
	inst, err := x86asm.Decode(code[:min(len(code), 15)], 64)
	if err != nil {
		n, ok := vexLength(code)
		if !ok {
			return instruction{}, fmt.Errorf("%w at %#x: % x", errUnknownInstruction, pc, code[:min(len(code), 8)])
		}
		return instruction{length: n, text: fmt.Sprintf("(vex) % x", code[:n]), clobbers: true}, nil
	}
	n := instruction{length: inst.Len, emulated: emulatedAMD64(code[:inst.Len])}
	n.text = x86asm.GNUSyntax(inst, pc, nil)
	if rel, ok := inst.Args[0].(x86asm.Rel); ok {
		target := pc + uint64(inst.Len) + uint64(int64(rel))
		if inst.Op == x86asm.CALL {
			n.call = target
		} else {
			n.branch = target
		}
	}
	switch inst.Op {
	case x86asm.CALL, x86asm.RET, x86asm.JMP, x86asm.UD2, x86asm.INT:
		n.leaves = true
	}
	n.clobbers = clobbersAMD64(inst)
	return n, nil
}

// emulatedAMD64 follows arch/x86/kernel/uprobes.c, branch_setup_xol_ops and
// push_setup_xol_ops, of all kernels from 5.10 on: call, jmp and jcc with a relative
// target, nop of one byte, and push of a 64-bit register. With a prefix other than
// REX.B of push the kernel emulates some and refuses others; compilers write none.
// Kernels from 6.18 on emulate longer nops too.
func emulatedAMD64(code []byte) bool {
	switch op := code[0]; {
	case op == 0xe8, op == 0xe9, op == 0xeb, op == 0x90:
		return true
	case op >= 0x70 && op <= 0x7f:
		return true
	case op == 0x0f:
		return len(code) > 1 && code[1] >= 0x80 && code[1] <= 0x8f
	case op >= 0x50 && op <= 0x57:
		return true
	case op == 0x41:
		return len(code) == 2 && code[1] >= 0x50 && code[1] <= 0x57
	}
	return false
}

// clobbersAMD64 errs on the side of yes: only what compares, stores and sets up the
// frame leaves the registers of arguments alone.
func clobbersAMD64(inst x86asm.Inst) bool {
	switch inst.Op {
	case x86asm.CMP, x86asm.TEST, x86asm.PUSH, x86asm.NOP, x86asm.JMP:
		return false
	case x86asm.MOV, x86asm.LEA, x86asm.SUB, x86asm.ADD, x86asm.MOVUPS, x86asm.XORPS, x86asm.AND:
		switch to := inst.Args[0].(type) {
		case x86asm.Mem:
			return false
		case x86asm.Reg:
			frame := to == x86asm.RSP || to == x86asm.RBP || to == x86asm.RDX || to >= x86asm.R12 && to <= x86asm.R15
			return !frame && (to < x86asm.X0 || to > x86asm.X15)
		}
	}
	_, conditional := inst.Args[0].(x86asm.Rel)
	return !conditional || inst.Op == x86asm.CALL
}

// vexLength is the length of an instruction with a VEX or EVEX prefix, which the
// decoder does not know; compilers write them for GOAMD64=v3 and v4.
func vexLength(code []byte) (int, bool) {
	if len(code) < 6 {
		return 0, false
	}
	var opcode, space int // of the opcode, and which map it is of
	switch code[0] {
	case 0xc5:
		opcode, space = 2, 1
	case 0xc4:
		opcode, space = 3, int(code[1]&0x1f)
	case 0x62:
		opcode, space = 4, int(code[1]&7)
	default:
		return 0, false
	}
	op := code[opcode]
	if space == 1 && op == 0x77 { // vzeroupper
		return opcode + 1, true
	}
	n := opcode + 2
	modrm := code[opcode+1]
	mod, rm := modrm>>6, modrm&7
	if mod != 3 {
		if rm == 4 {
			if n >= len(code) {
				return 0, false
			}
			if code[n]&7 == 5 && mod == 0 {
				n += 4
			}
			n++
		}
		switch {
		case mod == 1:
			n++
		case mod == 2, mod == 0 && rm == 5:
			n += 4
		}
	}
	if space == 3 || space == 1 && (op >= 0x70 && op <= 0x73 || op == 0xc2 || op >= 0xc4 && op <= 0xc6) {
		n++
	}
	return n, n <= len(code)
}

// stackCheck knows the compiler's three forms, by the size of the frame:
//
//	                                  lea -N(%rsp),%r12      mov %rsp,%r12
//	                                                         sub $N,%r12
//	                                                         jb  morestack
//	cmp 0x10(%r14),%rsp               cmp 0x10(%r14),%r12    cmp 0x10(%r14),%r12
//	jbe morestack                     jbe morestack          jbe morestack
func (a amd64) stackCheck(code []byte, pc uint64) (int, bool) {
	at := 0
	for range 5 {
		if at >= len(code) {
			return 0, false
		}
		inst, err := x86asm.Decode(code[at:min(len(code), at+15)], 64)
		if err != nil {
			return 0, false
		}
		to, _ := inst.Args[0].(x86asm.Reg)
		at += inst.Len
		switch {
		case inst.Op == x86asm.CMP && (to == x86asm.RSP || to == x86asm.R12):
			m, ok := inst.Args[1].(x86asm.Mem)
			if !ok || m.Base != x86asm.R14 || m.Index != 0 || m.Disp != 0x10 || at >= len(code) {
				return 0, false
			}
			jump, err := x86asm.Decode(code[at:min(len(code), at+15)], 64)
			return at, err == nil && jump.Op == x86asm.JBE
		case (inst.Op == x86asm.LEA || inst.Op == x86asm.MOV || inst.Op == x86asm.SUB) && to == x86asm.R12:
		case inst.Op == x86asm.JB:
		default:
			return 0, false
		}
	}
	return 0, false
}

// threadG finds %fs:N, as a constant or by a register that was loaded before: with
// the number itself, or from a word that the dynamic linker fills.
func (amd64) threadG(i *image, code []byte, pc uint64) (int32, bool) {
	loaded := map[x86asm.Reg]int32{}
	for at := 0; at < len(code); {
		inst, err := x86asm.Decode(code[at:min(len(code), at+15)], 64)
		if err != nil {
			return 0, false
		}
		next := pc + uint64(at+inst.Len)
		for _, arg := range inst.Args {
			m, ok := arg.(x86asm.Mem)
			if !ok || m.Segment != x86asm.FS {
				continue
			}
			base, known := loaded[m.Base]
			switch {
			case m.Index != 0:
			case m.Base == 0:
				return int32(m.Disp), true
			case known:
				return base + int32(m.Disp), true
			}
		}
		if to, ok := inst.Args[0].(x86asm.Reg); ok && inst.Op == x86asm.MOV {
			delete(loaded, to)
			switch from := inst.Args[1].(type) {
			case x86asm.Imm:
				loaded[to] = int32(from)
			case x86asm.Mem:
				if from.Base == x86asm.RIP {
					if offset, ok := i.threadOffset(next + uint64(from.Disp)); ok {
						loaded[to] = offset
					}
				}
			}
		}
		at += inst.Len
	}
	return 0, false
}

func (amd64) addressed(code []byte, pc uint64) []access {
	var all []access
	held := map[x86asm.Reg]uint64{} // addresses, by the register they were put into
	constants := map[x86asm.Reg]int64{}
	for at := 0; at < len(code); {
		inst, err := x86asm.Decode(code[at:min(len(code), at+15)], 64)
		if err != nil {
			n, ok := vexLength(code[at:])
			if !ok {
				break
			}
			at += n
			continue
		}
		next := pc + uint64(at+inst.Len)
		at += inst.Len
		for n, arg := range inst.Args {
			m, ok := arg.(x86asm.Mem)
			if !ok {
				continue
			}
			var address uint64
			if m.Base == x86asm.RIP {
				address = next + uint64(m.Disp)
			} else if base, ok := held[m.Base]; ok && m.Index == 0 {
				address = base + uint64(m.Disp)
			} else {
				continue
			}
			a := access{address: address, load: inst.MemBytes == 8 && (n == 1 && inst.Op == x86asm.MOV || inst.Op == x86asm.CMP)}
			if inst.Op == x86asm.XADD && inst.MemBytes == 8 {
				if from, ok := inst.Args[1].(x86asm.Reg); ok {
					a.adds = constants[wide(from)]
				}
			}
			all = append(all, a)
		}
		to, ok := inst.Args[0].(x86asm.Reg)
		if !ok {
			continue
		}
		to = wide(to)
		delete(held, to)
		delete(constants, to)
		m, isMem := inst.Args[1].(x86asm.Mem)
		v, isImm := inst.Args[1].(x86asm.Imm)
		switch {
		case inst.Op == x86asm.LEA && isMem && m.Base == x86asm.RIP:
			held[to] = next + uint64(m.Disp)
		case inst.Op == x86asm.MOV && isImm:
			constants[to] = int64(v)
		}
	}
	return all
}

// wide is the 64-bit register of which r is the lower half.
func wide(r x86asm.Reg) x86asm.Reg {
	if r >= x86asm.EAX && r <= x86asm.R15L {
		return r - x86asm.EAX + x86asm.RAX
	}
	return r
}
