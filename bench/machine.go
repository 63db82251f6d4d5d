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
	traced, plain, agent, sink, bench time.Duration
	busy                              time.Duration // of all processes, interrupts left out
	interrupts                        time.Duration
	steal                             time.Duration // taken by the hypervisor for others
	at                                time.Time
	length                            time.Duration // between the two readings of a difference
}

// used reads the clocks: the kernel's own, in µs, of the cgroups.
func (b *bench) used(r *rig) (usage, error) {
	u := usage{at: time.Now()}
	for _, g := range []struct {
		of   *cgroup
		into *time.Duration
	}{{r.traced, &u.traced}, {r.plain, &u.plain}, {b.sinks, &u.sink}, {b.agents, &u.agent}} {
		cpu, err := g.of.cpu()
		if err != nil {
			return u, err
		}
		*g.into = cpu
	}
	var self unix.Rusage
	if err := unix.Getrusage(unix.RUSAGE_SELF, &self); err != nil {
		return u, fmt.Errorf("read own CPU time: %w", err)
	}
	u.bench = time.Duration(self.Utime.Nano() + self.Stime.Nano())
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

func seconds(s float64) time.Duration { return time.Duration(s * float64(time.Second)) }

func (u usage) since(was usage) usage {
	return usage{traced: u.traced - was.traced, plain: u.plain - was.plain, agent: u.agent - was.agent, sink: u.sink - was.sink,
		bench: u.bench - was.bench, busy: u.busy - was.busy, interrupts: u.interrupts - was.interrupts, steal: u.steal - was.steal,
		at: was.at, length: u.at.Sub(was.at)}
}

// others is what processes that are no part of the benchmark used.
func (u usage) others() time.Duration {
	return max(0, u.busy-u.traced-u.plain-u.agent-u.sink-u.bench)
}

// told is everything but the receiver of spans, which is no part of tracing.
func (u usage) told() time.Duration { return u.traced + u.plain + u.agent }

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
