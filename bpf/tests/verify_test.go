package bpftest

import (
	"bytes"
	"errors"
	"os"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"testing"
	"unsafe"

	"github.com/cilium/ebpf"

	"weft/internal/w3c"
)

// slot mirrors struct slot of verify_lib.bpf.c; the map's value size tells
// whether it still does.
type slot struct {
	Parser struct {
		Names, Wanted                     uint64
		Remaining, BodyBytes              uint64
		Name                              [48]byte
		Value                             [64]byte
		HeadBytes, BlankAt, TrailerBytes  uint32
		Pos, Limit                        uint32
		NameLen, ValueRaw, ValueLen, ExtL uint16
		Phase, Signal, Reason, IsRequest  uint8
		_                                 [16]byte
	}
	Head struct {
		ContentLength                                                     uint64
		Status, TargetLen, TargetTotal, HostLen, TPLen                    uint16
		TPCount, TSCount, BGCount, MethodLen, Minor, HaveLength, HaveCode uint8
		Chunked, HaveHost, Upgrade                                        uint8
		_                                                                 [4]byte
		Method                                                            [16]byte
		Traceparent                                                       [64]byte
		Host                                                              [128]byte
		Target                                                            [256]byte
	}
	Context struct {
		TraceID        [16]byte
		SpanID         [8]byte
		Version, Flags uint8
		_              [6]byte
	}
	MessageLen, Used, Steps, Result uint32
	Window                          [128]byte
	Message                         [32768 + 128]byte
}

// The verifier gives up at a million instructions on every kernel; the agent's
// programs put their own work on top, and older kernels prune less.
const mostVerified = 250_000

// load compiles one of this folder's BPF sources and loads it. It needs root.
func load(t *testing.T, source string) *ebpf.Collection {
	t.Helper()
	if os.Geteuid() != 0 {
		t.Skip("loading BPF programs needs root: sudo go test ./bpf/tests")
	}
	// A guest without clang is given the objects, built elsewhere.
	object := filepath.Join(os.Getenv("WEFT_LIB_OBJECTS"), strings.TrimSuffix(source, ".bpf.c")+".o")
	if os.Getenv("WEFT_LIB_OBJECTS") == "" {
		object = clang(t, filepath.Base(object), source, "-O2", "-target", "bpf", "-mcpu=v3",
			"-fno-jump-tables", "-Wno-unused-parameter", "-Wpadded", "-I/usr/include/x86_64-linux-gnu",
			"-I/usr/include/aarch64-linux-gnu", "-c")
	}
	spec, err := ebpf.LoadCollectionSpec(object)
	if err != nil {
		t.Fatal(err)
	}
	collection, err := ebpf.NewCollectionWithOptions(spec, ebpf.CollectionOptions{
		Programs: ebpf.ProgramOptions{LogLevel: ebpf.LogLevelStats},
	})
	if err != nil {
		var verifier *ebpf.VerifierError
		if errors.As(err, &verifier) {
			t.Fatalf("%+v", verifier)
		}
		t.Fatal(err)
	}
	t.Cleanup(collection.Close)
	return collection
}

func loadLib(t *testing.T) *ebpf.Collection {
	t.Helper()
	return load(t, "verify_lib.bpf.c")
}

// checkVerified wants no program to cost the verifier more than most instructions,
// the functions it calls included.
func checkVerified(t *testing.T, collection *ebpf.Collection, most int) {
	t.Helper()
	// The log, because kernels before 5.16 do not keep the number.
	processed := regexp.MustCompile(`processed (\d+) insns`)
	for name, program := range collection.Programs {
		match := processed.FindStringSubmatch(program.VerifierLog)
		if match == nil {
			t.Fatalf("%s: no count in the verifier's log %q", name, program.VerifierLog)
		}
		n, err := strconv.Atoi(match[1])
		if err != nil {
			t.Fatal(err)
		}
		t.Logf("%s: %d instructions verified", name, n)
		if n > most {
			t.Errorf("%s: %d instructions verified, at most %d wanted", name, n, most)
		}
	}
}

func TestVerifier(t *testing.T) {
	checkVerified(t, loadLib(t), mostVerified)
}

// run parses message in the kernel and returns the slot afterwards.
func run(t *testing.T, lib *ebpf.Collection, message []byte) *slot {
	t.Helper()
	slots := lib.Maps["slots"]
	if got, want := slots.ValueSize(), uint32(unsafe.Sizeof(slot{})); got != want {
		t.Fatalf("struct slot is %d bytes in C, %d in Go", got, want)
	}
	in := &slot{MessageLen: uint32(len(message))}
	copy(in.Message[:], message)
	if err := slots.Put(uint32(0), in); err != nil {
		t.Fatalf("fill slot: %v", err)
	}
	if _, err := lib.Programs["parse_message"].Run(&ebpf.RunOptions{}); err != nil {
		t.Fatalf("run parse_message: %v", err)
	}
	out := new(slot)
	if err := slots.Lookup(uint32(0), out); err != nil {
		t.Fatalf("read slot: %v", err)
	}
	return out
}

// TestKernelParses wants from the BPF build what the host build gives: the
// barriers and the direct loads differ between the two.
func TestKernelParses(t *testing.T) {
	lib := loadLib(t)
	const parent = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-03"
	head := "POST /kernel?x=1 HTTP/1.1\r\nHost: kernel.example:80\r\nUser-Agent: a_b/1\tc\r\n" +
		"TraceParent: \t" + parent + " \r\nTransfer-Encoding: gzip, Chunked\r\n\r\n"
	body := "a;x\r\n0123456789\r\n12c\r\n" + string(bytes.Repeat([]byte("x"), 300)) + "\r\n0\r\nSum: 1\r\n\r\n"
	got := run(t, lib, []byte(head+body+"GET /next"))
	if got.Parser.Signal != 3 || int(got.Used) != len(head+body) || got.Parser.BodyBytes != 310 {
		t.Fatalf("signal %d reason %d used %d body %d; want 3, 0, %d, 310", got.Parser.Signal,
			got.Parser.Reason, got.Used, got.Parser.BodyBytes, len(head+body))
	}
	if int(got.Parser.HeadBytes) != len(head) || int(got.Parser.BlankAt) != len(head)-2 {
		t.Errorf("head of %d, empty line at %d; want %d, %d", got.Parser.HeadBytes, got.Parser.BlankAt, len(head), len(head)-2)
	}
	h := &got.Head
	for what, pair := range map[string][2]string{
		"method":      {string(h.Method[:h.MethodLen]), "POST"},
		"target":      {string(h.Target[:h.TargetLen]), "/kernel?x=1"},
		"host":        {string(h.Host[:h.HostLen]), "kernel.example:80"},
		"traceparent": {string(h.Traceparent[:min(int(h.TPLen), 64)]), parent},
	} {
		if pair[0] != pair[1] {
			t.Errorf("%s %q, want %q", what, pair[0], pair[1])
		}
	}
	want, err := w3c.Parse(parent)
	if err != nil {
		t.Fatal(err)
	}
	if got.Result != 0 || got.Context.TraceID != want.TraceID || got.Context.SpanID != want.SpanID || got.Context.Flags != want.Flags {
		t.Errorf("context %d %+v, want %+v", got.Result, got.Context, want)
	}
	if _, err := lib.Programs["format_context"].Run(&ebpf.RunOptions{}); err != nil {
		t.Fatal(err)
	}
	if err := lib.Maps["slots"].Lookup(uint32(0), got); err != nil {
		t.Fatal(err)
	}
	if text := string(got.Message[:w3c.Length]); text != parent {
		t.Errorf("kernel wrote %q", text)
	}
}

// TestKernelHeadOf16K wants the longest head inside the promised steps, also
// with as many lines with meaning as there may be.
func TestKernelHeadOf16K(t *testing.T) {
	lib := loadLib(t)
	const most = 16384
	var b bytes.Buffer
	b.WriteString("GET / HTTP/1.1\r\n")
	for range 16 {
		b.WriteString("traceparent: x\r\n")
	}
	b.WriteString("Cookie: ")
	b.Write(bytes.Repeat([]byte("c"), most-b.Len()-4))
	b.WriteString("\r\n\r\n")
	got := run(t, lib, b.Bytes())
	if got.Parser.Signal != 3 || got.Parser.HeadBytes != most || got.Head.TPCount != 16 {
		t.Errorf("signal %d reason %d head %d traceparents %d", got.Parser.Signal, got.Parser.Reason, got.Parser.HeadBytes, got.Head.TPCount)
	}
	if promised := uint32(most/128 + 2*64 + most/64 + 1); got.Steps > promised {
		t.Errorf("%d steps, HTTP1_HEAD_STEPS promises %d", got.Steps, promised)
	}
	long := bytes.Replace(b.Bytes(), []byte("ccc"), []byte("cccc"), 1)
	if got := run(t, lib, long); got.Parser.Signal != 4 || got.Parser.Reason != 10 {
		t.Errorf("one byte more: signal %d reason %d, want 4 and 10", got.Parser.Signal, got.Parser.Reason)
	}
	if got := run(t, lib, []byte("\x16\x03\x01")); got.Parser.Signal != 4 || got.Parser.Reason != 1 {
		t.Errorf("TLS: signal %d reason %d, want 4 and 1", got.Parser.Signal, got.Parser.Reason)
	}
}
