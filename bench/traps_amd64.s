#include "textflag.h"

// Functions to be probed at their first instruction. Nothing else calls them.

// func trapPush()
TEXT ·trapPush(SB), NOSPLIT, $0-0
	PUSHQ BP
	POPQ BP
	RET

// func trapNop()
TEXT ·trapNop(SB), NOSPLIT, $0-0
	BYTE $0x90
	RET

// func trapCall()
TEXT ·trapCall(SB), NOSPLIT|NOFRAME, $0-0
	CALL trapCalled<>(SB)
	RET

TEXT trapCalled<>(SB), NOSPLIT|NOFRAME, $0-0
	RET

// func trapJump()
TEXT ·trapJump(SB), NOSPLIT, $0-0
	BYTE $0xeb // jmp to the next instruction
	BYTE $0x00
	RET

// func trapEntry()
//
// As every Go function with a frame begins: it compares SP with the end of its stack.
TEXT ·trapEntry(SB), NOSPLIT, $0-0
	CMPQ SP, 16(R14)
	RET

// func trapAddresses(into *[5]uintptr)
TEXT ·trapAddresses(SB), NOSPLIT, $0-8
	MOVQ into+0(FP), DI
	MOVQ $·trapPush(SB), AX
	MOVQ AX, 0(DI)
	MOVQ $·trapNop(SB), AX
	MOVQ AX, 8(DI)
	MOVQ $·trapCall(SB), AX
	MOVQ AX, 16(DI)
	MOVQ $·trapJump(SB), AX
	MOVQ AX, 24(DI)
	MOVQ $·trapEntry(SB), AX
	MOVQ AX, 32(DI)
	RET
