#include "textflag.h"

// Functions to be probed at their first instruction. Nothing else calls them.

// func trapNop()
TEXT ·trapNop(SB), NOSPLIT|NOFRAME, $0-0
	NOOP
	RET

// func trapJump()
TEXT ·trapJump(SB), NOSPLIT|NOFRAME, $0-0
	B next
next:
	RET

// func trapEntry()
TEXT ·trapEntry(SB), NOSPLIT|NOFRAME, $0-0
	MOVD 16(g), R16
	RET

// func trapAddresses(into *[3]uintptr)
TEXT ·trapAddresses(SB), NOSPLIT, $0-8
	MOVD into+0(FP), R1
	MOVD $·trapNop(SB), R0
	MOVD R0, 0(R1)
	MOVD $·trapJump(SB), R0
	MOVD R0, 8(R1)
	MOVD $·trapEntry(SB), R0
	MOVD R0, 16(R1)
	RET
