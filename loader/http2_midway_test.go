package loader

import (
	"bytes"
	"errors"
	"testing"

	"golang.org/x/net/http2"
	"golang.org/x/net/http2/hpack"
)

// midway connects, and opens stream 1 with a body to come, before this process is
// selected. Then it is, and a piece of that body has been seen.
func (r *http2Rig) midway(got *received) (c *http2Client, done <-chan error) {
	r.t.Helper()
	if err := r.l.coll.Maps["targets"].Delete(selfPID()); err != nil {
		r.t.Fatal(err)
	}
	c, done = r.connect(strict(got))
	c.last = 2
	c.must(c.framer.WriteHeaders(http2.HeadersFrameParam{StreamID: 1, EndHeaders: true,
		BlockFragment: c.encode([]hpack.HeaderField{{Name: ":method", Value: "PUT"}, {Name: ":scheme", Value: "http"}, {Name: ":path", Value: "/"}})}))
	c.send(c.out.Len())
	if err := r.l.coll.Maps["targets"].Put(selfPID(), WeftWeftTarget{}); err != nil {
		r.t.Fatal(err)
	}
	c.must(c.framer.WriteData(1, false, []byte("seen")))
	c.send(c.out.Len())
	c.sk, c.tuple = r.socketOf(c)
	return c, done
}

// http2Midway: a connection whose preface was not seen is left alone, until the
// program tells where a frame begins; from then on it is like any other.
func http2Midway(t *testing.T, r *http2Rig) {
	d := &departure{write: HeaderTraceparent, traceID: [16]byte{1}, spanID: [8]byte{2}}
	told := *d
	told.frame = true
	var got received
	c, done := r.midway(&got)

	// A body that looks like the frame which is waited for.
	var forged bytes.Buffer
	c.must(http2.NewFramer(&forged, nil).WriteHeaders(http2.HeadersFrameParam{StreamID: 3, EndHeaders: true,
		BlockFragment: []byte{0x82, 0x86, 0x84}}))
	c.must(r.leave(c.sk, c.tuple, 3, d))
	c.must(c.framer.WriteData(1, false, forged.Bytes()))
	c.send(9)
	c.send(c.out.Len())

	c.open(d)     // 3: nobody says that this is a frame
	c.open(nil)   // 5: nothing is to be written
	c.open(&told) // 7: here it begins
	if n := r.since("http2_joined"); n != 1 {
		t.Errorf("joined %d times", n)
	}
	c.must(r.leave(c.sk, c.tuple, 9, d))
	c.must(c.framer.WriteData(1, true, forged.Bytes()))
	c.send(9)
	c.send(c.out.Len())
	c.open(d)   // 9: known by now
	c.open(nil) // 11
	c.open(d)   // 13
	if err := errors.Join(c.CloseWrite(), <-done); err != nil {
		t.Fatal(err)
	}
	for stream, want := range map[uint32]bool{1: false, 3: false, 5: false, 7: true, 9: true, 11: false, 13: true} {
		if got.has(stream) != want {
			t.Errorf("stream %d: written %v, want %v", stream, got.has(stream), want)
		}
	}
	if body := append([]byte("seen"), append(forged.Bytes(), forged.Bytes()...)...); !bytes.Equal(got.data[1], body) {
		t.Errorf("the body came as %q, sent as %q", got.data[1], body)
	}
	if midway, joined := r.since("http2_midway"), r.since("http2_joined"); midway != 2 || joined != 1 {
		t.Errorf("counted %d frames without, %d joined; want 2 and 1", midway, joined)
	}
}
