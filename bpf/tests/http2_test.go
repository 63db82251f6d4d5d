package bpftest

import (
	"bytes"
	"encoding/binary"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"

	"golang.org/x/net/http2"
	"golang.org/x/net/http2/hpack"
)

// client writes what an HTTP/2 client may send, by the Go implementation.
type client struct {
	t       *testing.T
	random  *rand.Rand
	out     bytes.Buffer
	framer  *http2.Framer
	block   bytes.Buffer
	encoder *hpack.Encoder
	last    uint32   // highest stream opened
	open    []uint32 // and not ended
}

func newClient(t *testing.T, random *rand.Rand) *client {
	c := &client{t: t, random: random}
	c.out.WriteString(http2.ClientPreface)
	c.framer = http2.NewFramer(&c.out, nil)
	c.framer.AllowIllegalWrites = true // padding of zeros that is not the library's idea
	c.encoder = hpack.NewEncoder(&c.block)
	c.check(c.framer.WriteSettings(http2.Setting{ID: http2.SettingEnablePush, Val: 0}))
	return c
}

func (c *client) check(err error) {
	c.t.Helper()
	if err != nil {
		c.t.Fatal(err)
	}
}

// fields is a header block; many of its fields go into the dynamic table.
func (c *client) fields(trailers bool) []byte {
	c.block.Reset()
	write := func(name, value string) {
		c.check(c.encoder.WriteField(hpack.HeaderField{Name: name, Value: value, Sensitive: c.random.IntN(6) == 0}))
	}
	if c.random.IntN(10) == 0 {
		c.encoder.SetMaxDynamicTableSize(uint32(c.random.IntN(4096)))
	}
	if !trailers {
		write(":method", "POST")
		write(":scheme", "http")
		write(":authority", "h.example")
		write(":path", fmt.Sprintf("/%d", c.random.IntN(50)))
	}
	for range c.random.IntN(6) {
		write(fmt.Sprintf("x-field-%d", c.random.IntN(12)), strings.Repeat("v", c.random.IntN(90)))
	}
	if c.random.IntN(25) == 0 { // near the limit of a frame
		write("x-long", strings.Repeat("\\", 7800+c.random.IntN(800)))
	}
	return c.block.Bytes()
}

// headers sends a block, in one of the ways in which that may be done.
func (c *client) headers(stream uint32, trailers, end bool) {
	block := c.fields(trailers)
	p := http2.HeadersFrameParam{StreamID: stream, BlockFragment: block, EndStream: end, EndHeaders: true}
	if c.random.IntN(4) == 0 {
		p.Priority = http2.PriorityParam{StreamDep: 0, Weight: 15}
	}
	switch c.random.IntN(8) {
	case 0:
		p.PadLength = uint8(1 + c.random.IntN(40))
	case 1:
		cut := c.random.IntN(len(block) + 1)
		p.BlockFragment, p.EndHeaders = block[:cut], false
		c.check(c.framer.WriteHeaders(p))
		if c.random.IntN(2) == 0 {
			c.check(c.framer.WriteContinuation(stream, false, nil))
		}
		c.check(c.framer.WriteContinuation(stream, true, block[cut:]))
		return
	}
	c.check(c.framer.WriteHeaders(p))
}

// step sends one more thing.
func (c *client) step() {
	pick := func() (uint32, int) {
		i := c.random.IntN(len(c.open))
		return c.open[i], i
	}
	switch n := c.random.IntN(16); {
	case n < 6 || len(c.open) == 0:
		c.last += 2 * uint32(1+c.random.IntN(2))
		if c.last%2 == 0 {
			c.last--
		}
		end := c.random.IntN(2) == 0
		c.headers(c.last, false, end)
		if !end {
			c.open = append(c.open, c.last)
		}
	case n < 10:
		stream, i := pick()
		end := c.random.IntN(3) == 0
		size := c.random.IntN(300)
		if c.random.IntN(10) == 0 {
			size = c.random.IntN(16385)
		}
		// A body that looks like frames.
		c.check(c.framer.WriteData(stream, end, bytes.Repeat([]byte("\x00\x00\x04\x01\x05\x00\x00\x00\x01\x82\x86\x84\x41"), size/13+1)[:size]))
		if end {
			c.open = slices.Delete(c.open, i, i+1)
		}
	case n == 10:
		stream, i := pick()
		c.headers(stream, true, true)
		c.open = slices.Delete(c.open, i, i+1)
	case n == 11:
		c.check(c.framer.WriteWindowUpdate(uint32(c.random.IntN(2))*c.last, 1000))
	case n == 12:
		c.check(c.framer.WritePing(false, [8]byte{1: 5, 3: 1}))
	case n == 13:
		stream, i := pick()
		c.check(c.framer.WriteRSTStream(stream, http2.ErrCodeCancel))
		c.open = slices.Delete(c.open, i, i+1)
	case n == 14:
		c.check(c.framer.WriteRawFrame(http2.FrameType(0x10+c.random.IntN(100)), http2.Flags(c.random.IntN(256)), 0, []byte("unknown")))
	default:
		c.check(c.framer.WriteSettingsAck())
	}
}

// raw is a frame as it stands in a stream.
type raw struct {
	http2.FrameHeader
	payload []byte
}

// framesOf takes a stream apart without looking at what it says.
func framesOf(stream []byte) ([]raw, error) {
	rest, ok := bytes.CutPrefix(stream, []byte(http2.ClientPreface))
	if !ok {
		return nil, fmt.Errorf("no preface")
	}
	var frames []raw
	for r := bytes.NewReader(rest); r.Len() > 0; {
		h, err := http2.ReadFrameHeader(r)
		if err != nil {
			return nil, err
		}
		payload := make([]byte, h.Length)
		if _, err := io.ReadFull(r, payload); err != nil {
			return nil, fmt.Errorf("frame of %d bytes: %w", h.Length, err)
		}
		frames = append(frames, raw{h, payload})
	}
	return frames, nil
}

// decoded is what a server reads: the strict reader of the Go implementation, which
// ends with an error at anything malformed.
func decoded(t *testing.T, stream []byte) map[uint32][][]hpack.HeaderField {
	t.Helper()
	framer := http2.NewFramer(io.Discard, bytes.NewReader(stream[len(http2.ClientPreface):]))
	framer.ReadMetaHeaders = hpack.NewDecoder(4096, nil)
	framer.SetMaxReadFrameSize(16384)
	framer.MaxHeaderListSize = 1 << 20
	blocks := map[uint32][][]hpack.HeaderField{}
	for {
		frame, err := framer.ReadFrame()
		if errors.Is(err, io.EOF) {
			return blocks
		}
		if err != nil {
			t.Fatalf("a server would refuse this: %v %v", err, framer.ErrorDetail())
		}
		if h, ok := frame.(*http2.MetaHeadersFrame); ok {
			if h.Truncated {
				t.Fatal("header list truncated")
			}
			blocks[h.StreamID] = append(blocks[h.StreamID], h.Fields)
		}
	}
}

// added are the fields that host_http2.h puts behind the block of a stream, and how
// many bytes they take.
func added(stream uint32) (fields []hpack.HeaderField, size int) {
	if stream>>1&1 == 0 {
		return nil, 0
	}
	id := fmt.Sprintf("%02x", byte(stream|1))
	fields = append(fields, hpack.HeaderField{Name: "traceparent",
		Value: fmt.Sprintf("00-%s-%s-%02x", strings.Repeat(id, 16), strings.Repeat(id, 8), stream>>2&3)})
	if n := int(stream * 7 % 300); stream>>4&1 != 0 && n > 0 {
		fields = append(fields, hpack.HeaderField{Name: "tracestate", Value: strings.Repeat("s", n)})
	}
	if n := int(stream * 131 % 8192); stream>>5&1 != 0 && n > 0 {
		fields = append(fields, hpack.HeaderField{Name: "baggage", Value: strings.Repeat("b", n)})
	}
	for _, f := range fields {
		size += 1 + 1 + len(f.Name) + 1 + len(f.Value)
		if len(f.Value) >= 127 {
			size++
		}
		if len(f.Value) >= 127+128 {
			size++
		}
	}
	return fields, size
}

// TestHTTP2Agrees compares the frames that the C reader finds in random streams, in
// any split, with those of the Go implementation.
func TestHTTP2Agrees(t *testing.T) {
	random := rand.New(rand.NewPCG(5, 6))
	frames := make([]frame, 300)
	for i := range frames {
		c := newClient(t, random)
		for range 1 + random.IntN(60) {
			c.step()
		}
		frames[i] = frame{data: c.out.Bytes()}
	}
	opened, trailers := 0, 0
	for i, got := range ask(t, "http2", frames) {
		whole, err := framesOf(frames[i].data)
		if err != nil {
			t.Fatal(err)
		}
		var want strings.Builder
		offset, last := len(http2.ClientPreface), uint32(0)
		for _, f := range whole {
			opens := ""
			if f.Type == http2.FrameHeaders && f.StreamID > last {
				last, opens = f.StreamID, " opens"
				opened++
			} else if f.Type == http2.FrameHeaders {
				trailers++
			}
			offset += 9
			fmt.Fprintf(&want, "frame type=%d flags=%02x stream=%d length=%d%s offset=%d\n",
				f.Type, uint8(f.Flags), f.StreamID, f.Length, opens, offset)
			offset += int(f.Length)
		}
		if got != want.String() {
			t.Fatalf("stream %d: C sees\n%swant\n%s", i, got, want.String())
		}
	}
	if opened < 1000 || trailers < 100 {
		t.Errorf("%d requests and %d trailers test too little", opened, trailers)
	}
}

// TestHTTP2Edited has streams edited in random sends, and reads them as a server: the
// same headers and the added fields, every other byte as it was.
func TestHTTP2Edited(t *testing.T) {
	random := rand.New(rand.NewPCG(7, 8))
	frames := make([]frame, 300)
	for i := range frames {
		c := newClient(t, random)
		for range 1 + random.IntN(80) {
			c.step()
		}
		seed := random.Uint64()
		if i%8 == 0 {
			seed = 0 // all of it in one send
		}
		frames[i] = frame{data: append(binary.NativeEndian.AppendUint64(nil, seed), c.out.Bytes()...)}
	}
	edited, left := 0, 0
	for i, answer := range ask(t, "http2-edit", frames) {
		transcript, text, found := strings.Cut(answer, "stream ")
		for strings.Contains(text, "stream ") { // the last one holds the bytes
			var more string
			more, text, _ = strings.Cut(text, "stream ")
			transcript += "stream " + more
		}
		after, err := hex.DecodeString(text)
		if err != nil || !found {
			t.Fatalf("answer %.100q: %v", answer, err)
		}
		before := frames[i].data[8:]
		edits := map[uint32]bool{}
		for line := range strings.Lines(transcript) {
			var stream uint32
			if n, _ := fmt.Sscanf(line, "edit stream=%d", &stream); n == 1 {
				edits[stream] = true
			}
		}
		inOneSend := binary.NativeEndian.Uint64(frames[i].data) == 0
		compareFrames(t, before, after, edits, inOneSend)
		was, is := decoded(t, before), decoded(t, after)
		for stream, blocks := range was {
			want := slices.Clone(blocks[0])
			if edits[stream] {
				extra, _ := added(stream)
				want = append(want, extra...)
				edited++
			} else {
				left++
			}
			if got := is[stream][0]; !slices.Equal(got, want) {
				t.Fatalf("stream %d, request %d: %v, want %v", i, stream, got, want)
			}
			for j := range blocks[1:] {
				if !slices.Equal(is[stream][1+j], blocks[1+j]) {
					t.Fatalf("stream %d, request %d: its trailers changed", i, stream)
				}
			}
		}
	}
	t.Logf("%d requests edited, %d left as they were", edited, left)
	if edited < 1000 || left < 1000 {
		t.Error("the mix tests too little")
	}
}

// compareFrames wants nothing changed but what an edit changes, and no edit missing
// where all stands in one send.
func compareFrames(t *testing.T, before, after []byte, edits map[uint32]bool, inOneSend bool) {
	t.Helper()
	was, err := framesOf(before)
	if err != nil {
		t.Fatal(err)
	}
	is, err := framesOf(after)
	if err != nil {
		t.Fatalf("the edited stream falls apart: %v", err)
	}
	if len(is) != len(was) {
		t.Fatalf("%d frames, %d before", len(is), len(was))
	}
	var last uint32
	for i, f := range was {
		opens := f.Type == http2.FrameHeaders && f.StreamID > last
		if opens {
			last = f.StreamID
		}
		_, size := added(f.StreamID)
		grows := opens && size > 0 && f.Flags.Has(http2.FlagHeadersEndHeaders) &&
			!f.Flags.Has(http2.FlagHeadersPadded) && int(f.Length)+size <= 16384
		want := f.FrameHeader
		if opens && edits[f.StreamID] {
			if !grows {
				t.Fatalf("frame %v was edited", f.FrameHeader)
			}
			want.Length += uint32(size)
		} else if grows && inOneSend {
			t.Fatalf("frame %v was not edited", f.FrameHeader)
		}
		got := is[i].FrameHeader
		if got.Type != want.Type || got.Flags != want.Flags || got.StreamID != want.StreamID || got.Length != want.Length ||
			!bytes.HasPrefix(is[i].payload, f.payload) {
			t.Fatalf("frame %v became %v", f.FrameHeader, got)
		}
	}
}

// TestHTTP2Refuses wants the reader to give up at what no client sends.
func TestHTTP2Refuses(t *testing.T) {
	const opening = http2.ClientPreface + "\x00\x00\x00\x04\x00\x00\x00\x00\x00"
	head := func(length, kind, flags int, stream uint32) string {
		return string(binary.BigEndian.AppendUint32([]byte{byte(length >> 16), byte(length >> 8), byte(length), byte(kind), byte(flags)}, stream))
	}
	cases := []struct{ name, data, want string }{
		{"another protocol", "GET / HTTP/1.1\r\nHost: h\r\n\r\n", "raw preface offset=24\n"},
		{"preface with one byte off", strings.Replace(http2.ClientPreface, "SM", "Sm", 1), "raw preface offset=24\n"},
		{"first frame is not SETTINGS", http2.ClientPreface + head(1, 1, 4, 1), "raw first offset=33\n"},
		{"first frame is an acknowledgement", http2.ClientPreface + head(0, 4, 1, 0), "raw first offset=33\n"},
		{"first SETTINGS of a stream", http2.ClientPreface + head(0, 4, 0, 1), "raw first offset=33\n"},
		{"reserved bit", opening + head(0, 6, 0, 1<<31), "raw reserved offset=42\n"},
		{"block interrupted", opening + head(0, 1, 0, 1) + head(0, 0, 0, 1), "raw block offset=51\n"},
		{"block of another stream", opening + head(0, 1, 0, 1) + head(0, 9, 4, 3), "raw block offset=51\n"},
		{"continuation of nothing", opening + head(0, 1, 4, 1) + head(0, 9, 4, 1), "raw block offset=51\n"},
		{"headers on stream 0", opening + head(0, 1, 4, 0), "raw stream offset=42\n"},
		{"headers on the server's stream", opening + head(0, 1, 4, 2), "raw stream offset=42\n"},
		{"data on stream 0", opening + head(0, 0, 0, 0), "raw stream offset=42\n"},
		{"data before headers", opening + head(0, 1, 4, 1) + head(0, 0, 0, 3), "raw stream offset=51\n"},
		{"push", opening + head(0, 1, 4, 1) + head(0, 5, 4, 1), "raw push offset=51\n"},
	}
	frames := make([]frame, len(cases))
	for i, c := range cases {
		// What comes behind must not be looked at.
		frames[i] = frame{data: []byte(c.data + opening + head(4, 1, 4, 9) + "abcd")}
	}
	for i, got := range ask(t, "http2", frames) {
		if !strings.HasSuffix(got, cases[i].want) || strings.Count(got, "raw") != 1 {
			t.Errorf("%s: %q, want it to end with %q", cases[i].name, got, cases[i].want)
		}
	}
}
