package e2e

import (
	"os"
	"slices"
	"strings"
	"testing"
	"time"

	"weft/test/e2e/truth"
	"weft/test/e2e/variant"
)

// TestGoInMemory is the small set that CI runs in virtual machines, where the memory of
// programs may be written: HTTP/1, over TLS too, HTTP/2 and gRPC inside TLS, each with
// every kind of evidence, and every header in the program's own buffer.
func TestGoInMemory(t *testing.T) {
	h := newGoHost(t)
	if lockdown, err := os.ReadFile("/sys/kernel/security/lockdown"); err == nil && os.Getenv("WEFT_E2E_VM") != "" &&
		strings.Contains(string(lockdown), "[none]") {
		h.sealed = "no" // asking weft doctor takes half a minute there
	}
	if h.unwritten(t) {
		t.Skip("the kernel lets nobody write the memory of programs: run it in a VM, make vm")
	}
	bin := buildGo(t, goLocal)
	var rigs []*goRig
	protocols := []string{"http1", "https", "h2"}
	for _, protocol := range protocols {
		rigs = append(rigs, startGoRig(t, h, bin, protocol, parseGo(t, "")))
	}
	rpc := startGRPCRig(t, h, buildGo(t, variant.GRPC()[0]), parseGo(t, ""), grpcOptions{relays: 1, tls: true})
	h.trace(t)
	for i, protocol := range protocols {
		t.Run(protocol, func(t *testing.T) {
			rigs[i].attached(t)
			before := h.inMemory()
			patterns := somePatterns("same", "noctx", "go", "pool", "errgroup", "pool-background", "own")
			tally := rigs[i].measure("vm", scaled(t, 40), truth.Calls{}, patterns...)
			judgeWritten(t, protocol, tally, h.inMemory()-before)
		})
	}
	t.Run("grpc-tls", func(t *testing.T) {
		rpc.attached(t)
		for _, p := range grpcPatterns {
			if p.inbound != "" || !slices.Contains([]string{"unary", "bidi", "background", "go", "pool-background", "errgroup", "own"}, p.name) {
				continue // in the full matrix
			}
			before := h.inMemory()
			tally := rpc.measure(p, "vm", scaled(t, 40))
			judgeWritten(t, p.title(), tally, h.inMemory()-before)
		}
		// Header blocks of every length, one after the other: often none of the
		// connection's small buffers has room, and the large one is in its pool.
		before := h.inMemory()
		var requests []truth.Relayed
		for i := range 60 {
			requests = append(requests, rpc.send(grpcPatterns[1], "grow"+strings.Repeat("x", 5*i), 1)...)
		}
		judgeWritten(t, "growing", rpc.judged(grpcPatterns[1], requests), h.inMemory()-before)
	})
	start := time.Now()
	h.end(t)
	t.Logf("weft ended within %v", time.Since(start).Round(time.Millisecond))
}

// judgeWritten wants every call right, and every header that weft wrote in the program's memory.
func judgeWritten(t *testing.T, name string, tally *truth.Tally, written int) {
	t.Helper()
	t.Logf("%s: %v, %d headers in memory", name, tally, written)
	if err := tally.Err(); err != nil {
		t.Errorf("%s:\n%v", name, err)
	}
	own := tally.Rules["adopted"]
	if want := tally.Calls - own; written < want {
		t.Errorf("%s: %d headers of %d calls were written into memory", name, written, want)
	}
}

// inMemory is how many headers weft has written into the memory of programs.
func (h *goHost) inMemory() int {
	n := 0
	for name, v := range h.agent.metrics() {
		if strings.HasPrefix(name, "weft_kernel_injected_total") && strings.Contains(name, `"memory"`) {
			n += int(v)
		}
	}
	return n
}
