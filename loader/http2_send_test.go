package loader

import (
	"bytes"
	"errors"
	"io"
	"math/rand/v2"
	"net"
	"slices"
	"testing"
	"time"

	"golang.org/x/net/http2"
	"golang.org/x/sys/unix"
)

// http2Full sends more than the send buffer holds, without waiting, to a server
// that reads slowly: what the kernel takes in part is sent again, and must not be
// taken for something else.
func http2Full(t *testing.T, r *http2Rig) {
	kinds := carrying(r)
	var got received
	read := strict(&got)
	c, done := r.dial(func(server io.Reader) error {
		return errors.Join(server.(*net.TCPConn).SetReadBuffer(8<<10), read(&slow{server, 0}))
	})
	if err := withFD(c.TCPConn, func(fd int) error { return unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_SNDBUF, 32<<10) }); err != nil {
		t.Fatal(err)
	}
	k := &talk{http2Client: c, random: rand.New(rand.NewPCG(3, 12)), all: map[uint32]*sent{}, kinds: kinds}
	short := 0
	for len(k.all) < 300 {
		for range 1 + k.random.IntN(100) {
			k.step()
		}
		for i := range min(len(k.open), k.random.IntN(12)) {
			stream := k.open[i]
			data := bytes.Repeat([]byte{byte(stream)}, 1+k.random.IntN(16384))
			k.must(k.framer.WriteData(stream, false, data))
			k.all[stream].data = append(k.all[stream].data, data...)
		}
		k.at += k.out.Len()
		short += c.sendWhatFits()
	}
	if err := errors.Join(c.CloseWrite(), <-done); err != nil {
		t.Fatal(err)
	}
	written := 0
	for stream, s := range k.all {
		s.whole = true
		fields := got.requests[stream]
		if want := s.wanted(); len(want) > 0 && slices.Equal(fields, slices.Concat(s.fields, want)) {
			written++
		} else if !slices.Equal(fields, s.fields) {
			t.Fatalf("stream %d: came as\n%v\nsent as\n%v", stream, fields, s.fields)
		}
		if !slices.Equal(got.trailers[stream], s.trailers) || !bytes.Equal(got.data[stream], s.data) {
			t.Fatalf("stream %d: trailers or body changed", stream)
		}
	}
	t.Logf("%d requests, %d written; %d sends went in part; refused for want of room %d; lost track %d times",
		len(k.all), written, short, r.since("refused_room"), r.since("http2_lost"))
	if written == 0 || short == 0 || r.since("refused_room") == 0 {
		t.Error("the mix tests too little")
	}
}

// sendWhatFits sends what was built, and returns how many sends the kernel took in
// part only.
func (c *http2Client) sendWhatFits() (short int) {
	raw, err := c.SyscallConn()
	c.must(err)
	for c.out.Len() > 0 {
		var sendErr error
		c.must(raw.Write(func(fd uintptr) bool {
			n, err := unix.Write(int(fd), c.out.Bytes())
			if errors.Is(err, unix.EAGAIN) {
				return false
			}
			if sendErr = err; err != nil {
				return true
			}
			if n < c.out.Len() {
				short++
			}
			c.out.Next(n)
			return true
		}))
		c.must(sendErr)
	}
	return short
}

// slow is a reader that lets its sender wait.
type slow struct {
	io.Reader
	read int
}

func (s *slow) Read(p []byte) (int, error) {
	if s.read > 100<<10 {
		s.read = 0
		time.Sleep(2 * time.Millisecond) // what is being tested: the sender does not wait for it
	}
	n, err := s.Reader.Read(p[:min(len(p), 4096)])
	s.read += n
	return n, err
}

// http2Nagle: without TCP_NODELAY an edited request must not wait for the peer's
// delayed acknowledgement, 40 ms, of a segment that weft made.
func http2Nagle(t *testing.T, r *http2Rig) {
	d := &departure{write: HeaderTraceparent, traceID: [16]byte{1}, spanID: [8]byte{2}}
	came := make(chan struct{})
	c, done := r.dial(func(server io.Reader) error {
		framer := http2.NewFramer(io.Discard, server)
		if _, err := io.CopyN(io.Discard, server, int64(len(http2.ClientPreface))); err != nil {
			return err
		}
		for {
			frame, err := framer.ReadFrame()
			if errors.Is(err, io.EOF) {
				return nil
			}
			if err != nil {
				return err
			}
			if frame.Header().Type == http2.FrameHeaders {
				came <- struct{}{}
				if _, err := server.(net.Conn).Write([]byte("x")); err != nil {
					return err
				}
			}
		}
	})
	if err := c.SetNoDelay(false); err != nil {
		t.Fatal(err)
	}
	const rounds = 100
	var edited, plain []time.Duration
	for i := range 2 * rounds {
		began := time.Now()
		if i%2 == 0 {
			c.open(d)
		} else {
			c.open(nil)
		}
		<-came
		if _, err := io.ReadFull(c, make([]byte, 1)); err != nil {
			t.Fatal(err)
		}
		if took := time.Since(began); i%2 == 0 {
			edited = append(edited, took)
		} else {
			plain = append(plain, took)
		}
	}
	if err := errors.Join(c.CloseWrite(), <-done); err != nil {
		t.Fatal(err)
	}
	slices.Sort(edited)
	slices.Sort(plain)
	t.Logf("half of the requests took up to %v, edited up to %v", plain[rounds/2], edited[rounds/2])
	if n := r.since("injected_socket"); n != rounds {
		t.Fatalf("%d of %d written", n, rounds)
	}
	if edited[rounds/2] > plain[rounds/2]+20*time.Millisecond {
		t.Errorf("half of the requests took over %v, and %v unedited", edited[rounds/2], plain[rounds/2])
	}
}
