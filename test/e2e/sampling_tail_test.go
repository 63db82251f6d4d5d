package e2e

import (
	"fmt"
	"math"
	"testing"
	"time"

	"weft/internal/w3c"
	"weft/test/e2e/truth"
)

// TestSamplingTail: of what the head let through, the tail keeps every error and
// everything slow, and a share of the rest; the spans say how many they stand for.
func TestSamplingTail(t *testing.T) {
	s := newTrio(t)
	sink := startSink(t)
	const head, tail = 0.5, 0.25
	slow := patience(t, 200*time.Millisecond)
	a := startAgent(t, s.g, sink, agentOptions{extra: fmt.Sprintf("sampling:\n  ratio: %v\n  tail: {slower_than: %v, ratio: %v, wait: 1s}\n", head, slow, tail)})

	type class int
	const (
		ordinary class = iota
		failed
		late
		classes
	)
	var queries []query
	var kinds []class
	n := scaled(t, 2000)
	rarely := n/20 | 1 // odd, so that all connections have some
	for i := range n {
		q, kind := query{id: fmt.Sprintf("tail-%d", i)}, ordinary
		switch {
		case i%10 == 3:
			q.path, kind = "/work?status=500", failed
		case i%rarely == 1:
			q.path, kind = fmt.Sprintf("/work?ms=%d", (slow+slow/2).Milliseconds()), late
		}
		queries, kinds = append(queries, q), append(kinds, kind)
	}
	replies, _ := sendQueries(t, s.edge, queries)

	// Of those that pass the head by ratio, the tail keeps the ones with still
	// higher randomness.
	first := threshold(t, head)
	both := threshold(t, head*tail)
	want := map[string]string{} // id → tracestate on its spans
	unsure := map[string]bool{}
	var all []decided
	var tries, kept [classes]int
	for i, r := range replies {
		d := r.readWire(t)
		judgeRoot(t, d, first)
		all = append(all, d)
		tries[kinds[i]]++
		if wanted := map[class]int{ordinary: 200, failed: 500, late: 200}[kinds[i]]; r.status != wanted {
			t.Errorf("%s: status %d, want %d", r.id, r.status, wanted)
		}
		if !d.context.parent.Sampled() {
			continue
		}
		switch {
		case kinds[i] != ordinary:
			want[d.id] = mark(first)
		case r.took >= slow: // by itself: the machine was busy
			unsure[d.id] = true
		case d.random >= both:
			want[d.id] = mark(both)
		}
	}
	spans := spansOfAbout(t, sink, 5*len(want), 5*len(unsure))
	exported := byID(spans)
	estimate := 0.0
	for i, d := range all {
		if unsure[d.id] {
			delete(exported, d.id)
			continue
		}
		for j := range exported[d.id] {
			if x := &exported[d.id][j]; x.Service == "edge" && x.Kind == truth.Server {
				estimate += adjustedCount(t, x)
				kept[kinds[i]]++
			}
		}
		if state, ok := want[d.id]; ok {
			d.whole(t, exported, state)
		}
	}
	for id, x := range exported {
		t.Errorf("%s: the tail keeps what it should not:%s", id, list(x))
	}
	for kind, ratio := range [classes]float64{ordinary: head * tail, failed: head, late: head} {
		low, high := binomial(tries[kind], ratio)
		if kept[kind] < low-len(unsure) || kept[kind] > high {
			t.Errorf("%d of %d kept of kind %d, want %d to %d", kept[kind], tries[kind], kind, low, high)
		}
	}
	// Each kept request of a kind stands for so many: the deviation of the sum.
	deviation := math.Sqrt(float64(tries[ordinary])*(1-head*tail)/(head*tail) + float64(tries[failed]+tries[late])*(1-head)/head)
	if d := math.Abs(estimate - float64(n)); d > 5.5*deviation+float64(len(unsure))/(head*tail) {
		t.Errorf("the spans stand for %.0f requests, there were %d; want within %.0f", estimate, n, 5.5*deviation)
	}
	t.Logf("kept %d of %d ordinary, %d of %d failed, %d of %d slow, %d unsure; they stand for %.0f of %d",
		kept[ordinary], tries[ordinary], kept[failed], tries[failed], kept[late], tries[late], len(unsure), estimate, n)
	m := a.metrics()
	if got := m[`weft_tail_traces_total{decision="kept",reason="error"}`]; got != float64(kept[failed]) {
		t.Errorf("%v traces counted as kept for an error, want %d", got, kept[failed])
	}
	if got := m[`weft_tail_traces_total{decision="kept",reason="slow"}`]; got < float64(kept[late]) || got > float64(kept[late]+len(unsure)) {
		t.Errorf("%v traces counted as kept because slow, want %d", got, kept[late])
	}
	if w3c.ThresholdText(both) == w3c.ThresholdText(first) {
		t.Error("the test tells head and tail apart by their thresholds, which are equal")
	}
	a.stop()
}
