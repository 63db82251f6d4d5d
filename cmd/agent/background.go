package main

import (
	"errors"
	"fmt"
	"log/slog"
	"os"
	"runtime"
	"strconv"

	"golang.org/x/sys/unix"
)

// background makes weft wait for its turn beside the programs that it traces: it
// does not interrupt a thread that runs, and leaves most CPUs alone. What it has to
// do in time, to renew the deadline of injection and to empty the ring, has hundreds
// of milliseconds.
func background(log *slog.Logger) {
	if os.Getenv("GOMAXPROCS") == "" {
		runtime.GOMAXPROCS(processors(runtime.NumCPU(), runtime.GOMAXPROCS(0)))
	}
	if err := setPolicy(unix.SCHED_NORMAL, unix.SCHED_BATCH); err != nil {
		log.Info("weft may interrupt the programs that it traces", "err", err)
	}
}

// processors is how many of these CPUs weft uses: at most a quarter, and at most what
// Go would, which heeds the limit of a container.
func processors(cpus, allowed int) int { return min(allowed, max(1, cpus/4)) }

// setPolicy gives another scheduling policy to all threads that have this one.
// Threads made later have that of the thread which makes them.
func setPolicy(from, to uint32) error {
	for {
		// A thread that was not changed yet may have made another meanwhile.
		changed, err := setPolicyOnce(from, to)
		if err != nil || !changed {
			return err
		}
	}
}

func setPolicyOnce(from, to uint32) (changed bool, err error) {
	tasks, err := os.ReadDir("/proc/self/task")
	if err != nil {
		return false, fmt.Errorf("list own threads: %w", err)
	}
	for _, task := range tasks {
		tid, err := strconv.Atoi(task.Name())
		if err != nil {
			return changed, fmt.Errorf("list own threads: %w", err)
		}
		attr, err := unix.SchedGetAttr(tid, 0)
		if err == nil && attr.Policy == from {
			attr.Policy, changed = to, true // its nice value stays
			err = unix.SchedSetAttr(tid, attr, 0)
		}
		if err != nil && !errors.Is(err, unix.ESRCH) {
			return changed, fmt.Errorf("set scheduling policy: %w", err)
		}
	}
	return changed, nil
}
