package sample

import (
	"fmt"
	"math"
	"testing"

	"weft/internal/event"
	"weft/internal/w3c"
)

func TestCompose(t *testing.T) {
	for _, tc := range []struct {
		head  uint64
		ratio float64
		want  uint64
	}{
		{0, 1, 0},
		{0, 0, never},
		{0, 0.5, 0x80000000000000},
		{0, 0.1, 0xe6666666666666},
		{0, 0.01, 0xfd70a3d70a3d71},
		{0, 1e-9, 0xfffffffbb47d06},
		{0, 1.0 / never, never - 1},
		{0x80000000000000, 1, 0x80000000000000},
		{0x80000000000000, 0.5, 0xc0000000000000},
		{0xc0000000000000, 0.25, 0xf0000000000000},
		{0xfd70a3d70a3d71, 1, 0xfd70a3d70a3d71},
		{never - 1, 0.4, never},
		{never - 1, 1, never - 1},
		{1, 1, 1}, // what a float64 rounds up
	} {
		if got := compose(tc.head, tc.ratio); got != tc.want {
			t.Errorf("head %014x, ratio %v: %014x, want %014x", tc.head, tc.ratio, got, tc.want)
		}
	}
	random := source()
	for range 100_000 {
		head := random.Uint64N(never)
		a, b := random.Float64(), random.Float64()
		low, high := compose(head, min(a, b)), compose(head, max(a, b))
		if low < high || high < head || low > never {
			t.Fatalf("head %014x: ratio %v gives %014x, ratio %v gives %014x", head, min(a, b), low, max(a, b), high)
		}
		share := float64(never-low) / float64(never-head)
		if want := min(a, b); math.Abs(share-want) > 1e-12+1/float64(never-head) {
			t.Fatalf("head %014x, ratio %v: share %v", head, want, share)
		}
	}
}

// What is written on a span, by what it came with, where its trace passed here
// and whether the agent's head keeps everything.
func TestMark(t *testing.T) {
	const quarter = 0x40000000000000
	for _, tc := range []struct {
		state     string
		random    uint64
		threshold uint64
		keepsAll  bool
		want      string
	}{
		// Kept by a policy: what it passed is what the head asked.
		{"", lucky, 0, false, ""},
		{"", lucky, 0, true, "ot=th:0"},
		{"ot=th:8", lucky, 0, false, "ot=th:8"},
		{"ot=th:8", lucky, 0, true, "ot=th:8"},
		{"ot=th:0,dd=s:1", lucky, 0, true, "ot=th:0,dd=s:1"},
		// Kept by its share: not known before is not known now.
		{"", lucky, quarter, false, ""},
		{"dd=s:1", lucky, quarter, false, "dd=s:1"},
		{"", lucky, quarter, true, "ot=th:4"},
		{"dd=s:1", lucky, quarter, true, "ot=th:4,dd=s:1"},
		{"ot=th:0", lucky, quarter, false, "ot=th:4"},
		{"ot=th:2;rv:90000000000000,dd=s:1", lucky, quarter, false, "ot=th:4;rv:90000000000000,dd=s:1"},
		{"ot=th:8", lucky, quarter, false, "ot=th:8"}, // this one came by a narrower head than its trace
		// A threshold that the trace did not pass says nothing true.
		{"ot=th:8", unlucky, 0, true, ""},
		{"ot=th:8;rv:70000000000000", lucky, 0, true, "ot=rv:70000000000000"},
		{"ot=th:8;rv:90000000000000", unlucky, 0, true, "ot=th:8;rv:90000000000000"},
	} {
		m := marker{headKeepsAll: tc.keepsAll}
		s := span(tc.random, "/a", state(tc.state))
		before := *s
		got := m.mark(s, tc.threshold)
		if got.TraceState != tc.want {
			t.Errorf("%+v: %q", tc, got.TraceState)
		}
		if fmt.Sprint(*s) != fmt.Sprint(before) {
			t.Errorf("%+v: the span of others was changed", tc)
		}
		if (got == s) != (tc.want == tc.state) {
			t.Errorf("%+v: copied: %v", tc, got != s)
		}
		if got.TraceState = s.TraceState; fmt.Sprint(*got) != fmt.Sprint(*s) {
			t.Errorf("%+v: more than tracestate differs", tc)
		}
	}
}

func TestMarkReusesText(t *testing.T) {
	m := marker{headKeepsAll: true}
	for _, step := range []struct {
		state     string
		threshold uint64
		want      string
	}{
		{"a=1", 0x80000000000000, "ot=th:8,a=1"},
		{"a=1", 0x80000000000000, "ot=th:8,a=1"},
		{"a=1", 0x40000000000000, "ot=th:4,a=1"},
		{"b=1", 0x40000000000000, "ot=th:4,b=1"},
		{"", 0x40000000000000, "ot=th:4"},
		{"not a tracestate", 0x40000000000000, "ot=th:4"},
		{"a=1", 0, "ot=th:0,a=1"},
	} {
		if got := m.mark(span(lucky, "/", state(step.state)), step.threshold).TraceState; got != step.want {
			t.Errorf("%+v: %q", step, got)
		}
	}
}

func TestShareDecidedByTrace(t *testing.T) {
	const half = 0x80000000000000
	for name, tc := range map[string]struct {
		random uint64
		states []string
		want   decision // at ratio 1/2
	}{
		"nothing known, kept":         {half, []string{""}, decide(keptShare, half)},
		"nothing known, dropped":      {half - 1, []string{""}, decide(dropped, 0)},
		"head keeps half, kept":       {0xc0000000000000, []string{"ot=th:8"}, decide(keptShare, 0xc0000000000000)},
		"head keeps half, dropped":    {0xc0000000000000 - 1, []string{"ot=th:8"}, decide(dropped, 0)},
		"explicit randomness, kept":   {unlucky, []string{"ot=rv:80000000000000"}, decide(keptShare, half)},
		"explicit randomness, not":    {lucky, []string{"ot=th:0;rv:7fffffffffffff"}, decide(dropped, 0)},
		"widest head of its spans":    {0x90000000000000, []string{"ot=th:8", "", "ot=th:0", "ot=th:4"}, decide(keptShare, half)},
		"threshold that it is not at": {half, []string{"ot=th:c"}, decide(keptShare, half)},
	} {
		var spans []*event.Span
		for _, ts := range tc.states {
			spans = append(spans, span(tc.random, "/a", state(ts)))
		}
		m := marker{ratio: 0.5}
		if got := m.share(spans); got != tc.want {
			t.Errorf("%s: %x, want %x", name, got, tc.want)
		}
	}
}

// Two nodes with different shares, and heads of different widths before them:
// what the stricter keeps, the other keeps.
func TestConsistentBetweenRatios(t *testing.T) {
	kept := func(ratio float64) map[event.TraceID]bool {
		var out sink
		tail, _ := start(t, Options{Ratio: ratio}, &out)
		random := source()
		for range 20_000 {
			r := random.Uint64N(never)
			ts := []string{"", "ot=th:0", "ot=th:4", "ot=rv:" + fmt.Sprintf("%014x", random.Uint64N(never))}[random.IntN(4)]
			if ts == "ot=th:4" && r < 0x40000000000000 {
				continue // dropped by its head
			}
			tail.Span(span(r, "/a", state(ts)))
		}
		closed(t, tail)
		ids := map[event.TraceID]bool{}
		for _, s := range out.spans {
			ids[s.TraceID] = true
		}
		return ids
	}
	last := kept(1)
	if len(last) < 15_000 {
		t.Fatalf("%d traces", len(last))
	}
	for _, ratio := range []float64{0.7, 0.5, 0.1, 0.01, 0.001} {
		these := kept(ratio)
		if len(these) == 0 || len(these) >= len(last) {
			t.Errorf("ratio %v kept %d of %d", ratio, len(these), len(last))
		}
		for id := range these {
			if !last[id] {
				t.Errorf("ratio %v kept %x, a greater one did not", ratio, id)
			}
		}
		last = these
	}
}

// Counting each exported span as often as its tracestate says recovers how many
// requests there were, of each kind: behind a head that keeps everything and one
// that keeps 40 %, with errors and slow ones kept whole, and with spans that come
// late.
func TestAdjustedCountsRecoverTruth(t *testing.T) {
	const n = 100_000
	for name, tc := range map[string]struct {
		head     float64
		ratio    float64
		keepsAll bool
	}{
		"head says 1":     {1, 0.1, false},
		"head known as 1": {1, 0.1, true},
		"head keeps 0.4":  {0.4, 0.1, false},
		"all kept":        {0.4, 1, false},
		"one in hundred":  {1, 0.01, false},
	} {
		t.Run(name, func(t *testing.T) {
			var out sink
			tail, _ := start(t, Options{Errors: true, Ratio: tc.ratio, MaxSpans: 512, HeadKeepsAll: tc.keepsAll}, &out)
			head := compose(0, tc.head)
			headState := w3c.TraceState{}.WithThreshold(head).String()
			if tc.keepsAll {
				headState = ""
			}
			truth := map[string]float64{}
			random := source()
			var late []*event.Span
			for i := range n {
				trace := random.Uint64N(never)
				route, code := "/ok", 200
				switch {
				case i%50 == 0:
					route, code = "/error", 500
				case i%7 == 0:
					route = "/other"
				}
				truth[route]++
				after := i%20 == 0
				if after {
					truth["/late-error"]++
				}
				if trace < head {
					continue
				}
				tail.Span(span(trace, route, status(code), state(headState)))
				if after {
					late = append(late, span(trace, "/late-error", status(500), state(headState)))
				}
				for len(late) > 30 { // its trace was decided early by then, and is remembered
					tail.Span(late[0])
					late = late[1:]
				}
			}
			for _, s := range late {
				tail.Span(s)
			}
			closed(t, tail)
			if c := counts(tail.count); c["late kept"] < 500 {
				t.Fatalf("too little came late: %v", c)
			}

			estimate, square := map[string]float64{}, map[string]float64{}
			for _, s := range out.spans {
				read, err := w3c.ParseTraceState(s.TraceState)
				ot := read.OT()
				if err != nil || !ot.HasThreshold {
					t.Fatalf("a span says nothing: %q", s.TraceState)
				}
				w := never / float64(never-ot.Threshold)
				estimate[s.Target] += w
				square[s.Target] += w * (w - 1)
			}
			for route, want := range truth {
				within(t, route, estimate[route], want, math.Sqrt(square[route]))
			}
			if tc.head == 1 && (estimate["/error"] != truth["/error"] || estimate["/late-error"] != truth["/late-error"]) {
				t.Errorf("errors are all kept, so their number is exact: %v and %v, want %v and %v",
					estimate["/error"], estimate["/late-error"], truth["/error"], truth["/late-error"])
			}
		})
	}
}
