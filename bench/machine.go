package main

import (
	"context"
	"fmt"
	"os"
	"runtime"
	"strings"
	"time"

	"github.com/prometheus/procfs"
	"golang.org/x/sys/unix"
)

// machine is what the figures hold for.
type machine struct {
	cpu      string
	cores    int
	virtual  bool
	memory   uint64 // bytes
	kernel   string
	lockdown string
	capture  string // the way the agent saw sends and receives
	date     string
	load     string // load averages at the start
}

func describeMachine() (machine, error) {
	m := machine{cores: runtime.NumCPU(), lockdown: "none", date: time.Now().UTC().Format("2006-01-02")}
	fs, err := procfs.NewDefaultFS()
	if err != nil {
		return m, fmt.Errorf("open /proc: %w", err)
	}
	cpus, err := fs.CPUInfo()
	if err != nil || len(cpus) == 0 {
		return m, fmt.Errorf("read /proc/cpuinfo: %w", err)
	}
	m.cpu = strings.TrimSpace(cpus[0].ModelName)
	for _, flag := range cpus[0].Flags {
		m.virtual = m.virtual || flag == "hypervisor"
	}
	memory, err := fs.Meminfo()
	if err != nil || memory.MemTotalBytes == nil {
		return m, fmt.Errorf("read /proc/meminfo: %w", err)
	}
	m.memory = *memory.MemTotalBytes
	load, err := fs.LoadAvg()
	if err != nil {
		return m, fmt.Errorf("read /proc/loadavg: %w", err)
	}
	m.load = fmt.Sprintf("%.2f", load.Load1)
	var u unix.Utsname
	if err := unix.Uname(&u); err != nil {
		return m, fmt.Errorf("ask uname: %w", err)
	}
	m.kernel = unix.ByteSliceToString(u.Release[:]) + " " + unix.ByteSliceToString(u.Machine[:])
	text, err := os.ReadFile("/sys/kernel/security/lockdown")
	if err != nil {
		m.lockdown = "unknown" // securityfs is not mounted
	} else if _, after, ok := strings.Cut(string(text), "["); ok {
		m.lockdown, _, _ = strings.Cut(after, "]")
	}
	return m, nil
}

// usage is CPU time by who used it.
type usage struct {
	traced, agent, sink, bench time.Duration
	relays                     time.Duration
	busy                       time.Duration // of all processes, interrupts left out
	interrupts                 time.Duration
	steal                      time.Duration // taken by the hypervisor for others
	at                         time.Time
	length                     time.Duration // between the two readings of a difference
}

// used reads the clocks: in units of 10 ms, which the kernel rounds from the
// scheduler's nanoseconds.
func (b *bench) used() (usage, error) {
	u := usage{at: time.Now()}
	for _, p := range []struct {
		pid  int
		into *time.Duration
	}{{b.server.cmd.Process.Pid, &u.traced}, {b.client.cmd.Process.Pid, &u.traced}, {b.sink.cmd.Process.Pid, &u.sink},
		{os.Getpid(), &u.bench}, {b.agentPID(), &u.agent}} {
		if p.pid == 0 {
			continue
		}
		cpu, err := cpuTime(p.pid)
		if err != nil {
			return u, err
		}
		*p.into += cpu
	}
	for _, r := range b.relays {
		cpu, err := cpuTime(r.cmd.Process.Pid)
		if err != nil {
			return u, err
		}
		u.relays += cpu
	}
	fs, err := procfs.NewDefaultFS()
	if err != nil {
		return u, fmt.Errorf("open /proc: %w", err)
	}
	stat, err := fs.Stat()
	if err != nil {
		return u, fmt.Errorf("read /proc/stat: %w", err)
	}
	t := stat.CPUTotal
	u.busy, u.interrupts, u.steal = seconds(t.User+t.Nice+t.System), seconds(t.IRQ+t.SoftIRQ), seconds(t.Steal)
	return u, nil
}

func cpuTime(pid int) (time.Duration, error) {
	proc, err := procfs.NewProc(pid)
	if err != nil {
		return 0, fmt.Errorf("read CPU time of %d: %w", pid, err)
	}
	stat, err := proc.Stat()
	if err != nil {
		return 0, fmt.Errorf("read CPU time of %d: %w", pid, err)
	}
	return seconds(stat.CPUTime()), nil
}

func (b *bench) agentPID() int {
	if b.agent == nil {
		return 0
	}
	return b.agent.cmd.Process.Pid
}

func seconds(s float64) time.Duration { return time.Duration(s * float64(time.Second)) }

func (u usage) since(was usage) usage {
	return usage{traced: u.traced - was.traced, agent: u.agent - was.agent, sink: u.sink - was.sink, bench: u.bench - was.bench,
		relays: u.relays - was.relays, busy: u.busy - was.busy, interrupts: u.interrupts - was.interrupts, steal: u.steal - was.steal, at: was.at, length: u.at.Sub(was.at)}
}

// others is what processes that are no part of the benchmark used.
func (u usage) others() time.Duration {
	return max(0, u.busy-u.traced-u.relays-u.agent-u.sink-u.bench)
}

// waitQuiet waits for others to finish, but not for ever.
func (b *bench) waitQuiet(ctx context.Context) {
	fs, err := procfs.NewDefaultFS()
	if err != nil {
		return
	}
	told := false
	for deadline := time.Now().Add(b.quietWithin); ctx.Err() == nil; {
		load, err := fs.LoadAvg()
		if err != nil || load.Load1 < b.quiet {
			return
		}
		if time.Now().After(deadline) {
			b.say("the load average is still %.2f: others are at work, expect wide intervals", load.Load1)
			return
		}
		if !told {
			b.say("the load average is %.2f: waiting up to %v for it to fall below %.2f", load.Load1, b.quietWithin, b.quiet)
			told = true
		}
		select {
		case <-ctx.Done():
		case <-time.After(2 * time.Second):
		}
	}
}
