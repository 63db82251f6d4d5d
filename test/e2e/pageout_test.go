package e2e

import (
	"encoding/binary"
	"errors"
	"fmt"
	"os"
	"sync"
	"testing"
	"time"
	"unsafe"

	"github.com/prometheus/procfs"
	"golang.org/x/sys/unix"
)

// pageOut takes the constants of a program out of memory: what of its executable is
// mapped to be read only, and by no other process. The program gets them again where it
// looks at them, but a kernel program that looks first does not. Some pages may stay;
// process_madvise(2) says which. It returns how many went.
func pageOut(pid int) (int, error) {
	p, err := procfs.NewProc(pid)
	if err != nil {
		return 0, err
	}
	exe, err := p.Executable()
	if err != nil {
		return 0, err
	}
	maps, err := p.ProcMaps()
	if err != nil {
		return 0, err
	}
	fd, err := unix.PidfdOpen(pid, 0)
	if err != nil {
		return 0, fmt.Errorf("open pidfd: %w", err)
	}
	defer unix.Close(fd)
	areas, went := 0, 0
	for _, m := range maps {
		if m.Pathname != exe || !m.Perms.Read || m.Perms.Write || m.Perms.Execute {
			continue
		}
		areas++
		before, err := present(pid, m)
		if err != nil {
			return 0, err
		}
		// Not an address of this process: the kernel alone follows it.
		area := [2]uintptr{m.StartAddr, m.EndAddr - m.StartAddr}
		if _, _, errno := unix.Syscall6(unix.SYS_PROCESS_MADVISE, uintptr(fd), uintptr(unsafe.Pointer(&area)), 1, unix.MADV_PAGEOUT, 0, 0); errno != 0 {
			return 0, fmt.Errorf("process_madvise, which Linux has since 5.10: %w", errno)
		}
		after, err := present(pid, m)
		if err != nil {
			return 0, err
		}
		went += max(before-after, 0) // it may have looked at some meanwhile
	}
	if areas == 0 {
		return 0, errors.New("no constants of it are mapped")
	}
	return went, nil
}

// present counts the pages of an area that a process need not wait for.
func present(pid int, m *procfs.ProcMap) (int, error) {
	f, err := os.Open(fmt.Sprintf("/proc/%d/pagemap", pid)) // see Documentation/admin-guide/mm/pagemap.rst
	if err != nil {
		return 0, err
	}
	defer f.Close()
	page := uintptr(os.Getpagesize())
	entries := make([]byte, 8*((m.EndAddr-m.StartAddr)/page))
	if _, err := f.ReadAt(entries, 8*int64(m.StartAddr/page)); err != nil {
		return 0, fmt.Errorf("read pagemap: %w", err)
	}
	n := 0
	for ; len(entries) > 0; entries = entries[8:] {
		if binary.NativeEndian.Uint64(entries)>>63 == 1 {
			n++
		}
	}
	return n, nil
}

// keepOut pages the programs' constants out some fifty times a second, until the
// function that it returns is called.
func keepOut(t *testing.T, programs ...*program) func() {
	done := make(chan struct{})
	went := make([]int, len(programs))
	var wg sync.WaitGroup
	wg.Go(func() {
		for {
			for i, p := range programs {
				n, err := pageOut(p.cmd.Process.Pid)
				if err != nil {
					t.Errorf("page out %s: %v", p.name, err)
					return
				}
				went[i] += n
			}
			select {
			case <-done:
				return
			case <-time.After(20 * time.Millisecond):
			}
		}
	})
	return func() {
		close(done)
		wg.Wait()
		for i, p := range programs {
			t.Logf("%s: %d pages went out of memory", p.name, went[i])
			if went[i] == 0 {
				t.Errorf("%s: its constants stayed in memory", p.name)
			}
		}
	}
}
