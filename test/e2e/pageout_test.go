package e2e

import (
	"errors"
	"fmt"
	"sync"
	"testing"
	"time"
	"unsafe"

	"github.com/prometheus/procfs"
	"golang.org/x/sys/unix"
)

// pageOut takes the constants of a program out of memory: what of its executable is
// mapped to be read only. The program gets them again where it looks at them, but a
// kernel program that looks first does not. Some pages may stay; process_madvise(2)
// says which.
func pageOut(pid int) error {
	p, err := procfs.NewProc(pid)
	if err != nil {
		return err
	}
	exe, err := p.Executable()
	if err != nil {
		return err
	}
	maps, err := p.ProcMaps()
	if err != nil {
		return err
	}
	fd, err := unix.PidfdOpen(pid, 0)
	if err != nil {
		return fmt.Errorf("open pidfd: %w", err)
	}
	defer unix.Close(fd)
	out := false
	for _, m := range maps {
		if m.Pathname != exe || !m.Perms.Read || m.Perms.Write || m.Perms.Execute {
			continue
		}
		// Not an address of this process: the kernel alone follows it.
		area := [2]uintptr{m.StartAddr, m.EndAddr - m.StartAddr}
		if _, _, errno := unix.Syscall6(unix.SYS_PROCESS_MADVISE, uintptr(fd), uintptr(unsafe.Pointer(&area)), 1, unix.MADV_PAGEOUT, 0, 0); errno != 0 {
			return fmt.Errorf("process_madvise, which Linux has since 5.10: %w", errno)
		}
		out = true
	}
	if !out {
		return errors.New("no constants of it are mapped")
	}
	return nil
}

// keepOut pages the programs' constants out some fifty times a second, until the
// function that it returns is called.
func keepOut(t *testing.T, programs ...*program) func() {
	done := make(chan struct{})
	var wg sync.WaitGroup
	wg.Go(func() {
		for {
			for _, p := range programs {
				if err := pageOut(p.cmd.Process.Pid); err != nil {
					t.Errorf("page out %s: %v", p.name, err)
					return
				}
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
	}
}
