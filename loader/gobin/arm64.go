package gobin

import (
	"encoding/binary"
	"fmt"
	"strings"

	"golang.org/x/arch/arm64/arm64asm"
)

type arm64 struct{}

func (arm64) quantum() byte { return 4 }

func (arm64) decode(code []byte, pc uint64) (instruction, error) {
	if len(code) < 4 {
		return instruction{}, fmt.Errorf("%w at %#x: cut short", errUnknownInstruction, pc)
	}
	word := binary.LittleEndian.Uint32(code)
	n := instruction{length: 4, emulated: simulatedARM64(word), clobbers: true}
	inst, err := arm64asm.Decode(code[:4])
	if err != nil { // every instruction is four bytes, known or not
		n.text = fmt.Sprintf(".inst %#08x", word)
		return n, nil //nolint:nilerr // its length is all that matters
	}
	n.text = arm64asm.GNUSyntax(inst)
	for _, arg := range inst.Args {
		if rel, ok := arg.(arm64asm.PCRel); ok && inst.Op != arm64asm.ADR && inst.Op != arm64asm.ADRP {
			target := pc + uint64(int64(rel))
			if dot := strings.LastIndex(n.text, "."); dot > 0 { // the target is written as .+N
				n.text = fmt.Sprintf("%s%#x", n.text[:dot], target)
			}
			if inst.Op == arm64asm.BL {
				n.call = target
			} else {
				n.branch = target
			}
		}
	}
	_, conditional := inst.Args[0].(arm64asm.Cond)
	switch inst.Op {
	case arm64asm.BL, arm64asm.BLR, arm64asm.BR, arm64asm.RET:
		n.leaves = true
	case arm64asm.B:
		n.leaves, n.clobbers = !conditional, false
	case arm64asm.CMP, arm64asm.CMN, arm64asm.TST, arm64asm.CBZ, arm64asm.CBNZ, arm64asm.TBZ, arm64asm.TBNZ,
		arm64asm.STR, arm64asm.STP, arm64asm.STRB, arm64asm.STRH, arm64asm.NOP:
		n.clobbers = false
	case arm64asm.SUB, arm64asm.ADD, arm64asm.MOV, arm64asm.LDR:
		n.clobbers = argumentARM64(inst.Args[0])
	}
	return n, nil
}

// argumentARM64 says whether a register may hold an argument: x0 to x15.
func argumentARM64(arg arm64asm.Arg) bool {
	switch r := arg.(type) {
	case arm64asm.Reg:
		return r <= arm64asm.W15 || r >= arm64asm.X0 && r <= arm64asm.X15
	case arm64asm.RegSP:
		return argumentARM64(arm64asm.Reg(r))
	}
	return true
}

// simulatedARM64 follows arch/arm64/kernel/probes/decode-insn.c: what depends on the
// program counter is simulated, the rest is stepped.
func simulatedARM64(word uint32) bool {
	switch {
	case word&0xff000010 == 0x54000000, // b.cond
		word&0x7c000000 == 0x14000000, // b, bl
		word&0x7e000000 == 0x34000000, // cbz, cbnz
		word&0x7e000000 == 0x36000000, // tbz, tbnz
		word&0x1f000000 == 0x10000000, // adr, adrp
		word&0xbf000000 == 0x18000000, // ldr of a literal
		word&0xff000000 == 0x98000000, // ldrsw of a literal
		word&0xfffffc1f == 0xd61f0000, // br
		word&0xfffffc1f == 0xd63f0000, // blr
		word&0xfffffc1f == 0xd65f0000: // ret
		return true
	}
	return false
}

// stackCheck knows the compiler's forms, by the size of the frame; x28 is g:
//
//	ldr x16,[x28,#16]      ldr x16,[x28,#16]      ldr x16,[x28,#16]
//	                       sub x17,sp,#N          subs x17,sp,x27 (N)
//	                                              b.cc morestack
//	cmp sp,x16             cmp x17,x16            cmp x17,x16
//	b.ls morestack         b.ls morestack         b.ls morestack
func (arm64) stackCheck(code []byte, _ uint64) (int, bool) {
	const (
		loadGuard   = 0xf9400b90 // ldr x16,[x28,#16]
		compareSP   = 0xeb3063ff // cmp sp,x16
		compareX17  = 0xeb10023f // cmp x17,x16
		lowerSame   = 0x54000009 // b.ls
		withoutDist = 0xff00001f
	)
	loaded := false
	for at := 0; at+8 <= len(code) && at < 32; at += 4 {
		switch word := binary.LittleEndian.Uint32(code[at:]); {
		case word == loadGuard:
			loaded = true
		case loaded && (word == compareSP || word == compareX17):
			next := binary.LittleEndian.Uint32(code[at+4:])
			return at + 4, next&withoutDist == lowerSame
		}
	}
	return 0, false
}

// threadG is what load_g adds to the thread pointer, which it does with cgo only:
//
//	mrs  x0,tpidr_el0      mrs  x0,tpidr_el0
//	movz x27,#N            adrp x27,word; ldr x27,[x27,#word]
//	ldr  x28,[x0,x27]      ldr  x28,[x0,x27]
func (a arm64) threadG(i *image, code []byte, pc uint64) (int32, bool) {
	const threadPointer = 0xd53bd040
	for at := 0; at+8 <= len(code); at += 4 {
		if binary.LittleEndian.Uint32(code[at:]) != threadPointer {
			continue
		}
		next := binary.LittleEndian.Uint32(code[at+4:])
		if next&0xffe0001f == 0xd280001b {
			return int32(next >> 5 & 0xffff), true
		}
		for _, word := range a.addressed(code[at:], pc+uint64(at)) {
			if offset, ok := i.threadOffset(word.address); word.load && ok {
				return offset, true
			}
		}
	}
	return 0, false
}

func (arm64) addressed(code []byte, pc uint64) []access {
	var all []access
	held := map[uint32]uint64{}
	constants := map[uint32]int64{}
	for at := 0; at+4 <= len(code); at += 4 {
		word := binary.LittleEndian.Uint32(code[at:])
		rd, rn := word&31, word>>5&31
		switch {
		case word&0x9f000000 == 0x90000000: // adrp
			page := int64(word>>5&0x7ffff)<<2 | int64(word>>29&3)
			page = page << 43 >> 31 // sign of 21 bits, pages of 4 KiB
			held[rd] = (pc+uint64(at))&^0xfff + uint64(page)
			delete(constants, rd)
		case word&0xffc00000 == 0x91000000: // add xd,xn,#imm
			base, ok := held[rn]
			delete(held, rd)
			delete(constants, rd)
			if ok {
				held[rd] = base + uint64(word>>10&0xfff)
			}
		case word&0xffc00000 == 0xf9400000: // ldr xt,[xn,#imm]
			if base, ok := held[rn]; ok {
				all = append(all, access{address: base + uint64(word>>10&0xfff)*8, load: true})
			}
			delete(held, rd)
			delete(constants, rd)
		case word&0xffc00000 == 0xa9400000: // ldp xt,xu,[xn,#imm]
			if base, ok := held[rn]; ok {
				first := base + uint64(int64(word)<<42>>57*8)
				all = append(all, access{address: first, load: true}, access{address: first + 8, load: true})
			}
			delete(held, rd)
			delete(held, word>>10&31)
		case word&0xff800000 == 0xd2800000: // movz xd,#imm
			constants[rd] = int64(word >> 5 & 0xffff)
			delete(held, rd)
		case word&0xff8003e0 == 0xb20003e0: // orr xd,xzr,#mask: mov of a power of two
			constants[rd] = 1 << (64 - (word >> 16 & 63)) & (1<<63 - 1)
			if word>>10&63 != 0 {
				delete(constants, rd)
			}
			delete(held, rd)
		case word&0xffe0fc00 == 0xf8e00000: // ldaddal xs,xt,[xn]
			if base, ok := held[rn]; ok {
				all = append(all, access{address: base, adds: constants[word>>16&31]})
			}
			delete(held, rd)
		}
	}
	return all
}
