package loader

import (
	"errors"
	"time"

	"github.com/cilium/ebpf"
	"github.com/prometheus/procfs"
)

// Bounds of the sweep. A look costs about 20 µs, and the ring waits meanwhile.
const (
	sweepInterval = 10 * time.Second // from one beginning to the next, at least
	sweepMost     = 256              // processes per tick
)

// sweep finds selected processes whose end the kernel did not report: one that
// ended after /proc was read and before its entry was in the targets map, for the
// exit program reports only what is in there, and those whose record the ring had
// no room for.
type sweep struct {
	began time.Time
	todo  []uint32
}

func (f *finder) sweepSome(h Handler, now time.Time) {
	s := &f.sweep
	if len(s.todo) == 0 && now.Sub(s.began) >= sweepInterval {
		s.began = now
		for pid := range f.tracked {
			s.todo = append(s.todo, pid)
		}
	}
	n := min(len(s.todo), sweepMost)
	for _, pid := range s.todo[:n] {
		t := f.tracked[pid]
		if t == nil || runs(pid) {
			continue
		}
		f.unselect(pid)
		f.forget(pid, t.start)
		h.ProcessExit(pid, t.start)
	}
	s.todo = s.todo[n:]
}

// runs says whether a process is there and is no zombie: of those the exit was
// reported, or never will be. One whose first thread alone has ended runs.
func runs(pid uint32) bool {
	p, err := procfs.NewProc(int(pid))
	if err != nil {
		return false
	}
	stat, err := p.Stat()
	return err == nil && (stat.NumThreads > 1 || stat.State != "Z" && stat.State != "X")
}

// execProcess is EXEC_PROCESS of bpf/maps/exchanges.h.
const execProcess = 2

// forget frees what the kernel programs count for a process as a whole. The exit
// program frees what they count for its threads.
func (f *finder) forget(pid uint32, start uint64) {
	if f.threads == nil {
		return
	}
	key := WeftExecKey{StartNs: start, Tgid: pid, Kind: execProcess}
	if err := f.threads.Delete(key); err != nil && !errors.Is(err, ebpf.ErrKeyNotExist) {
		f.log.Debug("what was counted for a process stays", "pid", pid, "err", err)
	}
}
