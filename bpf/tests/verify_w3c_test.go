package bpftest

import (
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"
	"unsafe"

	"github.com/cilium/ebpf"

	"weft/internal/w3c"
	"weft/internal/w3c/w3ctest"
)

// Each function of tracestate.h and baggage.h, called once.
const mostVerifiedW3C = 100_000

// w3cCall and w3cText mirror the structs of verify_w3c.bpf.c; the maps' value sizes
// tell whether they still do.
type w3cKeys struct {
	Count, Any uint32
	Hash       [16]uint64
}

type w3cCall struct {
	Threshold       uint64
	N, Mode, Result uint32
	_               uint32
	Piece, Key      [64]byte
	Only, Without   w3cKeys
}

type w3cText struct {
	OT struct {
		Threshold, Random       uint64
		HasThreshold, HasRandom uint8
		_                       [6]byte
	}
	_       [80 + 32*4 + 256 + 5696]byte // the rest of struct tracestate
	Written [2048]byte
	Value   struct {
		Len, Pos, Next uint16
		Over           uint8
		_              uint8
		Text           [256]byte
	}
	Baggage struct {
		Hash                         uint64
		Malformed, Dropped, Filtered uint32
		Len, Pos, End, Next, Limit   uint16
		Count                        uint8
		_                            [9]byte
		Text                         [8192 + 64 + 256 + 8]byte
	}
}

// kernel runs the functions of verify_w3c.bpf.c one at a time.
type kernel struct {
	*testing.T
	lib    *ebpf.Collection
	random *rand.Rand
	call   w3cCall
	text   w3cText
}

func newKernel(t *testing.T) *kernel {
	k := &kernel{T: t, lib: load(t, "verify_w3c.bpf.c"), random: rand.New(rand.NewPCG(9, 10))}
	for name, size := range map[string]uintptr{"calls": unsafe.Sizeof(k.call), "texts": unsafe.Sizeof(k.text)} {
		if got := k.lib.Maps[name].ValueSize(); uintptr(got) != size {
			t.Fatalf("a value of %s is %d bytes in C, %d in Go", name, got, size)
		}
	}
	return k
}

// run calls a program and returns what its function did.
func (k *kernel) run(program string) uint32 {
	k.Helper()
	if err := k.lib.Maps["calls"].Put(uint32(0), &k.call); err != nil {
		k.Fatalf("%s: %v", program, err)
	}
	if _, err := k.lib.Programs[program].Run(&ebpf.RunOptions{}); err != nil {
		k.Fatalf("%s: %v", program, err)
	}
	if err := k.lib.Maps["calls"].Lookup(uint32(0), &k.call); err != nil {
		k.Fatalf("%s: %v", program, err)
	}
	return k.call.Result
}

// read fetches what the programs work on.
func (k *kernel) read() *w3cText {
	k.Helper()
	if err := k.lib.Maps["texts"].Lookup(uint32(0), &k.text); err != nil {
		k.Fatal(err)
	}
	return &k.text
}

// begin leaves what the case before wrote in the text and none of the state.
func (k *kernel) begin() { k.run("run_reset") }

// feed hands text over in pieces of 1 to 64 bytes, with other bytes behind them.
func (k *kernel) feed(program, text string) {
	for text != "" {
		n := min(len(text), 1+k.random.IntN(64))
		if k.random.IntN(2) == 0 {
			n = min(len(text), 64)
		}
		for i := range k.call.Piece {
			k.call.Piece[i] = byte(k.random.Uint32())
		}
		copy(k.call.Piece[:], text[:n])
		k.call.N = uint32(n)
		k.run(program)
		text = text[n:]
	}
}

func (k *kernel) write(mode uint32, threshold uint64) string {
	k.call.Mode, k.call.Threshold = mode, threshold
	n := k.run("run_state_write")
	if n > w3c.TraceStateMax {
		k.Fatalf("%d bytes written", n)
	}
	return w3ctest.Quote(string(k.read().Written[:n]))
}

// traceState says of a vector what w3ctest says.
func (k *kernel) traceState(v w3ctest.Vector) string {
	var out strings.Builder
	k.begin()
	for _, line := range v.Lines {
		k.feed("run_state_feed", line)
		k.run("run_state_line_end")
	}
	result := k.run("run_state_end")
	cut := k.run("run_state_cut")
	if result == 0 {
		fmt.Fprintf(&out, "ok cut=%d\n", cut)
	} else {
		fmt.Fprintln(&out, []string{"", "empty", "key", "value", "form", "too-many"}[result])
	}
	if ot := k.read().OT; ot.HasThreshold|ot.HasRandom != 0 {
		out.WriteString("ot")
		if ot.HasThreshold != 0 {
			fmt.Fprintf(&out, " th=%014x", ot.Threshold)
		}
		if ot.HasRandom != 0 {
			fmt.Fprintf(&out, " rv=%014x", ot.Random)
		}
		out.WriteByte('\n')
	}
	kept := k.write(0, 0)
	fmt.Fprintf(&out, "keep %s\nset %s\n", kept, k.write(1, v.Threshold))
	if erased := k.write(2, 0); erased != kept {
		fmt.Fprintf(&out, "erase %s\n", erased)
	}
	return out.String()
}

func keysOf(list []string) (keys w3cKeys) {
	for _, key := range list {
		keys.Hash[keys.Count] = w3c.BaggageKeyHash(key)
		keys.Count++
	}
	return keys
}

// baggage likewise.
func (k *kernel) baggage(v w3ctest.Vector) string {
	var out strings.Builder
	k.begin()
	k.call.Only, k.call.Without = keysOf(v.Only), keysOf(v.Without)
	if v.Only == nil {
		k.call.Only.Any = 1
	}
	program := "run_baggage_feed"
	if v.Only == nil && v.Without == nil && k.random.IntN(2) == 0 {
		program = "run_baggage_feed_all"
	}
	for _, line := range v.Lines {
		k.feed(program, line)
		k.run("run_baggage_line_end")
	}
	n := k.run("run_baggage_end")
	b := &k.read().Baggage
	fmt.Fprintf(&out, "baggage %s\nmembers=%d malformed=%d dropped=%d filtered=%d\n",
		w3ctest.Quote(string(b.Text[:n])), b.Count, b.Malformed, b.Dropped, b.Filtered)
	if v.Key == "" {
		return out.String()
	}
	k.feed("run_value_feed", v.Raw)
	copy(k.call.Key[:], v.Key)
	k.call.N = uint32(len(v.Key))
	done := k.run("run_append")
	k.read()
	switch {
	case k.text.Value.Over != 0:
		fmt.Fprintln(&out, "over")
	case done == 0:
		fmt.Fprintln(&out, "refused")
	default:
		fmt.Fprintf(&out, "appended %s\n", w3ctest.Quote(string(k.text.Baggage.Text[:k.text.Baggage.Len])))
	}
	return out.String()
}

func TestVerifierW3C(t *testing.T) {
	checkVerified(t, load(t, "verify_w3c.bpf.c"), mostVerifiedW3C)
}

// TestKernelVectors wants from the BPF build what the host build and Go give: the
// barriers, the direct loads and the copies differ between them.
func TestKernelVectors(t *testing.T) {
	k := newKernel(t)
	for kind, say := range map[string]func(w3ctest.Vector) string{"tracestate": k.traceState, "baggage": k.baggage} {
		vectors, err := w3ctest.Read("vectors/" + kind + ".txt")
		if err != nil || len(vectors) < 70 {
			t.Fatalf("%d vectors, error %v", len(vectors), err)
		}
		for _, v := range vectors {
			lines := strings.SplitAfter(v.Want, "\n")
			lines = slices.DeleteFunc(lines, func(line string) bool { return strings.HasPrefix(line, "member ") })
			if got, want := say(v), strings.Join(lines, ""); got != want {
				t.Errorf("%s.txt:%d %s: got\n%.2000swant\n%.2000s", kind, v.Line, v.Name, got, want)
			}
		}
	}
}

// TestKernelAgrees compares with Go on made-up lines, as the host build is compared.
func TestKernelAgrees(t *testing.T) {
	k := newKernel(t)
	const rounds = 300
	random := rand.New(rand.NewPCG(11, 12))
	for range rounds {
		v := stateCase(random)
		if got, want := k.traceState(v), v.TraceState(); got != want {
			t.Fatalf("%q threshold %x\nkernel says\n%sGo says\n%s", v.Lines, v.Threshold, got, want)
		}
		v = baggageCase(random)
		if got, want := k.baggage(v), v.Baggage(false); got != want {
			t.Fatalf("%.2000q\nkernel says\n%.2000sGo says\n%.2000s", v.BaggageFrame(), got, want)
		}
	}
}
