package w3ctest_test

import (
	"errors"
	"strings"
	"testing"

	"weft/internal/w3c"
	"weft/internal/w3c/w3ctest"
)

func readVectors(t testing.TB, kind string, least int) []w3ctest.Vector {
	t.Helper()
	vectors, err := w3ctest.Read("../../../bpf/tests/vectors/" + kind + ".txt")
	if err != nil {
		t.Fatal(err)
	}
	if len(vectors) < least {
		t.Fatalf("%s.txt: %d vectors, expected at least %d", kind, len(vectors), least)
	}
	return vectors
}

func TestTraceStateVectors(t *testing.T) {
	for _, v := range readVectors(t, "tracestate", 110) {
		t.Run(v.Name, func(t *testing.T) {
			if got := v.TraceState(); got != v.Want {
				t.Errorf("tracestate.txt:%d: got\n%swant\n%s", v.Line, got, v.Want)
			}
		})
	}
}

func TestTraceStateGet(t *testing.T) {
	state, err := w3c.ParseTraceState("foo=1,bar= 2 ", "foo=3")
	if err != nil {
		t.Fatal(err)
	}
	if state.Len() != 3 || state.String() != "foo=1,bar= 2,foo=3" {
		t.Errorf("%d members: %q", state.Len(), state)
	}
	for key, want := range map[string]string{"foo": "1", "bar": " 2"} {
		if value, ok := state.Get(key); !ok || value != want {
			t.Errorf("%s is %q %v, want %q", key, value, ok, want)
		}
	}
	if value, ok := state.Get("fo"); ok {
		t.Errorf("fo is %q", value)
	}
}

func TestTraceStateStaysAsItWas(t *testing.T) {
	state, err := w3c.ParseTraceState("a=" + strings.Repeat("x", 200) + ",b=1,ot=th:4")
	if err != nil {
		t.Fatal(err)
	}
	before := state.String()
	state.Cut()
	state.WithThreshold(0)
	state.WithoutThreshold()
	if after := state.String(); after != before {
		t.Errorf("changed from %q to %q", before, after)
	}
}

func TestTraceStateErrorIsShort(t *testing.T) {
	_, err := w3c.ParseTraceState(strings.Repeat("X", 10000))
	if !errors.Is(err, w3c.ErrStateKey) || len(err.Error()) > 250 {
		t.Errorf("error of %d bytes: %.300v", len(err.Error()), err)
	}
}

func FuzzTraceState(f *testing.F) {
	for _, v := range readVectors(f, "tracestate", 110) {
		f.Add(strings.Join(v.Lines, "\n"), v.Threshold)
	}
	f.Fuzz(func(t *testing.T, text string, threshold uint64) {
		threshold &= w3c.MaxThreshold - 1
		state, err := w3c.ParseTraceState(strings.Split(text, "\n")...)
		if err != nil {
			return
		}
		cut, dropped := state.Cut()
		for name, written := range map[string]w3c.TraceState{
			"cut": cut, "set": state.WithThreshold(threshold), "erased": state.WithoutThreshold(),
		} {
			again, err := w3c.ParseTraceState(written.String())
			if err != nil {
				t.Fatalf("%s: own output refused: %v", name, err)
			}
			if again.String() != written.String() || len(again.String()) > w3c.TraceStateMax || again.Len() > w3c.TraceStateMembers {
				t.Fatalf("%s: %q became %q", name, written, again)
			}
		}
		if cut.Len()+dropped < state.Len() {
			t.Fatalf("%d of %d members kept, %d dropped", cut.Len(), state.Len(), dropped)
		}
		set := state.WithThreshold(threshold)
		if ot := set.OT(); !ot.HasThreshold || ot.Threshold != threshold || ot.HasRandom != state.OT().HasRandom {
			t.Fatalf("%q: set to %x, read %+v", text, threshold, ot)
		}
		if state.WithoutThreshold().OT().HasThreshold {
			t.Fatalf("%q: threshold still there", text)
		}
		if !strings.HasPrefix(set.String(), "ot=th:"+w3c.ThresholdText(threshold)) {
			t.Fatalf("%q: ot is not in front: %q", text, set)
		}
	})
}
