package loader

import (
	"log/slog"
	"slices"
	"testing"
	"time"
)

// endings is a Handler that keeps whose end it is told of.
type endings struct {
	told
	pids []uint32
}

func (e *endings) ProcessExit(pid uint32, _ uint64) { e.pids = append(e.pids, pid) }

// TestSweep: a process that ends between the look at it and its selection is not
// reported by the kernel, which did not know that it was meant.
func TestSweep(t *testing.T) {
	targets := mapsOf(t, "targets")["targets"]
	gone, stays := child(t), child(t)
	pid, other := uint32(gone.Process.Pid), uint32(stays.Process.Pid)
	first := true
	f := newFinder(Options{Log: slog.New(slog.DiscardHandler), Selector: &killer{func() {
		if first {
			first = false
			gone.Process.Kill() //nolint:errcheck // it may have ended
			gone.Wait()         //nolint:errcheck // it was killed
		}
	}}}, targets, nil)
	h := &endings{}
	f.look(h, pid, 0, nil)
	f.look(h, other, 0, nil)
	if f.selected() != 2 {
		t.Fatalf("%d selected, want both", f.selected())
	}
	now := time.Now()
	f.tick(h, now)
	var v WeftWeftTarget
	if err := targets.Lookup(pid, &v); err == nil || f.selected() != 1 || !slices.Equal(h.pids, []uint32{pid}) {
		t.Errorf("in the map: %t, selected %d, told of %v, want %d to be gone", err == nil, f.selected(), h.pids, pid)
	}
	if err := targets.Lookup(other, &v); err != nil {
		t.Errorf("one that runs is gone: %v", err)
	}

	// A zombie has ended as well, though it is not reaped.
	if err := stays.Process.Kill(); err != nil {
		t.Fatal(err)
	}
	for end := time.Now().Add(10 * time.Second); runs(other) && time.Now().Before(end); {
		time.Sleep(time.Millisecond)
	}
	f.tick(h, now.Add(sweepInterval/2))
	if f.selected() != 1 {
		t.Error("swept again before its time")
	}
	f.tick(h, now.Add(sweepInterval))
	if f.selected() != 0 || !slices.Equal(h.pids, []uint32{pid, other}) {
		t.Errorf("selected %d, told of %v, want both to be gone", f.selected(), h.pids)
	}
}

// TestSweepIsBounded: the ring waits while processes are looked at.
func TestSweepIsBounded(t *testing.T) {
	targets := mapsOf(t, "targets")["targets"]
	f := newFinder(Options{Log: slog.New(slog.DiscardHandler)}, targets, nil)
	const absent = 1 << 22 // above any pid
	for i := range uint32(sweepMost + 10) {
		f.track(absent+1+i, 1, "", "")
	}
	now := time.Now()
	f.tick(&told{}, now)
	if f.selected() != 10 {
		t.Errorf("%d left after one tick, want 10", f.selected())
	}
	f.tick(&told{}, now.Add(time.Second))
	if f.selected() != 0 {
		t.Errorf("%d left after two", f.selected())
	}
}

// TestForget: one entry for each process that ever served a request would fill
// the map for good.
func TestForget(t *testing.T) {
	maps := mapsOf(t, "targets", "threads")
	f := newFinder(Options{Log: slog.New(slog.DiscardHandler)}, maps["targets"], nil)
	f.threads = maps["threads"]
	own := WeftExecKey{StartNs: 5, Tgid: 41, Kind: execProcess}
	others := []WeftExecKey{{StartNs: 6, Tgid: 41, Kind: execProcess}, {StartNs: 5, Tgid: 42, Kind: execProcess},
		{StartNs: 5, Tgid: 41, Id: 43, Kind: 1}}
	for _, k := range append([]WeftExecKey{own}, others...) {
		if err := f.threads.Put(k, WeftExecState{}); err != nil {
			t.Fatal(err)
		}
	}
	f.process(&told{}, ProcessRecord{Op: ProcessExit, PID: 41, PIDStart: 5})
	var v WeftExecState
	if err := f.threads.Lookup(own, &v); err == nil {
		t.Error("the entry of a process that ended is still there")
	}
	for _, k := range others {
		if err := f.threads.Lookup(k, &v); err != nil {
			t.Errorf("entry %+v is gone: %v", k, err)
		}
	}
}
