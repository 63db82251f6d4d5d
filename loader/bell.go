package loader

import (
	"errors"
	"fmt"
	"os"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// bell is what a ring rings for records that cannot wait. Waiting for it goes
// through Go's own poller: a thread that sleeps in epoll_wait by itself takes a
// processor of the scheduler with it, and with one processor nothing else would
// run until the runtime notices, up to 10 ms later.
type bell struct {
	file *os.File
	conn syscall.RawConn
}

// newBell listens to the ring with this file descriptor, which stays its owner's.
func newBell(fd int) (*bell, error) {
	own, err := unix.FcntlInt(uintptr(fd), unix.F_DUPFD_CLOEXEC, 0)
	if err != nil {
		return nil, fmt.Errorf("listen to event ring: %w", err)
	}
	if err := unix.SetNonblock(own, true); err != nil { // or it is no file of the poller's
		return nil, errors.Join(fmt.Errorf("listen to event ring: %w", err), unix.Close(own))
	}
	b := &bell{file: os.NewFile(uintptr(own), "event ring")}
	if b.conn, err = b.file.SyscallConn(); err == nil {
		err = b.file.SetReadDeadline(time.Time{}) // fails for a file that cannot be waited for
	}
	if err != nil {
		return nil, errors.Join(fmt.Errorf("listen to event ring: %w", err), b.file.Close())
	}
	return b, nil
}

// wait sleeps until the ring rings, at most as long as said. A ring that rang
// before is not heard; what it rang for is read before each wait.
func (b *bell) wait(most time.Duration) error {
	if err := b.file.SetReadDeadline(time.Now().Add(most)); err != nil {
		return fmt.Errorf("wait for event ring: %w", err)
	}
	slept := false
	err := b.conn.Read(func(uintptr) bool {
		woken := slept
		slept = true
		return woken
	})
	if err != nil && !isDeadline(err) {
		return fmt.Errorf("wait for event ring: %w", err)
	}
	return nil
}

func (b *bell) close() error { return b.file.Close() }
