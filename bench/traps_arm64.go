package main

func trapNop()
func trapJump()
func trapEntry()
func trapAddresses(into *[3]uintptr)

// trapKinds are the kinds of probes, in the order of the table.
func trapKinds() []trapKind {
	var at [3]uintptr
	trapAddresses(&at)
	return []trapKind{
		{"nop", "`nop`, as of a USDT probe", "emulated", at[0], trapNop, false},
		{"jump", "`b`", "emulated", at[1], trapJump, false},
		{"entry", "`ldr x16, [x28, #16]`, the first of a Go function", "single-stepped", at[2], trapEntry, false},
		{"return", "`nop` and the return, by a uretprobe", "emulated, and a trap at the return", at[0], trapNop, true},
	}
}
