package loader

import (
	"errors"
	"fmt"
	"os"
	"slices"
	"time"

	"github.com/prometheus/procfs"
	"golang.org/x/sys/unix"
)

// reselect asks the selector about every process again: it is another one.
func (f *finder) reselect(h Handler) error {
	f.seen, f.warned, f.started = map[string]bool{}, false, time.Now()
	all, err := procfs.AllProcs()
	if err != nil {
		return fmt.Errorf("list processes: %w", err)
	}
	namespaces := map[string]map[uint64]uint16{}
	var children []procfs.Proc // selected for their parent's sake
	for _, p := range all {
		was := f.tracked[uint32(p.PID)]
		switch {
		case p.PID == os.Getpid():
		case was != nil && was.inherited:
			children = append(children, p)
		default:
			f.look(h, uint32(p.PID), 0, namespaces)
		}
	}
	// Such a child stays for as long as its parent does; it may be a parent itself.
	for before := -1; before != len(children); {
		before = len(children)
		children = slices.DeleteFunc(children, func(p procfs.Proc) bool {
			stat, err := p.Stat()
			if err == nil && f.tracked[uint32(stat.PPID)] != nil {
				return false
			}
			f.look(h, uint32(p.PID), 0, namespaces)
			return true
		})
	}
	for _, p := range children {
		f.relook(h, []uint32{uint32(p.PID)})
	}
	return nil
}

// release takes the sockets of a process that is no longer selected out of the
// sockhash. Where they cannot leave it, their sends pass unread.
func (i *injector) release(pid uint32) error {
	if i.receiving {
		return nil
	}
	fds, err := sockets(pid)
	if err != nil || len(fds) == 0 {
		return err
	}
	pidfd, err := unix.PidfdOpen(int(pid), 0)
	if err != nil {
		return fmt.Errorf("open pidfd of %d: %w", pid, err)
	}
	defer unix.Close(pidfd) //nolint:errcheck // nothing to do about it
	var errs []error
	for fd := range fds {
		dup, err := unix.PidfdGetfd(pidfd, fd, 0)
		if err != nil {
			continue // closed meanwhile
		}
		if cookie, err := unix.GetsockoptUint64(dup, unix.SOL_SOCKET, unix.SO_COOKIE); err == nil {
			errs = append(errs, i.remove(cookie))
		}
		unix.Close(dup) //nolint:errcheck // a duplicate of ours
	}
	return errors.Join(errs...)
}
