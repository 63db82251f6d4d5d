#include "textflag.h"

// func site()
//
// Its first instruction is one that the kernel emulates, as those are that Go
// programs are probed at.
TEXT ·site(SB), NOSPLIT, $0-0
	PUSHQ BP
	POPQ BP
	RET

// func siteAddress() uintptr
TEXT ·siteAddress(SB), NOSPLIT, $0-8
	MOVQ $·site(SB), AX
	MOVQ AX, ret+0(FP)
	RET
