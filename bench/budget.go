package main

import (
	"fmt"
	"net/http"
	"runtime"
	"strconv"
	"sync"
	"time"
)

// workHeader asks a hop for so many µs of CPU time more.
const workHeader = "Bench-Work"

// armBudget is the hop with no agent, whose program works as long for each request as
// the target of CPU time allows an agent: what such a budget does to throughput and
// latency by itself.
func armBudget() arm {
	return arm{name: fmt.Sprintf("no agent, %.0f µs more work", wantedCPU), spends: true,
		header: map[string]string{workHeader: strconv.FormatFloat(wantedCPU, 'f', -1, 64)}}
}

// budgetAt is where that arm is; -1: nowhere.
func (r *results) budgetAt() int {
	for at, a := range r.arms {
		if a.spends {
			return at
		}
	}
	return -1
}

// burner works for the sake of it.
type burner struct {
	turns func() float64 // of work in a µs
}

func newBurner() *burner { return &burner{turns: sync.OnceValue(turnsPerMicrosecond)} }

// asked does what the request asks for.
func (w *burner) asked(r *http.Request) error {
	text := r.Header.Get(workHeader)
	if text == "" {
		return nil
	}
	µs, err := strconv.ParseFloat(text, 64)
	if err != nil {
		return fmt.Errorf("header %s: %w", workHeader, err)
	}
	runtime.KeepAlive(work(int(µs * w.turns())))
	return nil
}

// turnsPerMicrosecond is the best of many short measurements: others interrupt.
func turnsPerMicrosecond() (best float64) {
	const turns = 20_000
	for range 200 {
		start := time.Now()
		runtime.KeepAlive(work(turns))
		best = max(best, turns/us(time.Since(start)))
	}
	return best
}

// work takes turns that nothing can be done beside.
//
//go:noinline
func work(turns int) (x uint64) {
	x = 1
	for range turns {
		x ^= x << 13
		x ^= x >> 7
		x ^= x << 17
	}
	return x
}
