package loader

import (
	"log/slog"
	"slices"
	"testing"

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
		if multi && !haveUprobeMulti() {
			t.Log("no uprobe_multi with cookies on this kernel: one way of attaching only")
			continue
		}
		o.goWrites = mayWriteUser() == nil
		p := newGoPrograms(o, first.Maps)
		p.multi = multi
		for _, w := range []goWave{waveHTTP, waveH2, waveXNet, waveGRPC, waveRoute, waveWrite, waveTLS} {
			if err := p.ensure(w); err != nil {
				t.Fatalf("multi=%t %s: %+v", multi, w, err)
			}
		}
		for site := range p.slots {
			unwritable := !o.goWrites && slices.Contains(goWriters, site)
			if (p.entry(site) == nil) != (unwritable || site == "SERVE_TLS") {
				t.Errorf("multi=%t: entry of %s: %v", multi, site, p.entry(site))
			}
			if unwritable {
				continue
			}
			if p.sites[site] == nil {
				t.Errorf("multi=%t: no program for %s", multi, site)
				continue
			}
			n, err := verifiedOf(p.sites[site])
			t.Logf("multi=%t %s: %d instructions verified (%v)", multi, site, n, err)
		}
		next, done, err := p.prepare(o, first.Maps)
		if err != nil {
			t.Fatalf("multi=%t: load a second time: %v", multi, err)
		}
		before := p.sites["SERVE"]
		if err := p.replace(next, o); err != nil {
			t.Errorf("multi=%t: exchange: %v", multi, err)
		}
		p.share(first.Maps)
		done()
		if p.sites["SERVE"] == before {
			t.Errorf("multi=%t: the programs are the old ones", multi)
		}
		p.close()
	}
	t.Log(mayWriteUser())
}
