package loader

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"strings"
	"time"

	"github.com/cilium/ebpf"
	"golang.org/x/sys/unix"
)

// selfTestWait bounds each step; a healthy kernel needs microseconds.
const selfTestWait = 2 * time.Second

// errFIONREAD is the regression of 6.18.14, 6.12.75 and 6.6.128, which
// bpf/inject/receive.h describes and works around.
var errFIONREAD = errors.New("FIONREAD is wrong for a socket in a sockmap")

// selfTest puts a loopback pair of the agent's own through the sk_msg path and
// compares what arrives byte by byte. Kernels have shipped sockmap regressions;
// one that fails here is not used for injection.
func selfTest(i *injector, targets *ebpf.Map) error {
	self := uint32(os.Getpid())
	quiet := WeftWeftTarget{Flags: uint32(WeftWeftTargetFlagWEFT_TARGET_QUIET)}
	if err := targets.Put(self, quiet); err != nil {
		return fmt.Errorf("select own process: %w", err)
	}
	defer targets.Delete(self) //nolint:errcheck // exit deletes it at the latest
	for _, step := range []struct {
		name string
		run  func(p *pair) error
	}{
		{"small request", (*pair).small},
		{"head split over two sends", (*pair).split},
		{"64 KiB body in one send", (*pair).large},
		{"body by sendfile", (*pair).sendfile},
		{"FIONREAD and wake-up on receive", (*pair).readable},
		{"bytes that are not HTTP", (*pair).opaque},
		{"HTTP/2 request", (*pair).http2},
	} {
		p, err := newPair(i)
		if err != nil {
			return err
		}
		err = errors.Join(step.run(p), p.close())
		if err != nil {
			return fmt.Errorf("%s: %w", step.name, err)
		}
	}
	return nil
}

// pair is a client in the sockhash and the server it is connected to.
type pair struct {
	client, server *net.TCPConn
}

func newPair(i *injector) (*pair, error) {
	p, err := newLoopback()
	if err != nil {
		return nil, err
	}
	deadline := time.Now().Add(selfTestWait)
	err = errors.Join(p.client.SetDeadline(deadline), p.server.SetDeadline(deadline), withFD(p.client, i.add))
	if err != nil {
		return nil, errors.Join(err, p.close())
	}
	return p, nil
}

// newLoopback is a connection of this process to itself.
func newLoopback() (*pair, error) {
	listener, err := net.ListenTCP("tcp4", &net.TCPAddr{IP: net.IPv4(127, 0, 0, 1)})
	if err != nil {
		return nil, fmt.Errorf("listen on loopback: %w", err)
	}
	defer listener.Close() //nolint:errcheck // only ever accepts one
	client, err := net.DialTCP("tcp4", nil, listener.Addr().(*net.TCPAddr))
	if err != nil {
		return nil, fmt.Errorf("connect on loopback: %w", err)
	}
	server, err := listener.AcceptTCP()
	if err != nil {
		return nil, errors.Join(fmt.Errorf("accept on loopback: %w", err), client.Close())
	}
	return &pair{client: client, server: server}, nil
}

func (p *pair) close() error { return errors.Join(p.client.Close(), p.server.Close()) }

func withFD(c *net.TCPConn, do func(fd int) error) error {
	raw, err := c.SyscallConn()
	if err != nil {
		return err
	}
	var inner error
	if err := raw.Control(func(fd uintptr) { inner = do(int(fd)) }); err != nil {
		return err
	}
	return inner
}

const selfTestHead = "POST /weft-self-test HTTP/1.1\r\nHost: localhost\r\nContent-Length: %d\r\n\r\n"

// lineLength is "traceparent: " + 55 + CR LF.
const lineLength = 70

// expect reads what the server gets for a request of head and body, and checks
// that it is those bytes with one traceparent line before the blank one.
func (p *pair) expect(head string, body []byte) error {
	got := make([]byte, len(head)+lineLength+len(body))
	if _, err := io.ReadFull(p.server, got); err != nil {
		return fmt.Errorf("receive: %w", err)
	}
	before := head[:len(head)-2]
	line := string(got[len(before) : len(before)+lineLength])
	switch {
	case string(got[:len(before)]) != before:
		return errors.New("the head arrived changed")
	case !strings.HasPrefix(line, "traceparent: 00-") || !strings.HasSuffix(line, "\r\n"):
		return errors.New("the head arrived without a traceparent line")
	case string(got[len(before)+lineLength:len(head)+lineLength]) != "\r\n":
		return errors.New("the end of the head arrived changed")
	case !bytes.Equal(got[len(head)+lineLength:], body):
		return errors.New("the body arrived changed")
	}
	return nil
}

func selfTestBody(n int) []byte {
	b := make([]byte, n)
	for i := range b {
		b[i] = byte(i*7 + i>>8)
	}
	return b
}

func (p *pair) small() error {
	head := fmt.Sprintf(selfTestHead, 5)
	if _, err := p.client.Write([]byte(head + "hello")); err != nil {
		return fmt.Errorf("send: %w", err)
	}
	return p.expect(head, []byte("hello"))
}

func (p *pair) split() error {
	head := fmt.Sprintf(selfTestHead, 0)
	for _, part := range []string{head[:11], head[11:]} {
		if _, err := p.client.Write([]byte(part)); err != nil {
			return fmt.Errorf("send: %w", err)
		}
	}
	return p.expect(head, nil)
}

func (p *pair) large() error {
	body := selfTestBody(64 << 10)
	head := fmt.Sprintf(selfTestHead, len(body))
	return p.send(head, body, func() error {
		_, err := p.client.Write(append([]byte(head), body...))
		return err
	})
}

func (p *pair) sendfile() error {
	body := selfTestBody(64 << 10)
	// In memory: the file system may be read-only.
	fd, err := unix.MemfdCreate("weft-self-test", unix.MFD_CLOEXEC)
	if err != nil {
		return fmt.Errorf("create file in memory: %w", err)
	}
	file := os.NewFile(uintptr(fd), "weft-self-test")
	defer file.Close() //nolint:errcheck // read only from here on
	if _, err := file.WriteAt(body, 0); err != nil {
		return fmt.Errorf("write file: %w", err)
	}
	head := fmt.Sprintf(selfTestHead, len(body))
	return p.send(head, body, func() error {
		if _, err := p.client.Write([]byte(head)); err != nil {
			return err
		}
		_, err := p.client.ReadFrom(file)
		return err
	})
}

// send runs write beside the receiver: 64 KiB need not fit the buffers.
func (p *pair) send(head string, body []byte, write func() error) error {
	sent := make(chan error, 1)
	go func() { sent <- write() }()
	if err := p.expect(head, body); err != nil {
		return err
	}
	if err := <-sent; err != nil {
		return fmt.Errorf("send: %w", err)
	}
	return nil
}

// readable checks the receiving side of a socket in the sockhash.
func (p *pair) readable() error {
	const reply = "HTTP/1.1 204 No Content\r\n\r\n"
	if err := p.small(); err != nil {
		return err
	}
	woken := make(chan error, 1)
	go func() {
		// The first byte is waited for in poll, like any event loop does.
		woken <- withFD(p.client, func(fd int) error {
			fds := []unix.PollFd{{Fd: int32(fd), Events: unix.POLLIN}}
			for {
				n, err := unix.Poll(fds, int(selfTestWait/time.Millisecond))
				if errors.Is(err, unix.EINTR) {
					continue
				}
				if err == nil && n == 0 {
					return errors.New("poll did not report received bytes")
				}
				return err
			}
		})
	}()
	time.Sleep(time.Millisecond) // let poll begin to wait; correct without it too
	if _, err := p.server.Write([]byte(reply)); err != nil {
		return fmt.Errorf("send reply: %w", err)
	}
	if err := <-woken; err != nil {
		return err
	}
	err := withFD(p.client, func(fd int) error {
		n, err := unix.IoctlGetInt(fd, unix.TIOCINQ)
		if err != nil {
			return fmt.Errorf("ask FIONREAD: %w", err)
		}
		if n != len(reply) {
			return fmt.Errorf("%w: it says %d bytes, %d are there", errFIONREAD, n, len(reply))
		}
		return nil
	})
	if err != nil {
		return err
	}
	got := make([]byte, len(reply))
	if _, err := io.ReadFull(p.client, got); err != nil {
		return fmt.Errorf("receive reply: %w", err)
	}
	if string(got) != reply {
		return errors.New("the reply arrived changed")
	}
	return nil
}

func (p *pair) opaque() error {
	const bytes = "\x16\x03\x01 not HTTP\r\nGET / HTTP/1.1\r\n\r\n"
	for range 2 {
		if _, err := p.client.Write([]byte(bytes)); err != nil {
			return fmt.Errorf("send: %w", err)
		}
	}
	got := make([]byte, 2*len(bytes))
	if _, err := io.ReadFull(p.server, got); err != nil {
		return fmt.Errorf("receive: %w", err)
	}
	if string(got) != bytes+bytes {
		return errors.New("they arrived changed")
	}
	return nil
}

// The opening of an HTTP/2 connection, and a request of one frame, "GET /", whose
// header block of 3 bytes is in the static table (RFC 7541, appendix A).
const (
	http2Opening = "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + "\x00\x00\x00\x04\x00\x00\x00\x00\x00"
	http2Request = "\x00\x00\x03\x01\x05\x00\x00\x00%c\x82\x86\x84"
	http2Ping    = "\x00\x00\x08\x06\x00\x00\x00\x00\x00selftest"
)

// fieldLength is a literal of HPACK: kind, 1 + "traceparent", 1 + 55.
const fieldLength = 69

// http2 checks that what stands behind the last byte of a message can be written
// there, and in the midst of one.
func (p *pair) http2() error {
	first, second := fmt.Sprintf(http2Request, 1), fmt.Sprintf(http2Request, 3)
	for _, send := range []string{http2Opening, first, http2Ping[:5], http2Ping[5:] + second + http2Ping} {
		if _, err := p.client.Write([]byte(send)); err != nil {
			return fmt.Errorf("send: %w", err)
		}
	}
	for _, want := range []struct {
		bytes string
		grown bool
	}{{http2Opening, false}, {first, true}, {http2Ping, false}, {second, true}, {http2Ping, false}} {
		got := make([]byte, len(want.bytes))
		if want.grown {
			got = make([]byte, len(want.bytes)+fieldLength)
		}
		if _, err := io.ReadFull(p.server, got); err != nil {
			return fmt.Errorf("receive: %w", err)
		}
		if !want.grown {
			if string(got) != want.bytes {
				return errors.New("a frame arrived changed")
			}
			continue
		}
		got[2] -= fieldLength
		before, field := string(got[:len(want.bytes)]), string(got[len(want.bytes):])
		if before != want.bytes || !strings.HasPrefix(field, "\x00\x0btraceparent\x3700-") {
			return errors.New("a request arrived without a traceparent field, or changed")
		}
	}
	return nil
}
