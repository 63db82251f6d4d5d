package loader

import (
	"os"
	"runtime/debug"
	"sync"
)

// thriftPercent is GOGC while objects are loaded.
const thriftPercent = 40

// thrift makes Go collect garbage early while BPF objects are being loaded: what they
// are decoded into is several times what the agent holds otherwise, and would decide
// its largest resident set. GOGC holds if it is set.
type thrift struct {
	mu      sync.Mutex
	users   int
	percent int // before the first of them
}

// begin lasts until end is called; several may overlap.
func (t *thrift) begin() (end func()) {
	if os.Getenv("GOGC") != "" {
		return func() {}
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.users == 0 {
		t.percent = debug.SetGCPercent(thriftPercent)
	}
	t.users++
	return sync.OnceFunc(func() {
		t.mu.Lock()
		defer t.mu.Unlock()
		if t.users--; t.users == 0 {
			debug.SetGCPercent(t.percent)
		}
	})
}
