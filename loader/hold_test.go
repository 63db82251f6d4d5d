package loader

import (
	"errors"
	"io"
	"log/slog"
	"net"
	"os"
	"runtime"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"weft/loader/probe"
)

// TestHoldTakenOut: where the kernel has no such functions nothing of them is left,
// and where it has them, it is they that are called.
func TestHoldTakenOut(t *testing.T) {
	for _, letting := range []bool{true, false} {
		spec, err := LoadWeft()
		if err != nil {
			t.Fatal(err)
		}
		if err := holdCPU(spec, Options{letting: letting}); err != nil {
			t.Fatal(err)
		}
		calls := 0
		for _, p := range spec.Programs {
			for _, ins := range p.Instructions {
				if ins.IsKfuncCall() && slices.Contains(holdFunctions, ins.Reference()) {
					calls++
				}
			}
		}
		if letting && holdsCPU(spec) {
			t.Error("the constant is set where the CPU is to be let go")
		}
		if holds := holdsCPU(spec); holds != (calls > 0) {
			t.Errorf("letting %v: the constant says %v, and %d calls of kernel functions are left", letting, holds, calls)
		}
	}
}

// TestHoldSeesAll has many threads exchange requests on few CPUs, with programs
// that hold their CPU and have spares, and with such that do not. Where the kernel
// preempts programs the latter do not see some; the former must, but for very few.
func TestHoldSeesAll(t *testing.T) {
	needRoot(t)
	const exchanges = 20_000
	for way, tryWay := range map[Capture]func() error{
		CaptureFentry:     func() error { return probe.Fentry("tcp_sendmsg") },
		CaptureKprobe:     func() error { return probe.Kprobe("tcp_sendmsg") },
		CaptureTracepoint: func() error { return probe.TracepointBTF("sock_send_length") },
	} {
		t.Run(string(way), func(t *testing.T) {
			if err := tryWay(); err != nil {
				t.Skipf("this kernel has no %s: %v", way, err)
			}
			let := unseen(t, way, true, exchanges)
			held := unseen(t, way, false, exchanges)
			t.Logf("of %d requests and as many responses: %d sides unseen by programs that let go of their CPU, %d by those that hold it", exchanges, let, held)
			if held > exchanges/1000 {
				t.Errorf("programs that hold their CPU did not see %d sides of %d requests", held, exchanges)
			}
		})
	}
}

// unseen counts the sides of n requests that the programs do not see: of each there
// is a client and a server. Run time is not counted meanwhile: to read the clock the
// kernel takes preemption off and on again, between a program's end and the end of
// its count.
func unseen(t *testing.T, way Capture, letting bool, n int) int {
	t.Helper()
	c, err := load(Options{Capture: way, letting: letting, Log: slog.New(slog.DiscardHandler)}, way)
	if err != nil {
		t.Fatal(err)
	}
	defer func() {
		if err := c.close(); err != nil {
			t.Error(err)
		}
	}()
	if c.letting && !letting {
		t.Skip("this kernel cannot let programs hold their CPU; it takes Linux 6.15")
	}
	if err := c.Maps["targets"].Put(uint32(os.Getpid()), WeftWeftTarget{}); err != nil {
		t.Fatal(err)
	}
	exchangeAll(t, n)
	for _, name := range c.attached {
		cost, err := programCost(c.Programs[name], c.entriesOf(name)...)
		if err != nil {
			t.Fatal(err)
		}
		if cost.Missed > 0 {
			t.Logf("%s, letting go %v: %d missed at most", name, letting, cost.Missed)
		}
	}
	names, err := counterNames()
	if err != nil {
		t.Fatal(err)
	}
	counts, err := readCounters(c.Maps["counters"], names)
	if err != nil {
		t.Fatal(err)
	}
	left := 2 * n
	for _, count := range counts {
		if count.Metric == "requests" {
			left -= int(count.Value)
		}
		if count.Value > 0 {
			t.Logf("letting go %v: %s %s %d", letting, count.Metric, count.Cause, count.Value)
		}
	}
	return left
}

// exchangeAll exchanges n requests on connections whose both ends are threads of
// this process that sleep in the kernel, as those of a pool do.
func exchangeAll(t *testing.T, n int) {
	t.Helper()
	const connections = 16
	defer runtime.GOMAXPROCS(runtime.GOMAXPROCS(2 * connections))
	var all sync.WaitGroup
	for range connections {
		p, err := newLoopback()
		if err != nil {
			t.Fatal(err)
		}
		turn := func(conn *net.TCPConn, asks bool) {
			defer conn.Close()
			runtime.LockOSThread()
			defer runtime.UnlockOSThread()
			file, err := conn.File()
			if err != nil {
				t.Error(err)
				return
			}
			defer file.Close()
			fd := int(file.Fd()) // makes it blocking
			if err := answerTurns(fd, asks, n/connections); err != nil {
				t.Error(err)
			}
		}
		all.Go(func() { turn(p.client, true) })
		all.Go(func() { turn(p.server, false) })
	}
	all.Wait()
}

// answerTurns is one end of a connection.
func answerTurns(fd int, asks bool, turns int) error {
	said, heard := "HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n", "GET /held HTTP/1.1\r\nHost: weft\r\n\r\n"
	if asks {
		said, heard = heard, said
	}
	if err := unix.SetsockoptTimeval(fd, unix.SOL_SOCKET, unix.SO_RCVTIMEO, &unix.Timeval{Sec: int64(time.Minute / time.Second)}); err != nil {
		return err
	}
	buf := make([]byte, 256)
	for range turns {
		if asks {
			if _, err := uninterrupted(unix.Write, fd, []byte(said)); err != nil {
				return err
			}
		}
		for got := ""; got != heard; {
			k, err := uninterrupted(unix.Read, fd, buf)
			if err != nil {
				return err
			}
			if got += string(buf[:k]); k == 0 || !strings.HasPrefix(heard, got) {
				return io.ErrUnexpectedEOF
			}
		}
		if !asks {
			if _, err := uninterrupted(unix.Write, fd, []byte(said)); err != nil {
				return err
			}
		}
	}
	return nil
}

// uninterrupted calls again what a signal of Go's scheduler ended.
func uninterrupted(call func(fd int, p []byte) (int, error), fd int, p []byte) (int, error) {
	for {
		n, err := call(fd, p)
		if !errors.Is(err, unix.EINTR) {
			return n, err
		}
	}
}
