package loader

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"

	"golang.org/x/net/http2"
	"golang.org/x/net/http2/hpack"
)

// TestHTTP2 loads weft once: verifying the programs takes longer than all the rest.
func TestHTTP2(t *testing.T) {
	r := newHTTP2Rig(t, anywhere())
	for _, c := range []struct {
		name string
		run  func(*testing.T, *http2Rig)
	}{
		{"injected", http2Injected}, {"left alone", http2LeftAlone}, {"root", http2Root}, {"midway", http2Midway}, {"greeted", http2Greeted},
		{"full", http2Full}, {"nagle", http2Nagle}, {"transport", http2Transport}, {"grpc", http2GRPC},
	} {
		t.Run(c.name, func(t *testing.T) {
			all := r.t
			defer func() { r.t = all }()
			r.t = t
			r.reset()
			c.run(t, r)
		})
	}
}

// sent is a request as a test sent it.
type sent struct {
	fields   []hpack.HeaderField
	trailers []hpack.HeaderField
	data     []byte
	depart   *departure // nil: none was left
	block    int        // bytes
	grows    bool       // one frame, not padded
	from, to int        // where that frame stands among all that is sent
	whole    bool       // it was sent in one call
	ended    bool
}

// wanted is what weft must have added to s.
func (s *sent) wanted() []hpack.HeaderField {
	if s.depart == nil || !s.grows || !s.whole {
		return nil
	}
	d := *s.depart
	for _, last := range []Headers{HeaderBaggage, HeaderTracestate} {
		if s.block+d.size() > 16384 {
			d.write &^= last
		}
	}
	if s.block+d.size() > 16384 {
		return nil
	}
	return d.fields()
}

// talk is random HTTP/2 of a client: streams opened, interleaved, ended, in sends of
// any size.
type talk struct {
	*http2Client
	random *rand.Rand
	all    map[uint32]*sent
	open   []uint32
	fresh  []*sent // built, and not sent
	at     int     // bytes sent
	kinds  []departure
}

func (k *talk) request() {
	k.last += 2
	if k.last == 2 {
		k.last = 1
	}
	s := &sent{fields: requestFields(k.random, fmt.Sprintf("/%d", k.last)), grows: true}
	if k.random.IntN(40) == 0 { // around the limit of a frame
		n := 8000 + k.random.IntN(8000)
		if k.random.IntN(3) == 0 {
			n = 16250 + k.random.IntN(80)
		}
		s.fields = append(s.fields[:4], hpack.HeaderField{Name: "x-long", Value: strings.Repeat("\\", n), Sensitive: true})
	}
	if k.random.IntN(8) != 0 {
		d := k.kinds[k.random.IntN(len(k.kinds))]
		binary.BigEndian.PutUint64(d.traceID[:], k.random.Uint64()|1)
		binary.BigEndian.PutUint64(d.spanID[:], k.random.Uint64()|1)
		d.flags = byte(k.random.IntN(4))
		s.depart = &d
		k.must(k.rig.leave(k.sk, k.tuple, k.last, &d))
	}
	block := k.encode(s.fields)
	s.block, s.from, s.ended = len(block), k.at+k.out.Len(), k.random.IntN(2) == 0
	p := http2.HeadersFrameParam{StreamID: k.last, BlockFragment: block, EndStream: s.ended, EndHeaders: true}
	switch k.random.IntN(12) {
	case 0:
		p.PadLength, s.grows = uint8(1+k.random.IntN(30)), false
		if len(block) > 16000 {
			p.PadLength, s.grows = 0, true
		}
	case 1, 2:
		if len(block) < 16000 {
			p.Priority = http2.PriorityParam{Weight: 20}
			s.block += 5
		}
	case 3:
		cut := k.random.IntN(len(block))
		p.BlockFragment, p.EndHeaders, s.grows = block[:cut], false, false
		k.must(k.framer.WriteHeaders(p))
		k.must(k.framer.WriteContinuation(k.last, true, block[cut:]))
	}
	if p.EndHeaders {
		k.must(k.framer.WriteHeaders(p))
	}
	s.to = k.at + k.out.Len()
	k.all[k.last] = s
	k.fresh = append(k.fresh, s)
	if !s.ended {
		k.open = append(k.open, k.last)
	}
}

func (k *talk) step() {
	if len(k.open) == 0 || len(k.open) < 30 && k.random.IntN(3) == 0 {
		k.request()
		return
	}
	i := k.random.IntN(len(k.open))
	stream := k.open[i]
	s := k.all[stream]
	switch k.random.IntN(8) {
	case 0: // trailers, which nothing is written into, whatever may be left for it
		if s.to <= k.at {
			k.must(k.rig.leave(k.sk, k.tuple, stream, &departure{write: HeaderTraceparent, spare: true}))
		}
		s.trailers = []hpack.HeaderField{{Name: "x-sum", Value: fmt.Sprint(stream)}}
		k.must(k.framer.WriteHeaders(http2.HeadersFrameParam{StreamID: stream, BlockFragment: k.encode(s.trailers), EndStream: true, EndHeaders: true}))
		s.ended = true
	case 1:
		k.must(k.framer.WriteWindowUpdate(0, 100))
		return
	case 2:
		k.must(k.framer.WritePing(false, [8]byte{1, 5, 3: 1}))
		return
	default:
		// A body that looks like frames.
		data := bytes.Repeat([]byte("\x00\x00\x04\x01\x05\x00\x00\x00\x01\x82\x86\x84\x41"), 1+k.random.IntN(40))[k.random.IntN(13):]
		s.ended = k.random.IntN(3) == 0
		k.must(k.framer.WriteData(stream, s.ended, data))
		s.data = append(s.data, data...)
	}
	if s.ended {
		k.open = slices.Delete(k.open, i, i+1)
	}
}

// flush sends what was built: all at once, or in pieces.
func (k *talk) flush() {
	cuts := k.random.IntN(3)
	for k.out.Len() > 0 {
		n := k.out.Len()
		if cuts == 1 {
			n = 1 + k.random.IntN(n)
		}
		if cuts == 2 {
			n = min(n, 1+k.random.IntN(300))
		}
		for _, s := range k.fresh {
			s.whole = s.whole || s.from >= k.at && s.to <= k.at+n
		}
		k.send(n)
		k.at += n
	}
	k.fresh = nil
}

// carrying are departures of every kind.
func carrying(r *http2Rig) []departure {
	kinds := []departure{{write: HeaderTraceparent}, {write: HeaderTraceparent}, {write: HeaderTraceparent}}
	parent := uint64(0x1111)
	for _, n := range [][2]int{{20, 0}, {0, 50}, {100, 120}, {126, 127}, {127, 126}, {254, 255}, {255, 254}, {1024, 900}, {500, 8192}} {
		d := departure{write: HeaderTraceparent, parent: parent,
			tracestate: strings.Repeat("s", n[0]), baggage: strings.Repeat("b", n[1])}
		if n[0] > 0 {
			d.write |= HeaderTracestate
		}
		if n[1] > 0 {
			d.write |= HeaderBaggage
		}
		d.carry = r.carried(parent, d.tracestate, d.baggage)
		kinds = append(kinds, d)
		parent++
	}
	return kinds
}

// http2Injected sends 20,000 requests among bodies, trailers and other frames, in
// sends that end anywhere, to a server that refuses whatever is malformed: each must
// have come as it was sent, with what was left for it and nothing else.
func http2Injected(t *testing.T, r *http2Rig) {
	const connections, requests = 10, 2000
	kinds := carrying(r)
	var written, wanted, left int
	for i := range connections {
		var got received
		// The opening: whole, byte by byte, cut anywhere.
		var pieces []int
		switch {
		case i == 1:
			pieces = slices.Repeat([]int{1}, 40)
		case i > 1:
			pieces = []int{5 * i}
		}
		c, done := r.dial(strict(&got), pieces...)
		k := &talk{http2Client: c, random: rand.New(rand.NewPCG(uint64(i), 11)), all: map[uint32]*sent{}, kinds: kinds}
		for len(k.all) < requests {
			for range 1 + k.random.IntN(60) {
				k.step()
			}
			k.flush()
		}
		if err := errors.Join(c.CloseWrite(), <-done); err != nil {
			t.Fatalf("connection %d: %v", i, err)
		}
		for stream, s := range k.all {
			if s.depart != nil && !r.settled(c.sk, stream) {
				t.Errorf("connection %d, stream %d: not settled", i, stream)
			}
			r.l.coll.Maps["conns"].Delete(source(c.sk, stream, true)) //nolint:errcheck // may be none
			want := s.wanted()
			if len(want) > 0 {
				wanted++
			} else {
				left++
			}
			fields := got.requests[stream]
			if !slices.Equal(fields, slices.Concat(s.fields, want)) {
				if !slices.Equal(fields, s.fields) {
					t.Fatalf("connection %d, stream %d: came as\n%v\nsent as\n%v\nto be added\n%v", i, stream, fields, s.fields, want)
				}
			} else if len(want) > 0 {
				written++
			}
			if !slices.Equal(got.trailers[stream], s.trailers) || !bytes.Equal(got.data[stream], s.data) {
				t.Fatalf("connection %d, stream %d: trailers or body changed", i, stream)
			}
		}
	}
	refused := int(r.since("refused_room") + r.since("refused_memory"))
	t.Logf("%d requests, %d to be written, %d written, %d refused for want of room or memory", connections*requests, wanted, written, refused)
	if written+refused != wanted || int(r.since("injected_socket")) != written {
		t.Errorf("%d of %d were written, %d refused, %d counted", written, wanted, refused, r.since("injected_socket"))
	}
	if wanted < connections*requests/3 || left < connections*requests/20 || refused > wanted/20 {
		t.Error("the mix tests too little")
	}
	for _, counter := range []string{"http2_no_departure", "refused_split", "refused_frames", "refused_padded", "refused_long", "withheld_space"} {
		if r.since(counter) == 0 {
			t.Errorf("%s was never counted", counter)
		}
	}
	for _, counter := range []string{"http2_lost", "http2_midway", "handsoff_http2", "refused_damaged", "refused_far", "desync_gap"} {
		if n := r.since(counter); n != 0 {
			t.Errorf("%s was counted %d times", counter, n)
		}
	}
	if n := r.since("http2_followed"); n != connections {
		t.Errorf("%d connections followed, want %d", n, connections)
	}
}

// open sends a request by itself and returns its stream.
func (c *http2Client) open(d *departure) uint32 {
	c.last += 2
	stream := c.last - 1
	if d != nil {
		c.must(c.rig.leave(c.sk, c.tuple, stream, d))
	}
	c.must(c.framer.WriteHeaders(http2.HeadersFrameParam{StreamID: stream, EndStream: true, EndHeaders: true,
		BlockFragment: c.encode([]hpack.HeaderField{{Name: ":method", Value: "GET"}, {Name: ":scheme", Value: "http"}, {Name: ":path", Value: "/"}})}))
	c.send(c.out.Len())
	return stream
}

// has says whether the server was sent a traceparent with the request.
func (r *received) has(stream uint32) bool {
	return slices.ContainsFunc(r.requests[stream], func(f hpack.HeaderField) bool { return f.Name == "traceparent" })
}

// http2LeftAlone: where anything is not certain the bytes stay as they are, and
// the reason is counted.
func http2LeftAlone(t *testing.T, r *http2Rig) {
	d := &departure{write: HeaderTraceparent, traceID: [16]byte{1}, spanID: [8]byte{2}}
	// finish closes the client and wants these streams, and no others, written.
	finish := func(t *testing.T, c *http2Client, got *received, done <-chan error, written ...uint32) {
		t.Helper()
		if err := errors.Join(c.CloseWrite(), <-done); err != nil {
			t.Fatal(err)
		}
		for stream := uint32(1); stream <= c.last; stream += 2 {
			if _, came := got.requests[stream]; !came {
				t.Errorf("stream %d did not come", stream)
			}
			if has := got.has(stream); has != slices.Contains(written, stream) {
				t.Errorf("stream %d: written is %v", stream, has)
			}
		}
	}
	for name, run := range map[string]func(t *testing.T, c *http2Client, got *received, done <-chan error){
		"nothing left for the first requests": func(t *testing.T, c *http2Client, got *received, done <-chan error) {
			for range 64 {
				c.open(nil)
			}
			c.open(d)
			finish(t, c, got, done)
			if n := r.since("handsoff_http2"); n != 1 {
				t.Errorf("handed off %d times", n)
			}
		},
		"something left late": func(t *testing.T, c *http2Client, got *received, done <-chan error) {
			for range 63 {
				c.open(nil)
			}
			first := c.open(d)
			for range 70 {
				c.open(nil)
			}
			finish(t, c, got, done, first, c.open(d))
		},
		"left for another connection at this address": func(t *testing.T, c *http2Client, got *received, done <-chan error) {
			first := c.open(d)
			c.tuple++
			c.open(d)
			c.tuple--
			finish(t, c, got, done, first, c.open(d))
		},
		"given up before it was sent": func(t *testing.T, c *http2Client, got *received, done <-chan error) {
			first := c.open(d)
			c.must(r.leave(c.sk, c.tuple, 3, d))
			c.must(r.l.coll.Maps["conns"].Delete(source(c.sk, 3, false)))
			c.open(nil)
			finish(t, c, got, done, first, c.open(d))
		},
		"bytes that weft did not see": func(t *testing.T, c *http2Client, got *received, done <-chan error) {
			first := c.open(d)
			c.must(r.l.coll.Maps["targets"].Delete(selfPID()))
			c.open(d)
			c.must(r.l.coll.Maps["targets"].Put(selfPID(), WeftWeftTarget{}))
			c.open(d)
			finish(t, c, got, done, first)
			if n := r.since("http2_lost"); n != 1 {
				t.Errorf("lost %d times", n)
			}
		},
		"unseen bytes inside a body": func(t *testing.T, c *http2Client, got *received, done <-chan error) {
			first := c.open(d)
			c.last += 2
			stream := c.last - 1
			c.must(c.framer.WriteHeaders(http2.HeadersFrameParam{StreamID: stream, EndHeaders: true,
				BlockFragment: c.encode([]hpack.HeaderField{{Name: ":method", Value: "PUT"}, {Name: ":scheme", Value: "http"}, {Name: ":path", Value: "/"}})}))
			c.must(c.framer.WriteData(stream, true, make([]byte, 1000)))
			c.send(c.out.Len() - 800)
			c.must(r.l.coll.Maps["targets"].Delete(selfPID()))
			c.send(300)
			c.must(r.l.coll.Maps["targets"].Put(selfPID(), WeftWeftTarget{}))
			c.send(500)
			finish(t, c, got, done, first, c.open(d))
			if n := r.since("http2_lost"); n != 0 {
				t.Errorf("lost %d times", n)
			}
		},
		"agent is gone": func(t *testing.T, c *http2Client, got *received, done <-chan error) {
			first := c.open(d)
			if err := r.paused(func() { c.open(d) }); err != nil {
				t.Fatal(err)
			}
			finish(t, c, got, done, first)
			if n := r.since("refused_expired"); n == 0 {
				t.Error("not counted as expired")
			}
		},
		"frames that no client sends": func(t *testing.T, c *http2Client, got *received, done <-chan error) {
			c.must(c.framer.WriteData(99, false, nil))
			c.send(c.out.Len())
			c.open(d)
			if err := errors.Join(c.CloseWrite(), <-done); err != nil {
				t.Fatal(err)
			}
			if got.has(1) {
				t.Error("written")
			}
		},
	} {
		t.Run(name, func(t *testing.T) {
			r.reset()
			var got received
			c, done := r.dial(strict(&got))
			run(t, c, &got, done)
			if n := r.since("refused_damaged"); n != 0 {
				t.Errorf("%d damaged", n)
			}
		})
	}
}

// TestHTTP2Policy: a departure does not override what may leave to that peer.
func TestHTTP2Policy(t *testing.T) {
	policy := anywhere()
	policy.Egress[0].Headers = HeaderTraceparent | HeaderBaggage
	policy.Egress[0].Keys = []string{"user"}
	r := newHTTP2Rig(t, policy)
	d := &departure{write: HeaderTraceparent | HeaderTracestate | HeaderBaggage, traceID: [16]byte{1}, spanID: [8]byte{2},
		parent: 5, tracestate: "a=b", baggage: "k=v,user=u1,secret=s"}
	d.carry = r.carried(d.parent, d.tracestate, d.baggage)
	// As many bytes as a traceparent takes, and no traceparent.
	alone := &departure{write: HeaderBaggage, parent: 6, baggage: "user=" + strings.Repeat("u", 54)}
	alone.carry = r.carried(alone.parent, "", alone.baggage)
	var got received
	c, done := r.dial(strict(&got))
	stream := c.open(d)
	second := c.open(alone)
	if err := errors.Join(c.CloseWrite(), <-done); err != nil {
		t.Fatal(err)
	}
	if fields := got.requests[second]; alone.size() != 69 || !slices.Equal(fields[3:], alone.fields()) {
		t.Errorf("added %v, want %v, %d bytes", fields[3:], alone.fields(), alone.size())
	}
	want := (&departure{write: HeaderTraceparent | HeaderBaggage, traceID: d.traceID, spanID: d.spanID, baggage: "user=u1"}).fields()
	if fields := got.requests[stream]; !slices.Equal(fields[3:], want) {
		t.Errorf("added %v, want %v", fields[3:], want)
	}
	if r.since("withheld_tracestate") != 1 || r.since("withheld_baggage") != 1 {
		t.Errorf("withheld: %d tracestate, %d baggage", r.since("withheld_tracestate"), r.since("withheld_baggage"))
	}
}

// http2Root: a trace that begins with the request says in tracestate with what
// probability it was sampled.
func http2Root(t *testing.T, r *http2Rig) {
	const set = 1 // TRACESTATE_SET
	d := &departure{write: HeaderTraceparent | HeaderTracestate, traceID: [16]byte{1}, spanID: [8]byte{2}, flags: 3,
		mark: set, threshold: 0xc << 52, tracestate: "ot=th:c"}
	var got received
	c, done := r.dial(strict(&got))
	stream := c.open(d)
	if err := errors.Join(c.CloseWrite(), <-done); err != nil {
		t.Fatal(err)
	}
	if fields := got.requests[stream]; !slices.Equal(fields[3:], d.fields()) {
		t.Errorf("added %v, want %v", fields[3:], d.fields())
	}
}
