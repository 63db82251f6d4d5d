#include "textflag.h"

// func site()
//
// Its first instruction is one that the kernel emulates.
TEXT ·site(SB), NOSPLIT|NOFRAME, $0-0
	NOOP
	RET

// func siteAddress() uintptr
TEXT ·siteAddress(SB), NOSPLIT, $0-8
	MOVD $·site(SB), R0
	MOVD R0, ret+0(FP)
	RET
