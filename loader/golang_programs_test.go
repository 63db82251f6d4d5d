package loader

import (
	"log/slog"
	"strings"
	"testing"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/features"
	"github.com/cilium/ebpf/rlimit"
)

// TestGoObjectLoads loads the Go object beside the first, in both ways of attaching,
// and wants every site that has a program in its slot.
func TestGoObjectLoads(t *testing.T) {
	needRoot(t)
	if err := rlimit.RemoveMemlock(); err != nil {
		t.Logf("RLIMIT_MEMLOCK stays: %v", err)
	}
	o := everyFeature()
	o.Log = slog.New(slog.DiscardHandler)
	first, err := loadAny(o)
	if err != nil {
		t.Fatal(err)
	}
	defer first.close() //nolint:errcheck // of a test
	for _, multi := range []bool{false, true} {
		if multi && features.HaveProgramHelper(ebpf.Kprobe, 174) != nil {
			t.Log("no cookies on this kernel: one way of attaching only")
			continue
		}
		coll, err := loadGo(o, first.Maps, multi)
		if err != nil {
			t.Fatalf("multi=%t: %+v", multi, err)
		}
		if err := fillSites(coll.Maps["go_sites"], coll); err != nil {
			t.Errorf("multi=%t: %v", multi, err)
		}
		for name, p := range coll.Programs {
			n, err := verifiedOf(p)
			t.Logf("multi=%t %s: %d instructions verified (%v)", multi, name, n, err)
			if multi != (name == goEntry) && strings.HasPrefix(name, goEntry) {
				t.Errorf("multi=%t: %s is loaded", multi, name)
			}
		}
		coll.Close()
	}
	t.Log(mayWriteUser())
}
