package main

import (
	"fmt"
	"os"
	"sync"
	"time"

	"golang.org/x/sys/unix"
)

// unreadPatience is how long a line waits for a reader who has read until now.
const unreadPatience = 100 * time.Millisecond

// unread writes to a file that somebody may have ceased to read: the other end of
// a pipe, on a node whose disk is full. A write would then wait without end, and
// with it what logs. Lines that nobody takes are dropped instead, and counted in a
// line of their own once there is a reader again.
type unread struct {
	mu      sync.Mutex
	file    *os.File
	dropped int // since the last line that was written
}

// skipUnread returns streams whose errors and log go by unread. CMD of exec gets
// the file itself, and its output is never dropped.
func (s *streams) skipUnread() *streams {
	if f, ok := s.err.(*os.File); ok {
		return &streams{out: s.out, err: &unread{file: f}}
	}
	return s
}

func (u *unread) Write(b []byte) (int, error) {
	u.mu.Lock()
	defer u.mu.Unlock()
	patience := unreadPatience
	if u.dropped > 0 {
		patience = 0 // it had its chance
	}
	if !writable(u.file, patience) {
		u.dropped++
		return len(b), nil
	}
	if u.dropped > 0 {
		if _, err := fmt.Fprintf(u.file, "weft: %d lines of log were dropped, for nobody read them\n", u.dropped); err != nil {
			return 0, err
		}
		u.dropped = 0
		if !writable(u.file, 0) {
			u.dropped = 1
			return len(b), nil
		}
	}
	return u.file.Write(b)
}

// writable says whether a line can be written now. A pipe is writable if it takes
// PIPE_BUF bytes, 4 KiB, which is more than a line has; a file of a disk always is.
func writable(f *os.File, patience time.Duration) bool {
	raw, err := f.SyscallConn()
	if err != nil {
		return true // closed: the write says so
	}
	ready := true
	if err := raw.Control(func(fd uintptr) {
		fds := []unix.PollFd{{Fd: int32(fd), Events: unix.POLLOUT}}
		deadline := time.Now().Add(patience)
		for {
			n, err := unix.Poll(fds, int(max(time.Until(deadline), 0).Milliseconds()))
			if err == unix.EINTR {
				continue
			}
			ready = err != nil || n > 0
			return
		}
	}); err != nil {
		return true
	}
	return ready
}
