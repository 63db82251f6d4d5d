package main

func trapPush()
func trapNop()
func trapCall()
func trapJump()
func trapEntry()
func trapAddresses(into *[5]uintptr)

// trapKinds are the kinds of probes, in the order of the table.
func trapKinds() []trapKind {
	var at [5]uintptr
	trapAddresses(&at)
	return []trapKind{
		{"push", "`push %rbp`, the first of a Go function behind its check of the stack", "emulated", at[0], trapPush, false},
		{"nop", "`nop`, as of a USDT probe", "emulated", at[1], trapNop, false},
		{"call", "`call`", "emulated", at[2], trapCall, false},
		{"jump", "`jmp`", "emulated", at[3], trapJump, false},
		{"entry", "`cmp 0x10(%r14),%rsp`, the first of a Go function", "single-stepped", at[4], trapEntry, false},
		{"return", "`push %rbp` and the return, by a uretprobe", "emulated, and a trap at the return", at[0], trapPush, true},
	}
}
