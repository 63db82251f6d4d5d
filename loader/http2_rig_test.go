package loader

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"math/rand/v2"
	"net"
	"net/netip"
	"os"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/btf"
	"golang.org/x/net/http2"
	"golang.org/x/net/http2/hpack"
)

// anywhere lets everything leave to any network.
func anywhere() Policy {
	all := HeaderTraceparent | HeaderTracestate | HeaderBaggage
	return Policy{Inject: all, Egress: []EgressRule{
		{Network: netip.MustParsePrefix("0.0.0.0/0"), Headers: all},
	}}
}

// http2Rig is weft in the kernel with this process selected, and departures that a
// test leaves in place of the Go programs.
type http2Rig struct {
	t       testing.TB
	l       *Loader
	names   []string
	counted map[string]uint64
	// Of C:
	conn, outgoing, depart *btf.Struct
}

func newHTTP2Rig(t testing.TB, policy Policy) *http2Rig {
	t.Helper()
	needRoot(t)
	log := slog.New(slog.DiscardHandler)
	coll, err := loadAny(Options{Policy: policy, Sampling: Sampling{ParentBased: true, Ratio: 1}, Log: log, failed: &attachFailures{}})
	if err != nil {
		t.Fatal(err)
	}
	r := &http2Rig{t: t, l: &Loader{log: log, coll: coll}}
	t.Cleanup(func() {
		if err := errors.Join(r.l.detach(), coll.close()); err != nil {
			t.Error(err)
		}
	})
	if err := r.l.startInjecting(); err != nil {
		t.Fatal(err)
	}
	r.l.inject.stopRenewing()
	if err := r.l.inject.deadline(farAway()); err != nil {
		t.Fatal(err)
	}
	if err := coll.Maps["targets"].Put(selfPID(), WeftWeftTarget{}); err != nil {
		t.Fatalf("select this process: %v", err)
	}
	spec, err := LoadWeft()
	if err != nil {
		t.Fatal(err)
	}
	for name, into := range map[string]**btf.Struct{"conn": &r.conn, "outgoing": &r.outgoing, "go_departure": &r.depart} {
		if err := spec.Types.TypeByName(name, into); err != nil {
			t.Fatal(err)
		}
	}
	if r.names, err = counterNames(); err != nil {
		t.Fatal(err)
	}
	r.counted = r.counters()
	return r
}

func (r *http2Rig) counters() map[string]uint64 {
	r.t.Helper()
	counts, err := readCounters(r.l.coll.Maps["counters"], r.names)
	if err != nil {
		r.t.Fatal(err)
	}
	out := map[string]uint64{}
	for _, c := range counts {
		out[c.Metric+"_"+c.Cause] = c.Value
	}
	return out
}

// since is how often a counter was counted since the rig began, or since reset.
func (r *http2Rig) since(name string) uint64 {
	r.t.Helper()
	now, known := r.counters()[name]
	if !known {
		r.t.Fatalf("no counter %s", name)
	}
	return now - r.counted[name]
}

// moved are the counters that have counted since.
func (r *http2Rig) moved() map[string]uint64 {
	r.t.Helper()
	out := map[string]uint64{}
	for name, v := range r.counters() {
		if n := v - r.counted[name]; n > 0 {
			out[name] = n
		}
	}
	return out
}

func (r *http2Rig) reset() { r.counted = r.counters() }

// field finds a member of a C struct in the bytes of one.
func field(t testing.TB, s *btf.Struct, value []byte, name string) []byte {
	t.Helper()
	for _, m := range s.Members {
		if m.Name == name {
			size, err := btf.Sizeof(m.Type)
			if err != nil {
				t.Fatal(err)
			}
			return value[m.Offset.Bytes():][:size]
		}
	}
	t.Fatalf("struct %s has no %s", s.Name, name)
	return nil
}

// socketOf finds the kernel's address and tuple of an HTTP/2 client connection, once
// its preface was sent.
func (r *http2Rig) socketOf(c net.Conn) (sk, tuple uint64) {
	r.t.Helper()
	local := uint16(c.LocalAddr().(*net.TCPAddr).Port)
	conns := r.l.coll.Maps["conns"]
	var key uint64
	value := make([]byte, conns.ValueSize())
	for walk := conns.Iterate(); walk.Next(&key, &value); {
		if binary.NativeEndian.Uint16(field(r.t, r.conn, value, "local_port")) == local {
			return key, binary.NativeEndian.Uint64(field(r.t, r.conn, value, "tuple"))
		}
	}
	r.t.Fatalf("no connection with local port %d", local)
	return 0, 0
}

// virtualKey is virtual_key of C for a stream on a socket.
func virtualKey(sk uint64, stream uint32) uint64 {
	h := sk ^ uint64(stream)*0x9e3779b97f4a7c15
	h ^= h >> 32
	h *= 0xd6e8feb86659fd93
	h ^= h >> 32
	h *= 0xd6e8feb86659fd93
	h ^= h >> 32
	return h & 0x7fffffffffffffff
}

// departure is what is to be written into a request.
type departure struct {
	traceID    [16]byte
	spanID     [8]byte
	flags      byte
	write      Headers
	parent     uint64 // of what is carried
	carry      byte   // enum carried_class
	mark       byte   // enum tracestate_mode
	threshold  uint64
	tracestate string
	baggage    string
	spare      bool // see source
	frame      bool // the program has told that a frame begins where the send does
}

// fields are what a server must find behind the program's own.
func (d *departure) fields() []hpack.HeaderField {
	var out []hpack.HeaderField
	if d.write&HeaderTraceparent != 0 {
		out = append(out, hpack.HeaderField{Name: "traceparent", Value: fmt.Sprintf("00-%x-%x-%02x", d.traceID, d.spanID, d.flags)})
	}
	if d.write&HeaderTracestate != 0 {
		out = append(out, hpack.HeaderField{Name: "tracestate", Value: d.tracestate})
	}
	if d.write&HeaderBaggage != 0 {
		out = append(out, hpack.HeaderField{Name: "baggage", Value: d.baggage})
	}
	return out
}

// size is how many bytes the fields take.
func (d *departure) size() int {
	n := 0
	for _, f := range d.fields() {
		n += 3 + len(f.Name) + len(f.Value)
		if len(f.Value) >= 127 {
			n++
		}
		if len(f.Value) >= 255 {
			n++
		}
	}
	return n
}

// source is the virtual connection that a test gives a stream; spare: another one.
func source(sk uint64, stream uint32, spare bool) uint64 {
	if spare {
		sk++
	}
	return virtualKey(sk+1, stream)
}

// leave puts the departure where the sk_msg program looks for it, with the virtual
// connection that it names.
func (r *http2Rig) leave(sk, tuple uint64, stream uint32, d *departure) error {
	key := source(sk, stream, d.spare)
	conn := make([]byte, r.conn.Size)
	out := field(r.t, r.conn, conn, "out")
	copy(field(r.t, r.outgoing, out, "trace_id"), d.traceID[:])
	copy(field(r.t, r.outgoing, out, "span_id"), d.spanID[:])
	binary.NativeEndian.PutUint64(field(r.t, r.outgoing, out, "parent_id"), d.parent)
	field(r.t, r.outgoing, out, "flags")[0] = d.flags
	field(r.t, r.outgoing, out, "write")[0] = byte(d.write)
	field(r.t, r.outgoing, out, "carry")[0] = d.carry
	field(r.t, r.outgoing, out, "mark")[0] = d.mark
	binary.NativeEndian.PutUint64(field(r.t, r.outgoing, out, "threshold"), d.threshold)
	field(r.t, r.conn, conn, "unsettled")[0] = 1
	if err := r.l.coll.Maps["conns"].Put(key, conn); err != nil {
		return fmt.Errorf("make virtual connection of stream %d: %w", stream, err)
	}
	value := make([]byte, r.depart.Size)
	binary.NativeEndian.PutUint64(field(r.t, r.depart, value, "tuple"), tuple)
	binary.NativeEndian.PutUint64(field(r.t, r.depart, value, "conn"), key)
	if d.frame {
		field(r.t, r.depart, value, "frame")[0] = 1
	}
	if err := r.l.coll.Maps["go_departures"].Put(virtualKey(sk, stream), value); err != nil {
		return fmt.Errorf("leave departure of stream %d: %w", stream, err)
	}
	return nil
}

// settled forgets the virtual connection of a stream and says whether its request was
// settled.
func (r *http2Rig) settled(sk uint64, stream uint32) bool {
	r.t.Helper()
	value := make([]byte, r.conn.Size)
	key := source(sk, stream, false)
	if err := r.l.coll.Maps["conns"].Lookup(key, &value); err != nil {
		r.t.Fatalf("virtual connection of stream %d: %v", stream, err)
	}
	if err := r.l.coll.Maps["conns"].Delete(key); err != nil {
		r.t.Fatal(err)
	}
	return field(r.t, r.conn, value, "unsettled")[0] == 0
}

// carried keeps a tracestate and a baggage as if a server exchange carried them, and
// returns their class.
func (r *http2Rig) carried(parent uint64, tracestate, baggage string) (class byte) {
	r.t.Helper()
	var m *ebpf.Map
	for i, name := range []string{"carried_small", "carried_medium", "carried_large"} {
		m, class = r.l.coll.Maps[name], byte(i+1)
		if int(m.ValueSize()) >= 8+len(tracestate)+len(baggage) {
			break
		}
	}
	value := make([]byte, m.ValueSize())
	binary.NativeEndian.PutUint16(value, uint16(len(tracestate)))
	binary.NativeEndian.PutUint16(value[2:], uint16(len(baggage)))
	copy(value[8:], tracestate+baggage)
	if err := m.Put(parent, value); err != nil {
		r.t.Fatal(err)
	}
	return class
}

// http2Client writes frames into a socket of the sockhash.
type http2Client struct {
	*net.TCPConn
	rig       *http2Rig
	sk, tuple uint64
	out       bytes.Buffer // to be sent
	framer    *http2.Framer
	block     bytes.Buffer
	encoder   *hpack.Encoder
	last      uint32
	done      <-chan error // how the server ended
}

// dial connects to a server that hands what it reads to check, and joins the
// sockhash. The opening (preface and SETTINGS) is sent in pieces of these sizes, then
// what is left of it.
func (r *http2Rig) dial(check func(io.Reader) error, pieces ...int) (*http2Client, <-chan error) {
	r.t.Helper()
	c, done := r.connect(check)
	for _, n := range append(pieces, c.out.Len()) {
		c.send(min(n, c.out.Len()))
	}
	c.sk, c.tuple = r.socketOf(c)
	return c, done
}

// connect is dial without sending anything.
func (r *http2Rig) connect(check func(io.Reader) error) (*http2Client, <-chan error) {
	r.t.Helper()
	return r.greeted(nil, check)
}

// greeted is connect to a server that begins by sending these bytes.
func (r *http2Rig) greeted(greeting []byte, check func(io.Reader) error) (*http2Client, <-chan error) {
	r.t.Helper()
	listener, err := net.ListenTCP("tcp4", &net.TCPAddr{IP: net.IPv4(127, 0, 0, 1)})
	if err != nil {
		r.t.Fatal(err)
	}
	defer listener.Close()
	conn, err := net.DialTCP("tcp4", nil, listener.Addr().(*net.TCPAddr))
	if err != nil {
		r.t.Fatal(err)
	}
	r.t.Cleanup(func() { conn.Close() })
	server, err := listener.AcceptTCP()
	if err != nil {
		r.t.Fatal(err)
	}
	done := make(chan error, 1)
	go func() {
		if _, err := server.Write(greeting); err != nil {
			done <- errors.Join(err, server.Close())
			return
		}
		err := check(server)
		done <- errors.Join(err, server.Close())
	}()
	if err := withFD(conn, r.l.inject.add); err != nil {
		r.t.Fatal(err)
	}
	c := &http2Client{TCPConn: conn, rig: r, done: done}
	c.framer = http2.NewFramer(&c.out, nil)
	c.framer.AllowIllegalWrites = true
	c.encoder = hpack.NewEncoder(&c.block)
	c.out.WriteString(http2.ClientPreface)
	c.must(c.framer.WriteSettings(http2.Setting{ID: http2.SettingEnablePush, Val: 0}))
	return c, done
}

func (c *http2Client) must(err error) {
	c.rig.t.Helper()
	if err != nil {
		c.rig.t.Fatal(err)
	}
}

// send sends the next n bytes in one call.
func (c *http2Client) send(n int) {
	c.rig.t.Helper()
	if n == 0 {
		return
	}
	if _, err := c.Write(c.out.Next(n)); err != nil {
		c.rig.t.Fatalf("%v; the server: %v", err, <-c.done)
	}
}

// encode makes a header block.
func (c *http2Client) encode(fields []hpack.HeaderField) []byte {
	c.block.Reset()
	for _, f := range fields {
		c.must(c.encoder.WriteField(f))
	}
	return slices.Clone(c.block.Bytes())
}

// requestFields is a header list with some fields of random length.
func requestFields(random *rand.Rand, path string) []hpack.HeaderField {
	fields := []hpack.HeaderField{{Name: ":method", Value: "POST"}, {Name: ":scheme", Value: "http"},
		{Name: ":authority", Value: "h.example"}, {Name: ":path", Value: path}}
	for range random.IntN(5) {
		fields = append(fields, hpack.HeaderField{Name: fmt.Sprintf("x-field-%d", random.IntN(12)),
			Value: strings.Repeat("v", random.IntN(60)), Sensitive: random.IntN(8) == 0})
	}
	return fields
}

// received is what a server read, whole.
type received struct {
	requests map[uint32][]hpack.HeaderField
	trailers map[uint32][]hpack.HeaderField
	data     map[uint32][]byte
}

// strict reads as a server does that refuses anything malformed, up to the end of the
// connection.
func strict(into *received) func(io.Reader) error {
	*into = received{map[uint32][]hpack.HeaderField{}, map[uint32][]hpack.HeaderField{}, map[uint32][]byte{}}
	return func(r io.Reader) error {
		preface := make([]byte, len(http2.ClientPreface))
		if _, err := io.ReadFull(r, preface); err != nil || string(preface) != http2.ClientPreface {
			return fmt.Errorf("preface %q: %w", preface, err)
		}
		framer := http2.NewFramer(io.Discard, r)
		framer.ReadMetaHeaders = hpack.NewDecoder(4096, nil)
		framer.SetMaxReadFrameSize(16384)
		framer.MaxHeaderListSize = 1 << 20
		for {
			frame, err := framer.ReadFrame()
			if errors.Is(err, io.EOF) {
				return nil
			}
			if err != nil {
				return fmt.Errorf("read frame: %w %w", err, framer.ErrorDetail())
			}
			switch f := frame.(type) {
			case *http2.MetaHeadersFrame:
				into.take(f)
			case *http2.DataFrame:
				into.data[f.StreamID] = append(into.data[f.StreamID], f.Data()...)
			}
		}
	}
}

func (r *received) take(f *http2.MetaHeadersFrame) {
	if _, opened := r.requests[f.StreamID]; opened {
		r.trailers[f.StreamID] = slices.Clone(f.Fields)
		return
	}
	r.requests[f.StreamID] = slices.Clone(f.Fields)
}

func selfPID() uint32 { return uint32(os.Getpid()) }

// paused runs do as if the agent had been killed a while ago.
func (r *http2Rig) paused(do func()) error {
	if err := r.l.inject.deadline(0); err != nil {
		return err
	}
	do()
	return r.l.inject.deadline(farAway())
}

// farAway is a deadline that no test outlives.
func farAway() uint64 { return monotonic() + uint64(time.Hour) }
