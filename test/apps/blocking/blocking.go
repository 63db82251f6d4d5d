// Package blocking is TCP by plain blocking system calls, so that the calling
// thread does the sending and receiving and a test decides by which call.
package blocking

import (
	"errors"
	"fmt"
	"io"
	"net/netip"
	"os"
	"unsafe"

	"golang.org/x/sys/unix"
)

// Conn is a connected blocking socket.
type Conn struct{ fd int }

func sockaddr(addr netip.AddrPort) (unix.Sockaddr, int) {
	if addr.Addr().Is4() {
		return &unix.SockaddrInet4{Port: int(addr.Port()), Addr: addr.Addr().As4()}, unix.AF_INET
	}
	return &unix.SockaddrInet6{Port: int(addr.Port()), Addr: addr.Addr().As16()}, unix.AF_INET6
}

// Listen returns a listening socket; a v6 wildcard takes IPv4 as well.
func Listen(address string) (int, error) {
	addr, err := netip.ParseAddrPort(address)
	if err != nil {
		return -1, fmt.Errorf("listen on %s: %w", address, err)
	}
	sa, family := sockaddr(addr)
	fd, err := unix.Socket(family, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return -1, fmt.Errorf("create socket: %w", err)
	}
	err = unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_REUSEADDR, 1)
	if err == nil && family == unix.AF_INET6 {
		err = unix.SetsockoptInt(fd, unix.IPPROTO_IPV6, unix.IPV6_V6ONLY, 0)
	}
	if err == nil {
		err = unix.Bind(fd, sa)
	}
	if err == nil {
		err = unix.Listen(fd, 512)
	}
	if err != nil {
		return -1, errors.Join(fmt.Errorf("listen on %s: %w", address, err), unix.Close(fd))
	}
	return fd, nil
}

// Accept waits for a connection.
func Accept(listener int) (*Conn, error) {
	for {
		fd, _, err := unix.Accept4(listener, unix.SOCK_CLOEXEC)
		switch {
		case errors.Is(err, unix.EINTR), errors.Is(err, unix.ECONNABORTED):
		case err != nil:
			return nil, fmt.Errorf("accept: %w", err)
		default:
			c := &Conn{fd}
			return c, c.NoDelay(true)
		}
	}
}

// Dial connects; a v4-mapped address is connected from an IPv6 socket.
func Dial(address string) (*Conn, error) {
	addr, err := netip.ParseAddrPort(address)
	if err != nil {
		return nil, fmt.Errorf("connect to %s: %w", address, err)
	}
	sa, family := sockaddr(addr)
	fd, err := unix.Socket(family, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return nil, fmt.Errorf("create socket: %w", err)
	}
	if err := unix.Connect(fd, sa); err != nil {
		return nil, errors.Join(fmt.Errorf("connect to %s: %w", address, err), unix.Close(fd))
	}
	return &Conn{fd}, nil
}

// NonBlocking makes the socket what event loops use: calls return EAGAIN, and
// Conn waits in poll(2) instead of in the call.
func (c *Conn) NonBlocking() error {
	if err := unix.SetNonblock(c.fd, true); err != nil {
		return fmt.Errorf("set O_NONBLOCK: %w", err)
	}
	return nil
}

func (c *Conn) await(events int16) error {
	_, err := unix.Poll([]unix.PollFd{{Fd: int32(c.fd), Events: events}}, -1)
	if err != nil && !errors.Is(err, unix.EINTR) {
		return fmt.Errorf("poll: %w", err)
	}
	return nil
}

// NoDelay turns Nagle's algorithm off or on.
func (c *Conn) NoDelay(on bool) error {
	v := 0
	if on {
		v = 1
	}
	if err := unix.SetsockoptInt(c.fd, unix.IPPROTO_TCP, unix.TCP_NODELAY, v); err != nil {
		return fmt.Errorf("set TCP_NODELAY: %w", err)
	}
	return nil
}

// Reset makes Close send RST instead of FIN.
func (c *Conn) Reset() error {
	if err := unix.SetsockoptLinger(c.fd, unix.SOL_SOCKET, unix.SO_LINGER, &unix.Linger{Onoff: 1}); err != nil {
		return fmt.Errorf("set SO_LINGER: %w", err)
	}
	return nil
}

// Close closes the socket.
func (c *Conn) Close() error { return unix.Close(c.fd) }

// Read implements io.Reader by read(2).
func (c *Conn) Read(b []byte) (int, error) {
	for {
		n, err := unix.Read(c.fd, b)
		switch {
		case errors.Is(err, unix.EINTR):
		case errors.Is(err, unix.EAGAIN):
			if err := c.await(unix.POLLIN); err != nil {
				return 0, err
			}
		case err != nil:
			return 0, fmt.Errorf("read: %w", err)
		case n == 0 && len(b) > 0:
			return 0, io.EOF
		default:
			return n, nil
		}
	}
}

// Write implements io.Writer by write(2).
func (c *Conn) Write(b []byte) (int, error) {
	return c.all(b, func(rest []byte) (int, error) { return unix.Write(c.fd, rest) })
}

// Writev writes by writev(2), three vectors a call.
func (c *Conn) Writev(b []byte) (int, error) {
	return c.all(b, func(rest []byte) (int, error) { return unix.Writev(c.fd, vectors(rest)) })
}

// Sendmsg writes by sendmsg(2), three vectors a call.
func (c *Conn) Sendmsg(b []byte) (int, error) {
	return c.all(b, func(rest []byte) (int, error) {
		return unix.SendmsgBuffers(c.fd, vectors(rest), nil, nil, unix.MSG_NOSIGNAL)
	})
}

// Sendto writes by sendto(2).
func (c *Conn) Sendto(b []byte) (int, error) {
	return c.all(b, func(rest []byte) (int, error) {
		// unix.Send does not say how much was taken.
		n, _, errno := unix.Syscall6(unix.SYS_SENDTO, uintptr(c.fd), uintptr(unsafe.Pointer(unsafe.SliceData(rest))),
			uintptr(len(rest)), unix.MSG_NOSIGNAL, 0, 0)
		if errno != 0 {
			return 0, errno
		}
		return int(n), nil
	})
}

// Sendfile writes by sendfile(2) from a file in memory.
func (c *Conn) Sendfile(b []byte) (int, error) {
	fd, err := unix.MemfdCreate("rawhttp", unix.MFD_CLOEXEC)
	if err != nil {
		return 0, fmt.Errorf("create memory file: %w", err)
	}
	f := os.NewFile(uintptr(fd), "rawhttp")
	defer f.Close()
	if _, err := f.Write(b); err != nil {
		return 0, fmt.Errorf("fill memory file: %w", err)
	}
	var offset int64
	return c.all(b, func(rest []byte) (int, error) {
		return unix.Sendfile(c.fd, fd, &offset, len(rest))
	})
}

func (c *Conn) all(b []byte, send func([]byte) (int, error)) (int, error) {
	for done := 0; done < len(b); {
		n, err := send(b[done:])
		switch {
		case errors.Is(err, unix.EINTR):
		case errors.Is(err, unix.EAGAIN):
			if err := c.await(unix.POLLOUT); err != nil {
				return done, err
			}
		case err != nil:
			return done, fmt.Errorf("send: %w", err)
		case n > len(b)-done:
			return done, fmt.Errorf("send: kernel took %d bytes of %d", n, len(b)-done)
		default:
			done += n
		}
	}
	return len(b), nil
}

func vectors(b []byte) [][]byte {
	third := len(b) / 3
	if third == 0 {
		return [][]byte{b}
	}
	return [][]byte{b[:third], b[third : 2*third], b[2*third:]}
}
