package loader

import (
	"errors"
	"fmt"

	"golang.org/x/sys/unix"
)

// adopt puts the established client connections of a process that was running
// already into the sockhash. It works on a duplicate of each descriptor
// (pidfd_getfd), so it needs neither the process's cooperation nor its network
// namespace. Which end of a connection the process is, the kernel does not keep:
// a local port on which somebody in that namespace listens means server. An error
// here costs nothing but propagation: the sk_msg program edits only what turns
// out to be requests, from the first boundary it can be sure of.
func (i *injector) adopt(pid uint32) (adopted int, err error) {
	fds, err := sockets(pid)
	if err != nil {
		return 0, err
	}
	if len(fds) == 0 {
		return 0, nil
	}
	inodes, err := listeners(pid)
	if err != nil {
		return 0, err
	}
	listening := map[int]bool{}
	for _, port := range inodes {
		listening[int(port)] = true
	}
	pidfd, err := unix.PidfdOpen(int(pid), 0)
	if err != nil {
		return 0, fmt.Errorf("open pidfd of %d: %w", pid, err)
	}
	defer unix.Close(pidfd) //nolint:errcheck // nothing to do about it
	var errs []error
	for fd := range fds {
		ok, err := i.adoptOne(pidfd, fd, listening)
		if ok {
			adopted++
		}
		if err != nil {
			errs = append(errs, fmt.Errorf("adopt descriptor %d of process %d: %w", fd, pid, err))
		}
	}
	return adopted, errors.Join(errs...)
}

// adoptable says whether a socket may be put into the sockhash while its program
// uses it. With the receive program attached, a thread that already sleeps in
// recv on the socket would never see the bytes that arrive (it waits on a queue
// which they no longer join), so only non-blocking sockets are taken over then:
// their readers sleep in poll, which knows both queues.
func (i *injector) adoptable(fd int) bool {
	if !i.receiving {
		return true
	}
	flags, err := unix.FcntlInt(uintptr(fd), unix.F_GETFL, 0)
	return err == nil && flags&unix.O_NONBLOCK != 0
}

func (i *injector) adoptOne(pidfd, fd int, listening map[int]bool) (bool, error) {
	dup, err := unix.PidfdGetfd(pidfd, fd, 0)
	if errors.Is(err, unix.EBADF) || errors.Is(err, unix.ESRCH) {
		return false, nil // closed meanwhile
	}
	if err != nil {
		return false, err
	}
	defer unix.Close(dup) //nolint:errcheck // a duplicate of ours
	if protocol, err := unix.GetsockoptInt(dup, unix.SOL_SOCKET, unix.SO_PROTOCOL); err != nil || protocol != unix.IPPROTO_TCP {
		return false, nil
	}
	if _, err := unix.Getpeername(dup); err != nil {
		return false, nil // listening, or not connected
	}
	local, err := unix.Getsockname(dup)
	if err != nil {
		return false, nil
	}
	switch a := local.(type) {
	case *unix.SockaddrInet4:
		if listening[a.Port] {
			return false, nil
		}
	case *unix.SockaddrInet6:
		if listening[a.Port] {
			return false, nil
		}
	default:
		return false, nil
	}
	if !i.adoptable(dup) {
		return false, errBlocking
	}
	err = i.add(dup)
	if errors.Is(err, unix.EBUSY) && i.receiving && len(i.behind) > 1 {
		return true, nil // bound to the entry of an agent before this one, and seen
	}
	return err == nil, err
}
