package loader

import (
	"errors"
	"fmt"
	"io"
	"os"
	"strings"
	"time"

	"github.com/cilium/ebpf"
	"golang.org/x/sys/unix"
)

// ProgramCost is what one loaded program costs.
type ProgramCost struct {
	Name string
	// RunTime and Runs add up while the kernel counts them (Cost.Counting); 0
	// before Linux 5.8.
	RunTime time.Duration
	Runs    uint64
	// Missed are runs that did not take place, because a program was
	// interrupted on that CPU by what would have run it again; 0 before 5.12.
	// With a spare: at most so many, as one may have run where the other did not.
	Missed uint64
	// Verified are the instructions that the verifier walked; 0 before 5.16.
	Verified uint32
	Bytes    uint64 // memory of the translated program
}

// MapCost is what one map holds at most, and costs.
type MapCost struct {
	Name string
	// Capacity is in entries; of a ring, in bytes.
	Capacity uint32
	Ring     bool
	// Bytes is memory as the kernel accounts it: what is in use since Linux
	// 6.4, the bound before.
	Bytes uint64
}

// Cost is what weft costs in the kernel.
type Cost struct {
	Programs []ProgramCost
	Maps     []MapCost
	// Counting says whether the kernel counts run time now, for weft or
	// because somebody set kernel.bpf_stats_enabled.
	Counting bool
}

// Cost reads it. What could be read is returned together with the error of what
// could not.
func (l *Loader) Cost() (Cost, error) {
	c := Cost{Counting: l.runTime != nil || statsEnabled()}
	var errs []error
	l.coll.mu.Lock()
	defer l.coll.mu.Unlock()
	for name, p := range l.coll.Programs {
		cost, err := programCost(p, l.coll.entriesOf(name)...)
		if err != nil {
			errs = append(errs, fmt.Errorf("read what program %s costs: %w", name, err))
			continue
		}
		cost.Name = name
		c.Programs = append(c.Programs, cost)
	}
	for name, m := range l.coll.Maps {
		info, err := m.Info()
		if err != nil {
			errs = append(errs, fmt.Errorf("read what map %s costs: %w", name, err))
			continue
		}
		cost := MapCost{Name: strings.TrimPrefix(name, "."), Capacity: info.MaxEntries, Ring: info.Type == ebpf.RingBuf}
		cost.Bytes, _ = info.Memlock() // absent where fdinfo is
		c.Maps = append(c.Maps, cost)
	}
	return c, errors.Join(errs...)
}

// programCost reads it of p; entries are what runs it, and what its run time is
// booked on; none: it is attached itself.
func programCost(p *ebpf.Program, entries ...*ebpf.Program) (ProgramCost, error) {
	info, err := p.Info()
	if err != nil {
		return ProgramCost{}, err
	}
	if len(entries) == 0 {
		entries = []*ebpf.Program{p}
	}
	var c ProgramCost
	for i, entry := range entries {
		stats, err := entry.Stats()
		if errors.Is(err, ebpf.ErrNotSupported) {
			break
		}
		if err != nil {
			return ProgramCost{}, err
		}
		c.RunTime += stats.Runtime
		c.Runs = max(c.Runs, stats.RunCount)
		// A run is missed that every entry missed: as many at most.
		if i == 0 || stats.RecursionMisses < c.Missed {
			c.Missed = stats.RecursionMisses
		}
	}
	c.Verified, _ = info.VerifiedInstructions() // absent from older kernels
	c.Bytes, _ = info.Memlock()
	return c, nil
}

// statsEnabled reads the sysctl, which weft does not set.
func statsEnabled() bool {
	text, err := os.ReadFile("/proc/sys/kernel/bpf_stats_enabled")
	return err == nil && strings.TrimSpace(string(text)) != "0"
}

// countRunTime makes the kernel count the run time of all BPF programs of this
// host until the closer is closed, or this process ends. It needs CAP_SYS_ADMIN
// and Linux 5.8, and costs every run of every program two readings of the clock:
// about 20 ns (Linux commit 492ecee892c2).
func countRunTime() (io.Closer, error) {
	c, err := ebpf.EnableStats(unix.BPF_STATS_RUN_TIME)
	if err != nil {
		return nil, fmt.Errorf("count the run time of BPF programs: %w", err)
	}
	return c, nil
}
