package main

import (
	"net/http"
	"testing"
	"time"
)

// Four times as much work takes about four times as long, and what is asked for is
// what is done, to within what a busy machine does to it.
func TestWork(t *testing.T) {
	w := newBurner()
	ask := func(µs string) time.Duration {
		r := &http.Request{Header: http.Header{workHeader: {µs}}}
		best := time.Hour
		for range 50 {
			start := time.Now()
			if err := w.asked(r); err != nil {
				t.Fatal(err)
			}
			best = min(best, time.Since(start))
		}
		return best
	}
	for _, c := range []struct {
		asked string
		want  time.Duration
	}{{"100", 100 * time.Microsecond}, {"400", 400 * time.Microsecond}} {
		if got := ask(c.asked); got < c.want/2 || got > 4*c.want {
			t.Errorf("%s µs of work took %v", c.asked, got)
		}
	}
	if err := w.asked(&http.Request{Header: http.Header{}}); err != nil {
		t.Errorf("no work: %v", err)
	}
	if err := w.asked(&http.Request{Header: http.Header{workHeader: {"much"}}}); err == nil {
		t.Error("a header that is no number is taken")
	}
}

func TestBudgetArm(t *testing.T) {
	for _, h := range hops() {
		r := &results{arms: settings{}.hopArms("group", h)}
		if at := r.budgetAt(); (at >= 0) != h.targets {
			t.Errorf("%s: the arm of the budget is at %d", h.name, at)
		} else if at >= 0 && (r.arms[at].agent() || r.arms[at].exports() || r.arms[at].writes()) {
			t.Errorf("%s: there is an agent in the arm of the budget", h.name)
		}
	}
}
