package main

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"time"

	"github.com/prometheus/procfs"

	"weft/loader"
)

// cgroup holds processes that are measured together and nothing else: what an agent
// is told to trace, the agent itself, the two ends of a hop. Its CPU time counts
// those that have ended, too.
type cgroup struct {
	name string
	path string
	dir  *os.File
}

func newCgroup(of string) (*cgroup, error) {
	mount, err := loader.Cgroup2Mount()
	if err != nil {
		return nil, err
	}
	g := &cgroup{name: "weft-bench-" + of + "-" + strconv.Itoa(os.Getpid())}
	g.path = filepath.Join(mount, g.name)
	if err := os.Mkdir(g.path, 0o755); err != nil {
		return nil, fmt.Errorf("make a cgroup for the %s: %w", of, err)
	}
	if g.dir, err = os.Open(g.path); err != nil {
		return nil, fmt.Errorf("open cgroup: %w", errors.Join(err, os.Remove(g.path)))
	}
	return g, nil
}

// attributes start a process in the group, and end it with this one.
func (g *cgroup) attributes() *syscall.SysProcAttr {
	return &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL, UseCgroupFD: true, CgroupFD: int(g.dir.Fd())}
}

// cpu is what the group has used since it was made. The kernel keeps it for every
// group of the unified hierarchy, whichever controllers are on.
func (g *cgroup) cpu() (time.Duration, error) {
	text, err := os.ReadFile(filepath.Join(g.path, "cpu.stat"))
	if err != nil {
		return 0, fmt.Errorf("read CPU time: %w", err)
	}
	for line := range strings.Lines(string(text)) {
		if value, ok := strings.CutPrefix(line, "usage_usec "); ok {
			us, err := strconv.ParseInt(strings.TrimSpace(value), 10, 64)
			if err != nil {
				return 0, fmt.Errorf("read CPU time: %w", err)
			}
			return time.Duration(us) * time.Microsecond, nil
		}
	}
	return 0, fmt.Errorf("read CPU time: %s/cpu.stat has no usage_usec", g.path)
}

// pids are the processes in the group now.
func (g *cgroup) pids() ([]int, error) {
	text, err := os.ReadFile(filepath.Join(g.path, "cgroup.procs"))
	if err != nil {
		return nil, fmt.Errorf("list processes: %w", err)
	}
	var out []int
	for _, field := range strings.Fields(string(text)) {
		pid, err := strconv.Atoi(field)
		if err != nil {
			return nil, fmt.Errorf("list processes: %w", err)
		}
		out = append(out, pid)
	}
	return out, nil
}

// resident is the largest resident set so far, bytes: the sum of those of the
// processes in the group now.
func (g *cgroup) resident() (total uint64, err error) {
	pids, err := g.pids()
	if err != nil {
		return 0, err
	}
	for _, pid := range pids {
		p, err := procfs.NewProc(pid)
		if err != nil {
			continue // ended meanwhile
		}
		s, err := p.NewStatus()
		if err != nil {
			continue
		}
		total += s.VmHWM
	}
	return total, nil
}

// empty ends all processes in the group and waits until they are gone.
func (g *cgroup) empty() error {
	for deadline := time.Now().Add(10 * time.Second); ; time.Sleep(10 * time.Millisecond) {
		pids, err := g.pids()
		if err != nil || len(pids) == 0 {
			return err
		}
		if time.Now().After(deadline) {
			return fmt.Errorf("empty cgroup %s: processes are left: %v", g.path, pids)
		}
		for _, pid := range pids {
			_ = syscall.Kill(pid, syscall.SIGKILL) // it may be gone already
		}
	}
}

// remove ends what is left in the group, and it.
func (g *cgroup) remove() error {
	err := errors.Join(g.empty(), g.dir.Close())
	for range 100 {
		rerr := os.Remove(g.path)
		if rerr == nil {
			return err
		}
		if !errors.Is(rerr, syscall.EBUSY) {
			return errors.Join(err, rerr)
		}
		time.Sleep(20 * time.Millisecond)
	}
	return errors.Join(err, fmt.Errorf("remove cgroup %s: it stays busy", g.path))
}
