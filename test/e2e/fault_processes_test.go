package e2e

import (
	"fmt"
	"io"
	"os/exec"
	"syscall"
	"testing"
	"time"

	"weft/test/e2e/footprint"
)

// perMinute is the rate of processes that come and go at once.
const perMinute = 10_000

// TestFaultShortLivedProcesses starts 10,000 processes a minute, outside of what
// weft is told to trace and inside of it. Neither may cost much, and nothing of a
// process may outlive it.
func TestFaultShortLivedProcesses(t *testing.T) {
	brief := briefProgram(t)
	server := goProgram(t, "./test/apps/rawhttp")
	for _, selected := range []bool{false, true} {
		t.Run(fmt.Sprintf("selected=%v", selected), func(t *testing.T) {
			g, other := newGroup(t), newGroup(t)
			addr, _ := startRawServer(t, g)
			a := startAgent(t, g, startSink(t), agentOptions{extra: "log: {level: warn}\n"})
			load := startSteadyLoad(t, g, addr, loadClients, 20*time.Millisecond)
			load.sends(t, 200)
			at := other
			if selected {
				at = g
			}
			traced := a.metrics()["weft_processes_selected"]
			flood(t, at, brief, perMinute/30, perMinute) // what is allocated once
			before := a.footprint()
			n, took := flood(t, at, brief, scaled(t, perMinute/6), perMinute)
			// A few that do something: those that die with a connection open.
			for range 5 {
				startBurst(at, server, addr).finish(t)
			}
			after := a.footprint()
			load.end(t)
			judgeFlood(t, before, after, n, selected)
			eventually(t, 30*time.Second, func() error {
				// What ended before it was selected is found within ten seconds. The server is left; the load has ended.
				if now := a.metrics()["weft_processes_selected"]; now != traced-1 {
					return fmt.Errorf("%v processes are selected, want %v", now, traced-1)
				}
				s := a.footprint()
				if s.Entries["targets"] != int(traced)-1 {
					return fmt.Errorf("%d entries in targets, want %v", s.Entries["targets"], traced-1)
				}
				if s.Entries["conns"] > 0 || s.Entries["exchanges"] > 0 || s.Entries["sockets"] > 0 {
					return fmt.Errorf("entries in the maps: %v", s.Entries)
				}
				return nil
			})
			for name, n := range a.losses() {
				t.Errorf("%s is %v", name, n)
			}
			a.stop()
			judgeRate(t, brief, n, took)
		})
	}
}

func judgeFlood(t *testing.T, before, after footprint.Sample, n int, selected bool) {
	t.Helper()
	wall := after.At.Sub(before.At)
	cpu := after.CPU - before.CPU
	t.Logf("%d processes and a load in %v: weft's CPU %v, %.1f %% of a core, %v a process; RSS %d → %d MiB",
		n, wall.Round(time.Millisecond), cpu, 100*cpu.Seconds()/wall.Seconds(), cpu/time.Duration(n),
		before.RSS/mib, after.RSS/mib)
	if scale(t) == 1 && cpu > wall/2 {
		t.Errorf("weft used %v of CPU in %v", cpu, wall)
	}
	// What is known of a process is kept for half a minute after its end.
	allowed := uint64(16 * mib)
	if selected {
		allowed += uint64(n) * 8 << 10
	}
	if after.RSS > before.RSS+allowed {
		t.Errorf("RSS rose from %d to %d MiB", before.RSS/mib, after.RSS/mib)
	}
	if after.Links != before.Links || after.Maps != before.Maps || after.Programs != before.Programs || after.FDs > before.FDs+8 {
		t.Errorf("links %d → %d, maps %d → %d, programs %d → %d, descriptors %d → %d", before.Links, after.Links,
			before.Maps, after.Maps, before.Programs, after.Programs, before.FDs, after.FDs)
	}
}

// TestFaultManyProcesses: 2,000 processes are there when weft starts, and come
// while it runs.
func TestFaultManyProcesses(t *testing.T) {
	sleep, err := tool("sleep", "coreutils")
	need(t, "sh", err)
	many := scaled(t, 2000)
	g := newGroup(t)
	sink := startSink(t)
	addr, _ := startRawServer(t, g)
	load := startSteadyLoad(t, g, addr, loadClients, 20*time.Millisecond)
	start := func() []*exec.Cmd {
		var all []*exec.Cmd
		for range many {
			cmd := exec.Command(sleep, "3600")
			cmd.SysProcAttr = &syscall.SysProcAttr{UseCgroupFD: true, CgroupFD: int(g.fd.Fd())}
			if err := cmd.Start(); err != nil {
				t.Fatal(err)
			}
			t.Cleanup(func() { _ = cmd.Process.Kill() }) // most have ended
			all = append(all, cmd)
		}
		return all
	}
	end := func(all []*exec.Cmd) {
		for _, cmd := range all {
			_ = cmd.Process.Kill()
		}
		for _, cmd := range all {
			_ = cmd.Wait() // killed
		}
	}
	selects := func(a *agent, want int) time.Duration {
		t.Helper()
		began := time.Now()
		eventually(t, time.Minute, func() error {
			m := a.metrics()
			if got := m["weft_processes_selected"]; int(got) != want {
				return fmt.Errorf("%v processes are selected, want %d", got, want)
			}
			return nil
		})
		return time.Since(began).Round(time.Millisecond)
	}

	all := start()
	began := time.Now()
	a := launchAgent(t, g, sink, agentOptions{extra: "log: {level: warn}\n"})
	// A minute is for a busy machine; an idle one takes two seconds.
	eventually(t, time.Minute, func() error { return a.get("/readyz", io.Discard) })
	ready := time.Since(began).Round(time.Millisecond)
	selects(a, many+2) // and the load's two ends
	full := a.footprint()
	end(all)
	gone := selects(a, 2)
	empty := a.footprint()

	began = time.Now()
	all = start()
	startTook := time.Since(began).Round(time.Millisecond)
	came := selects(a, many+2)
	again := a.footprint()
	end(all)
	selects(a, 2)
	load.end(t)

	t.Logf("%d processes: weft ready after %v with %d MiB; %v after they ended, none was selected; %d more, started within %v, were selected %v later; RSS %d, then %d MiB",
		many, ready, full.RSS/mib, gone, many, startTook, came, empty.RSS/mib, again.RSS/mib)
	if most := max(full.RSS, again.RSS); most > 160*mib {
		t.Errorf("RSS is %d MiB with %d processes", most/mib, many)
	}
	if full.FDs > empty.FDs+8 || again.FDs > empty.FDs+8 || full.Links != again.Links {
		t.Errorf("descriptors %d, %d and %d, links %d and %d: something is kept for each process",
			full.FDs, empty.FDs, again.FDs, full.Links, again.Links)
	}
	if full.Entries["targets"] != many+2 || empty.Entries["targets"] != 2 || again.Entries["targets"] != many+2 {
		t.Errorf("entries in targets: %d, %d, %d", full.Entries["targets"], empty.Entries["targets"], again.Entries["targets"])
	}
	for name, n := range a.losses() {
		t.Errorf("%s is %v", name, n)
	}
	a.stop()
}
