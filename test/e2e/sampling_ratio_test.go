package e2e

import (
	"fmt"
	"math/rand/v2"
	"testing"

	"weft/internal/w3c"
	"weft/test/e2e/truth"
)

// TestSamplingRatio: of requests through three services each trace is whole or
// absent, the wire says which, and the kept ones tell how many there were.
func TestSamplingRatio(t *testing.T) {
	s := newTrio(t)
	tests := []struct {
		ratio    float64
		requests int
		config   string
		env      []string
	}{
		{1, 2000, "", nil},
		{0.1, 6000, "sampling: {ratio: 0.1}\n", nil},
		// The standard variables win over the file.
		{0.01, 12000, "sampling: {head: always_on, ratio: 0.7}\n", []string{"OTEL_TRACES_SAMPLER=parentbased_traceidratio", "OTEL_TRACES_SAMPLER_ARG=0.01"}},
	}
	for _, tt := range tests {
		t.Run(fmt.Sprint(tt.ratio), func(t *testing.T) {
			sink := startSink(t)
			a := startAgent(t, s.g, sink, agentOptions{extra: tt.config, env: tt.env})
			before := a.kernelCounts()
			queries := ratioQueries(scaled(t, tt.requests))
			replies, took := sendQueries(t, s.edge, queries)

			th := threshold(t, tt.ratio)
			roots, kept, spans := 0, 0, 0
			var all []decided
			for i, r := range replies {
				d := r.readWire(t)
				all = append(all, d)
				if len(queries[i].lines) > 0 {
					judgeContinued(t, d)
				} else {
					roots++
					judgeRoot(t, d, th)
					if d.context.parent.Sampled() {
						kept++
					}
				}
				if d.context.parent.Sampled() {
					spans += 5
				}
			}
			low, high := binomial(roots, tt.ratio)
			if kept < low || kept > high {
				t.Errorf("%d of %d roots are sampled, want %d to %d", kept, roots, low, high)
			}
			exported := byID(spansOf(t, sink, spans))
			estimate := 0.0
			for i, d := range all {
				for j := range exported[d.id] {
					if x := &exported[d.id][j]; x.Service == "edge" && x.Kind == truth.Server && len(queries[i].lines) == 0 {
						estimate += adjustedCount(t, x)
					}
				}
				if d.context.parent.Sampled() {
					d.whole(t, exported, d.context.tracestate)
				}
			}
			for id, x := range exported {
				t.Errorf("%s: not sampled, yet exported:%s", id, list(x))
			}
			if least, most := float64(low)/tt.ratio, float64(high)/tt.ratio; estimate < least || estimate > most {
				t.Errorf("the spans stand for %.0f requests, want %.0f to %.0f; there were %d", estimate, least, most, roots)
			}
			t.Logf("%d requests in %v: %d of %d roots kept, standing for %.0f", len(replies), took, kept, roots, estimate)
			out := float64(len(replies) - spans/5)
			a.counted(before, map[string]float64{"unsampled/server": 3 * out, "unsampled/client": 2 * out, "injected/socket": float64(2 * len(replies))})
			if lost := a.losses(); len(lost) > 0 {
				t.Errorf("lost: %v", lost)
			}
			a.stop()
		})
	}
}

// ratioQueries are requests without context, and every tenth with one: sampled
// or not, with all else that is carried.
func ratioQueries(n int) []query {
	var out []query
	for i := range n {
		q := query{id: fmt.Sprintf("s-%d", i)}
		switch i % 20 {
		case 3:
			q.lines = []string{"traceparent: " + tp(i, "00"), "tracestate: dd=s:0", "baggage: k=v"}
		case 13:
			q.lines = []string{"traceparent: " + tp(i, "01"), "tracestate: dd=s:2", "baggage: k=v"}
		}
		out = append(out, q)
	}
	return out
}

// judgeRoot: the flag is what the trace-id says at this threshold, and th is told
// where not all are kept.
func judgeRoot(t *testing.T, d decided, th uint64) {
	t.Helper()
	want := traceContext{parent: d.context.parent}
	want.parent.Flags = w3c.FlagRandom
	if d.random >= th {
		want.parent.Flags |= w3c.FlagSampled
		if th > 0 {
			want.tracestate = mark(th)
		}
	}
	if d.context != want {
		t.Errorf("%s: %q left, want %q", d.id, d.context.lines(), want.lines())
	}
}

// judgeContinued: what a parent has decided stays, and everything is carried.
func judgeContinued(t *testing.T, d decided) {
	t.Helper()
	v := judgeLines(d.lines)
	want := traceContext{tracestate: v.tracestate, baggage: v.baggage}
	want.parent = truth.Traceparent{TraceID: fmt.Sprintf("%x", v.parent.TraceID), SpanID: d.context.parent.SpanID, Flags: v.parent.Flags}
	if d.context != want {
		t.Errorf("%s: %q left, want %q", d.id, d.context.lines(), want.lines())
	}
}

// again is what a sampler that is not parent-based makes of a context.
func again(ctx traceContext, th uint64) (traceContext, bool) {
	state, err := w3c.ParseTraceState(ctx.tracestate)
	if err != nil {
		state = w3c.TraceState{}
	}
	ot := state.OT()
	random := ot.Random
	if !ot.HasRandom {
		tp, err := w3c.Parse(fmt.Sprintf("00-%s-00f067aa0ba902b7-00", ctx.parent.TraceID))
		if err != nil {
			return ctx, false
		}
		random = w3c.Randomness(tp.TraceID)
	}
	ctx.parent.Flags &^= w3c.FlagSampled
	sampled := random >= th
	switch {
	case sampled:
		ctx.parent.Flags |= w3c.FlagSampled
		state = state.WithThreshold(th)
	case ot.HasThreshold:
		state = state.WithoutThreshold()
	default:
		state, _ = state.Cut()
	}
	ctx.tracestate = state.String()
	return ctx, sampled
}

// TestSamplingAgain: two nodes that decide for themselves, at different rates,
// keep the same traces as far as both keep any.
func TestSamplingAgain(t *testing.T) {
	behind, front := newGroup(t), newGroup(t)
	leaf := prefork(t, behind, "leaf", "")
	mid := prefork(t, behind, "mid", leaf)
	edge := prefork(t, front, "edge", mid)
	frontSink, behindSink := startSink(t), startSink(t)
	a := startAgent(t, front, frontSink, agentOptions{extra: "sampling: {head: traceidratio, ratio: 0.5}\n"})
	b := startAgent(t, behind, behindSink, agentOptions{env: []string{"OTEL_TRACES_SAMPLER=traceidratio", "OTEL_TRACES_SAMPLER_ARG=0.25"}})

	rng := seeded(t)
	var queries []query
	for i := range scaled(t, 600) {
		queries = append(queries, query{id: fmt.Sprintf("again-%d", i), lines: claims(rng, i)})
	}
	replies, _ := sendQueries(t, edge, queries)
	first, second := threshold(t, 0.5), threshold(t, 0.25)
	wantFront, wantBehind, both := map[string]string{}, map[string]string{}, 0
	for _, r := range replies {
		in, at, last := contextOf(t, r.heads[0]), contextOf(t, r.heads[1]), contextOf(t, r.heads[2])
		if in.parent.TraceID == "" {
			in.parent = truth.Traceparent{TraceID: at.parent.TraceID, Flags: w3c.FlagRandom}
			in.tracestate = "" // nobody's
		}
		want, sampled := again(in, first)
		want.parent.SpanID = at.parent.SpanID
		if at != want {
			t.Errorf("%s: %q came, %q left, want %q", r.id, in.lines(), at.lines(), want.lines())
		}
		if sampled {
			wantFront[r.id] = want.tracestate
		}
		want, kept := again(at, second)
		want.parent.SpanID = last.parent.SpanID
		if last != want {
			t.Errorf("%s: %q came, %q left, want %q", r.id, at.lines(), last.lines(), want.lines())
		}
		if kept {
			wantBehind[r.id] = want.tracestate
		}
		if kept && !sampled {
			t.Errorf("%s: kept at a quarter, not at a half", r.id)
		}
		if kept && sampled {
			both++
		}
	}
	if both == 0 || len(wantFront) == len(replies) {
		t.Errorf("%d of %d kept by both, %d by the first: nothing is shown", both, len(replies), len(wantFront))
	}
	judgeKept(t, "front", byID(spansOf(t, frontSink, 2*len(wantFront))), wantFront, 2)
	judgeKept(t, "behind", byID(spansOf(t, behindSink, 3*len(wantBehind))), wantBehind, 3)
	a.stop()
	b.stop()
	if late := append(frontSink.Take(), behindSink.Take()...); len(late) > 0 {
		t.Errorf("spans that came late:%s", list(late))
	}
}

// judgeKept: these requests have so many spans with that tracestate, no others
// have any.
func judgeKept(t *testing.T, where string, exported map[string][]truth.Span, want map[string]string, each int) {
	t.Helper()
	for id, state := range want {
		if len(exported[id]) != each {
			t.Errorf("%s: %d spans %s, want %d", id, len(exported[id]), where, each)
		}
		for _, x := range exported[id] {
			if x.TraceState != state || x.Flags&w3c.FlagSampled == 0 {
				t.Errorf("%s %s: tracestate %q flags %02x, want %q: %s", id, where, x.TraceState, x.Flags, state, &x)
			}
		}
		delete(exported, id)
	}
	for id, x := range exported {
		t.Errorf("%s: not sampled %s, yet exported:%s", id, where, list(x))
	}
}

// claims is the context that the i-th request brings, if any: with and without
// a threshold, true or not, with randomness of its own or in its trace-id.
func claims(rng *rand.Rand, i int) []string {
	if i%4 == 0 {
		return nil
	}
	flags := []string{"00", "01", "02", "03"}[rng.IntN(4)]
	line := fmt.Sprintf("traceparent: 00-%016x%016x-%016x-%s", rng.Uint64()|1, rng.Uint64()|1, rng.Uint64()|1, flags)
	rv := fmt.Sprintf("rv:%014x", rng.Uint64()&(w3c.MaxThreshold-1))
	states := []string{"", "dd=s:1", "ot=th:0", "ot=th:8;x:1,dd=s:1", "a=1,ot=" + rv, "ot=" + rv + ";th:4", "ot=th:c;" + rv + ",b=2", "ot=rv:1;th:zz"}
	return []string{line, "tracestate: " + states[rng.IntN(len(states))]}
}
