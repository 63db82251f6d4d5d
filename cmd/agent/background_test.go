package main

import (
	"os"
	"runtime"
	"strconv"
	"sync"
	"testing"

	"golang.org/x/sys/unix"
)

func TestProcessors(t *testing.T) {
	for _, c := range []struct{ cpus, allowed, want int }{
		{1, 1, 1}, {2, 2, 1}, {4, 4, 1}, {8, 8, 2}, {64, 64, 16},
		{64, 2, 2}, // a container's limit
		{64, 1, 1},
	} {
		if got := processors(c.cpus, c.allowed); got != c.want {
			t.Errorf("%d of %d CPUs for weft, of which %d are allowed: want %d", got, c.cpus, c.allowed, c.want)
		}
	}
}

// TestSetPolicy: threads that run and threads made later are changed, and none that
// was given another policy by hand.
func TestSetPolicy(t *testing.T) {
	idle := make(chan struct{})
	var all sync.WaitGroup
	defer all.Wait()
	defer close(idle)
	thread := func(policy uint32) int {
		tid := make(chan int)
		all.Go(func() {
			runtime.LockOSThread() // and never unlocked: the thread ends with the goroutine
			if policy != unix.SCHED_NORMAL {
				if err := unix.SchedSetAttr(0, &unix.SchedAttr{Policy: policy}, 0); err != nil {
					t.Error(err)
				}
			}
			tid <- unix.Gettid()
			<-idle
			// The process's first thread does not end.
			if err := unix.SchedSetAttr(0, &unix.SchedAttr{Policy: unix.SCHED_NORMAL}, 0); err != nil {
				t.Error(err)
			}
		})
		return <-tid
	}
	other := thread(unix.SCHED_IDLE)
	for range 20 {
		thread(unix.SCHED_NORMAL)
	}
	if err := setPolicy(unix.SCHED_NORMAL, unix.SCHED_BATCH); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := setPolicy(unix.SCHED_BATCH, unix.SCHED_NORMAL); err != nil {
			t.Error(err)
		}
	})
	for range 20 {
		thread(unix.SCHED_NORMAL)
	}
	tasks, err := os.ReadDir("/proc/self/task")
	if err != nil {
		t.Fatal(err)
	}
	if len(tasks) < 40 {
		t.Fatalf("%d threads, 40 were made", len(tasks))
	}
	for _, task := range tasks {
		tid, err := strconv.Atoi(task.Name())
		if err != nil {
			t.Fatal(err)
		}
		attr, err := unix.SchedGetAttr(tid, 0)
		if err != nil {
			continue // it has ended
		}
		want := uint32(unix.SCHED_BATCH)
		if tid == other {
			want = unix.SCHED_IDLE
		}
		if attr.Policy != want {
			t.Errorf("thread %d has policy %d, want %d", tid, attr.Policy, want)
		}
	}
}
