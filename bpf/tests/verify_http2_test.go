package bpftest

import (
	"math/rand/v2"
	"strings"
	"testing"
	"unsafe"

	"github.com/cilium/ebpf"
	"golang.org/x/net/http2"
	"golang.org/x/net/http2/hpack"
)

// connection mirrors struct connection of verify_http2.bpf.c.
type connection struct {
	Reader struct {
		Left, Length, Stream, LastStream                    uint32
		Type, Flags, Opens, Block, Phase, Signal, Why, Have uint8
		Bytes                                               [64]byte
	}
	Len, At, Frames, Opened, Grow, GrowBy, ValueLen, FieldLen uint32
	IDs                                                       [24]byte
	Field                                                     [128]byte
	Stream                                                    [32768 + 64]byte
}

// runHTTP2 runs a program of verify_http2.bpf.c on c and returns what it made of it.
func runHTTP2(t *testing.T, lib *ebpf.Collection, program string, c *connection) *connection {
	t.Helper()
	m := lib.Maps["connections"]
	if got, want := m.ValueSize(), uint32(unsafe.Sizeof(connection{})); got != want {
		t.Fatalf("struct connection is %d bytes in C, %d in Go", got, want)
	}
	if err := m.Put(uint32(0), c); err != nil {
		t.Fatalf("fill map: %v", err)
	}
	if _, err := lib.Programs[program].Run(&ebpf.RunOptions{}); err != nil {
		t.Fatalf("run %s: %v", program, err)
	}
	out := new(connection)
	if err := m.Lookup(uint32(0), out); err != nil {
		t.Fatalf("read map: %v", err)
	}
	return out
}

func TestHTTP2Verifier(t *testing.T) {
	checkVerified(t, load(t, "verify_http2.bpf.c"), 20_000)
}

// TestKernelReadsHTTP2 wants from the BPF build what the Go implementation sees.
func TestKernelReadsHTTP2(t *testing.T) {
	lib := load(t, "verify_http2.bpf.c")
	random := rand.New(rand.NewPCG(9, 10))
	tried := 0
	for range 60 {
		c := newClient(t, random)
		for range 1 + random.IntN(40) {
			c.step()
		}
		if c.out.Len() > 32768 {
			continue
		}
		tried++
		in := &connection{Len: uint32(c.out.Len()), GrowBy: 1000}
		copy(in.Stream[:], c.out.Bytes())
		frames, err := framesOf(c.out.Bytes())
		if err != nil {
			t.Fatal(err)
		}
		var opened, grow, last uint32
		for _, f := range frames {
			if f.Type != http2.FrameHeaders || f.StreamID <= last {
				continue
			}
			last = f.StreamID
			opened++
			if f.Flags.Has(http2.FlagHeadersEndHeaders) && !f.Flags.Has(http2.FlagHeadersPadded) && f.Length+1000 <= 16384 {
				grow++
			}
		}
		got := runHTTP2(t, lib, "read_stream", in)
		if got.At != in.Len || got.Frames != uint32(len(frames)) || got.Opened != opened || got.Grow != grow || got.Reader.Why != 0 {
			t.Fatalf("read %d of %d bytes, %d frames, %d opened, %d may grow, reason %d; want %d, %d, %d",
				got.At, in.Len, got.Frames, got.Opened, got.Grow, got.Reader.Why, len(frames), opened, grow)
		}
	}
	if tried < 20 {
		t.Errorf("only %d streams were short enough", tried)
	}
}

// TestKernelWritesHPACK wants fields that a decoder reads, at each length around the
// places where the integer grows.
func TestKernelWritesHPACK(t *testing.T) {
	lib := load(t, "verify_http2.bpf.c")
	decode := func(block []byte) hpack.HeaderField {
		t.Helper()
		fields, err := hpack.NewDecoder(4096, nil).DecodeFull(block)
		if err != nil || len(fields) != 1 {
			t.Fatalf("%d fields of %q: %v", len(fields), block, err)
		}
		return fields[0]
	}
	in := &connection{IDs: [24]byte{0: 0x4b, 15: 0x36, 16: 0xf0, 23: 0xb7}}
	got := runHTTP2(t, lib, "write_traceparent", in)
	want := "00-4b000000000000000000000000000036-f0000000000000b7-01"
	if f := decode(got.Field[:got.FieldLen]); f.Name != "traceparent" || f.Value != want {
		t.Errorf("field %v", f)
	}
	for _, name := range []string{"tracestate", "baggage"} {
		for _, n := range []int{1, 126, 127, 128, 254, 255, 256, 1024, 8192, 0x7f + 0x3fff} {
			value := strings.Repeat("v", n)
			got := runHTTP2(t, lib, "write_"+name, &connection{ValueLen: uint32(n)})
			if f := decode(append(got.Field[:got.FieldLen:got.FieldLen], value...)); f.Name != name || f.Value != value {
				t.Errorf("%s of %d bytes: %s of %d", name, n, f.Name, len(f.Value))
			}
		}
	}
}
