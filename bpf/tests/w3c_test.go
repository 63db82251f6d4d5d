package bpftest

import (
	"fmt"
	"math/rand/v2"
	"strings"
	"testing"

	"weft/internal/w3c/w3ctest"
)

// TestTraceStateAgrees compares the C parser, in random segments, with internal/w3c on
// made-up lines, half of them damaged: same verdict, same members, same ot.
func TestTraceStateAgrees(t *testing.T) {
	const rounds = 15000
	random := rand.New(rand.NewPCG(5, 6))
	vectors := make([]w3ctest.Vector, rounds)
	frames := make([]frame, rounds)
	for i := range vectors {
		vectors[i] = stateCase(random)
		frames[i] = frame{data: vectors[i].TraceStateFrame()}
	}
	seen := map[string]int{}
	for i, got := range ask(t, "tracestate", frames) {
		if want := vectors[i].TraceState(); got != want {
			t.Fatalf("%q threshold %x\nC says\n%sGo says\n%s", vectors[i].Lines, vectors[i].Threshold, got, want)
		}
		seen[strings.Fields(got)[0]]++
		if strings.HasPrefix(got, "ok") && !strings.HasPrefix(got, "ok cut=0") {
			seen["cut"]++
		}
		for _, what := range []string{" th=", " rv=", "\nerase"} {
			if strings.Contains(got, what) {
				seen[what]++
			}
		}
	}
	t.Logf("%v", seen)
	for _, verdict := range []string{"ok", "empty", "key", "value", "form", "too-many", "cut", " th=", " rv=", "\nerase"} {
		if seen[verdict] < rounds/100 {
			t.Errorf("%q seen %d times only: %v", verdict, seen[verdict], seen)
		}
	}
}

// stateCase makes tracestate lines.
func stateCase(random *rand.Rand) w3ctest.Vector {
	pick := func(choices ...string) string { return choices[random.IntN(len(choices))] }
	v := w3ctest.Vector{Threshold: random.Uint64() >> 8}
	if random.IntN(2) == 0 {
		v.Threshold &= 0xfff << (4 * random.IntN(14)) & (1<<56 - 1)
	}
	long := random.IntN(3) == 0 // many or long members, so that it is cut
	for range 1 + random.IntN(3) {
		var members []string
		most := 4
		if long {
			most = 14
		}
		for range random.IntN(most) {
			if random.IntN(8) == 0 {
				members = append(members, "ot="+otValue(random))
				continue
			}
			key := pick("a", "foo", "tenant@system", "0x", "ott", "o", "k_-*/")
			value := pick("1", "t61rcWkgMzE", " v", "a:b;c", "x y", "~!")
			if long {
				value += strings.Repeat(pick("v", "longer "), random.IntN(40)) + "."
				if random.IntN(4) == 0 {
					key += strings.Repeat("k", random.IntN(254))
				}
			}
			members = append(members, pick("", "", " ", "\t")+key+"="+value+pick("", "", " ", " \t "))
		}
		v.Lines = append(v.Lines, strings.Join(members, pick(",", ",", " , ", ",,")))
	}
	if random.IntN(30) == 0 {
		v.Lines = append(v.Lines, strings.Repeat("many=1,", 28+random.IntN(8)))
	}
	if random.IntN(2) == 0 {
		i := random.IntN(len(v.Lines))
		v.Lines[i] = string(damage(random, v.Lines[i], ",=; \tA@.\x7f\x80\xff\x00a0"))
	}
	return v
}

func otValue(random *rand.Rand) string {
	digits := func(n int) string {
		const lower = "0123456789abcdef0000"
		b := make([]byte, n)
		for i := range b {
			b[i] = lower[random.IntN(len(lower))]
		}
		return string(b)
	}
	var subs []string
	for range 1 + random.IntN(4) {
		switch random.IntN(5) {
		case 0, 1:
			subs = append(subs, "th:"+digits(random.IntN(16)))
		case 2:
			subs = append(subs, "rv:"+digits(13+random.IntN(3)))
		case 3:
			subs = append(subs, "p:"+digits(random.IntN(4)))
		case 4:
			subs = append(subs, "x:"+strings.Repeat("y", random.IntN(120)))
		}
	}
	return strings.Join(subs, ";")
}

// damage changes a byte or two.
func damage(random *rand.Rand, text, with string) []byte {
	data := []byte(text)
	for range 1 + random.IntN(2) {
		at := 0
		if len(data) > 0 {
			at = random.IntN(len(data))
		}
		c := with[random.IntN(len(with))]
		switch {
		case len(data) == 0 || random.IntN(3) == 0:
			data = append(data[:at:at], append([]byte{c}, data[at:]...)...)
		case random.IntN(2) == 0:
			data[at] = c
		default:
			data = append(data[:at:at], data[at+1:]...)
		}
	}
	return data
}

// TestBaggageAgrees likewise, with lists of keys and a member added.
func TestBaggageAgrees(t *testing.T) {
	const rounds = 15000
	random := rand.New(rand.NewPCG(7, 8))
	vectors := make([]w3ctest.Vector, rounds)
	frames := make([]frame, rounds)
	for i := range vectors {
		vectors[i] = baggageCase(random)
		frames[i] = frame{data: vectors[i].BaggageFrame()}
	}
	seen := map[string]int{}
	for i, got := range ask(t, "baggage", frames) {
		if want := vectors[i].Baggage(false); got != want {
			t.Fatalf("%.2000q\nC says\n%.2000sGo says\n%.2000s", vectors[i].BaggageFrame(), got, want)
		}
		for _, what := range []string{"malformed", "dropped", "filtered"} {
			if !strings.Contains(got, what+"=0") {
				seen[what]++
			}
		}
		for _, what := range []string{"\nappended", "\nrefused", "\nover", "members=64"} {
			if strings.Contains(got, what) {
				seen[what]++
			}
		}
	}
	t.Logf("%v", seen)
	for _, what := range []string{"malformed", "dropped", "filtered", "\nappended", "\nrefused", "\nover", "members=64"} {
		if seen[what] < rounds/200 {
			t.Errorf("%q seen %d times only: %v", what, seen[what], seen)
		}
	}
}

// baggageCase makes baggage lines.
func baggageCase(random *rand.Rand) w3ctest.Vector {
	pick := func(choices ...string) string { return choices[random.IntN(len(choices))] }
	var v w3ctest.Vector
	keys := []string{"user_id", "tenant", "a", "b", "session!", "k" + strings.Repeat("k", 80)}
	some := func() []string {
		list := []string{}
		for range random.IntN(4) {
			list = append(list, pick(keys...))
		}
		return list
	}
	if random.IntN(3) == 0 {
		v.Only = some()
	}
	if random.IntN(3) == 0 {
		v.Without = some()
	}
	if random.IntN(2) == 0 {
		v.Key = pick("user_id", "a", strings.Repeat("x", 60+random.IntN(8)))
		v.Raw = pick("", "alice", " Am\u00e9lie \t", "a b,c;d\"e\\f%g", "x"+strings.Repeat("\xff\u20ac", random.IntN(40)), strings.Repeat("v", 250+random.IntN(10)))
	}
	many, long := random.IntN(6) == 0, random.IntN(4) == 0
	for range 1 + random.IntN(3) {
		var members []string
		most := 6
		if many {
			most = 50
		}
		for range random.IntN(most) {
			value := pick("1", "alice", "", "Am%C3%A9lie", "a=b", "100%", "[x]{y}")
			if long {
				value += strings.Repeat(pick("v", "value%20"), random.IntN(600))
			}
			member := pick(keys...) + pick("=", "=", " = ", "\t=") + value
			for range random.IntN(3) / 2 {
				member += pick(";", " ; ") + pick("p", "p=1", "q = 2", "r=", "p==")
			}
			members = append(members, pick("", "", " ", "\t")+member+pick("", "", " ", " \t "))
		}
		v.Lines = append(v.Lines, strings.Join(members, pick(",", ",", " , ", ",,")))
	}
	if random.IntN(2) == 0 {
		i := random.IntN(len(v.Lines))
		v.Lines[i] = string(damage(random, v.Lines[i], ",=; \t\"\\(\x7f\x80\xff\x00a0"))
	}
	return v
}

// TestEveryByteOfContext puts each of the 256 bytes at each of 16 places into each part
// of a member, so that it is met both within eight bytes taken at once and alone, and
// compares with what Go makes of it. A line end cannot come.
func TestEveryByteOfContext(t *testing.T) {
	for _, kind := range []string{"tracestate", "baggage"} {
		var vectors []w3ctest.Vector
		var frames []frame
		for _, part := range []string{"%s=v,b=2", "k=%s,b=2", "k=v;%s,b=2", "k=v;p=%s,b=2", "k=v,%sb=2", "ot=th:%s;x"} {
			for c := range 256 {
				for at := range 16 {
					if c == '\n' {
						continue
					}
					fill := "f"
					middle := strings.Repeat(fill, at) + string([]byte{byte(c)}) + strings.Repeat(fill, 15-at)
					v := w3ctest.Vector{Lines: []string{fmt.Sprintf(part, middle)}}
					vectors = append(vectors, v)
					data := v.TraceStateFrame()
					if kind == "baggage" {
						data = v.BaggageFrame()
					}
					frames = append(frames, frame{data: data})
				}
			}
		}
		for i, got := range ask(t, kind, frames) {
			want := vectors[i].TraceState()
			if kind == "baggage" {
				want = vectors[i].Baggage(false)
			}
			if got != want {
				t.Fatalf("%s %q\nC says\n%sGo says\n%s", kind, vectors[i].Lines, got, want)
			}
		}
	}
}
