package main

import (
	"bufio"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/asm"
	"golang.org/x/sys/unix"
)

// hook is one BPF program of the agent over a time.
type hook struct {
	Name    string
	Kind    string
	Runs    uint64
	Runtime time.Duration
	Skipped uint64 // runs left out because the program was running there already
}

func (h hook) perRun() float64 { return float64(h.Runtime) / float64(h.Runs) }

// runs is how often k ran for one request.
func (h hookReading) runs(k hook) float64 { return float64(k.Runs) / float64(h.Sent) }

// Runs per request of a program below which it is left out of a table: it runs for
// connections and processes, and where requests are few for those of others.
const (
	oftenEnough  = 0.005
	everyRequest = 0.1
)

// entryPrefix is that of the programs that a probe in a Go program runs. What they
// call is in their time.
const entryPrefix = "go_entry"

// traps is how often a probe was hit for one request.
func (h hookReading) traps() (traps float64) {
	for _, k := range h.hooks {
		if strings.HasPrefix(k.Name, entryPrefix) {
			traps += h.runs(k)
		}
	}
	return traps
}

// total is what the programs that run as often together did for one request.
func (h hookReading) total(often float64) (runs, ns float64) {
	for _, k := range h.hooks {
		if perRequest := h.runs(k); perRequest >= often {
			runs += perRequest
			ns += perRequest * k.perRun()
		}
	}
	return runs, ns
}

// hooks holds the programs of one process while the kernel measures how long
// each run takes. That costs two readings of the clock a run, so it is never on
// while anything else is measured.
type hooks struct {
	programs []*ebpf.Program
	before   map[ebpf.ProgramID]hook
	stop     func() error
}

// watchHooks begins. The processes must hold descriptors of their programs, as weft
// does: programs of other agents on this machine are not counted.
func watchHooks(pids []int) (*hooks, error) {
	var ids []ebpf.ProgramID
	for _, pid := range pids {
		found, err := programIDs(pid)
		if err != nil {
			return nil, err
		}
		ids = append(ids, found...)
	}
	slices.Sort(ids)
	ids = slices.Compact(ids)
	w := &hooks{}
	for _, id := range ids {
		p, err := ebpf.NewProgramFromID(id)
		if err != nil {
			return nil, errors.Join(fmt.Errorf("open program %d of the agent: %w", id, err), w.close())
		}
		w.programs = append(w.programs, p)
	}
	closer, err := ebpf.EnableStats(unix.BPF_STATS_RUN_TIME)
	if err != nil {
		return nil, errors.Join(fmt.Errorf("enable BPF run-time statistics: %w", err), w.close())
	}
	w.stop = closer.Close
	if w.before, err = w.read(); err != nil {
		return nil, errors.Join(err, w.close())
	}
	return w, nil
}

// finish returns what ran since watchHooks, the dearest first.
func (w *hooks) finish() ([]hook, error) {
	after, err := w.read()
	if err = errors.Join(err, w.close()); err != nil {
		return nil, err
	}
	var out []hook
	for id, h := range after {
		was := w.before[id]
		h.Runs -= was.Runs
		h.Runtime -= was.Runtime
		h.Skipped -= was.Skipped
		if h.Runs > 0 {
			out = append(out, h)
		}
	}
	slices.SortFunc(out, func(a, b hook) int { return int(b.Runtime - a.Runtime) })
	return out, nil
}

func (w *hooks) read() (map[ebpf.ProgramID]hook, error) {
	out := map[ebpf.ProgramID]hook{}
	for _, p := range w.programs {
		info, err := p.Info()
		if err != nil {
			return nil, fmt.Errorf("read program information: %w", err)
		}
		stats, err := p.Stats()
		if err != nil {
			return nil, fmt.Errorf("read run-time statistics of %s: %w", info.Name, err)
		}
		id, _ := info.ID()
		out[id] = hook{Name: info.Name, Kind: info.Type.String(), Runs: stats.RunCount, Runtime: stats.Runtime, Skipped: stats.RecursionMisses}
	}
	return out, nil
}

func (w *hooks) close() error {
	var errs []error
	if w.stop != nil {
		errs = append(errs, w.stop())
		w.stop = nil
	}
	for _, p := range w.programs {
		errs = append(errs, p.Close())
	}
	w.programs = nil
	return errors.Join(errs...)
}

// programIDs are the BPF programs that a process holds open.
func programIDs(pid int) ([]ebpf.ProgramID, error) {
	files, err := filepath.Glob(fmt.Sprintf("/proc/%d/fdinfo/*", pid))
	if err != nil {
		return nil, err
	}
	var ids []ebpf.ProgramID
	for _, file := range files {
		id, ok, err := programID(file)
		if err != nil {
			return nil, fmt.Errorf("find the agent's programs: %w", err)
		}
		if ok && !slices.Contains(ids, id) {
			ids = append(ids, id)
		}
	}
	return ids, nil
}

func programID(file string) (ebpf.ProgramID, bool, error) {
	f, err := os.Open(file)
	if errors.Is(err, os.ErrNotExist) {
		return 0, false, nil // closed meanwhile
	}
	if err != nil {
		return 0, false, err
	}
	defer f.Close()
	for lines := bufio.NewScanner(f); lines.Scan(); {
		value, ok := strings.CutPrefix(lines.Text(), "prog_id:")
		if !ok {
			continue
		}
		id, err := strconv.ParseUint(strings.TrimSpace(value), 10, 32)
		return ebpf.ProgramID(id), err == nil, err
	}
	return 0, false, nil
}

// emptyRun is what a program that does nothing reads as, ns: the price of the
// reading itself, which is in every figure of a hook.
func emptyRun() (_ float64, err error) {
	p, err := ebpf.NewProgram(&ebpf.ProgramSpec{Name: "weft_bench_null", Type: ebpf.SocketFilter, License: "GPL",
		Instructions: asm.Instructions{asm.Mov.Imm(asm.R0, 0), asm.Return()}})
	if err != nil {
		return 0, fmt.Errorf("load an empty program: %w", err)
	}
	w := &hooks{programs: []*ebpf.Program{p}}
	closer, err := ebpf.EnableStats(unix.BPF_STATS_RUN_TIME)
	if err != nil {
		return 0, errors.Join(fmt.Errorf("enable BPF run-time statistics: %w", err), w.close())
	}
	w.stop = closer.Close
	defer func() { err = errors.Join(err, w.close()) }()
	if _, err := p.Run(&ebpf.RunOptions{Data: make([]byte, 64), Repeat: 1_000_000}); err != nil {
		return 0, fmt.Errorf("run an empty program: %w", err)
	}
	stats, err := p.Stats()
	if err != nil {
		return 0, fmt.Errorf("read run-time statistics: %w", err)
	}
	if stats.RunCount == 0 {
		return 0, errors.New("run an empty program: the kernel counted no run")
	}
	return float64(stats.Runtime) / float64(stats.RunCount), nil
}
