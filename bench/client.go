package main

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"runtime"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/sys/unix"
)

// load is what the client is asked to do.
type load struct {
	URLs  []string // connection i asks URLs[i % len(URLs)]
	Conns int
	// Header holds further request headers.
	Header map[string]string
	// Wire is what the URLs are asked over, and Authority what to trust with TLS.
	Wire      wire
	Authority string
	// GRPC is the host:port of a gRPC service to ask instead of URLs.
	GRPC string
	// Echoed says that answers list the header lines that the service behind
	// received (test/apps): the client counts for it.
	Echoed bool
	// Rate is the requests per second of an open loop: each is due at its
	// time, whatever became of those before. 0 is a closed loop: every
	// connection sends its next request when it has an answer.
	Rate float64
	Warm time.Duration // before measuring
	For  time.Duration
}

// outcome is what came of it. Latency runs from when a request was due (open
// loop) or sent (closed loop) until its body was read.
type outcome struct {
	Sent     uint64 // warm-up included
	Measured uint64
	Failed   uint64
	Why      string // the first request to fail
	Late     uint64 // measured requests that were still unanswered at the end of the time
	Elapsed  time.Duration
	P50      time.Duration
	P99      time.Duration
	P999     time.Duration
	Most     time.Duration
	Echo     served // with load.Echoed: what answers said
}

// rate is the requests per second that were answered in the measured time.
func (o outcome) rate() float64 { return float64(o.Measured-o.Late) / o.Elapsed.Seconds() }

// client makes the loads it is asked for, each on new connections.
func client(in io.Reader, out io.Writer) error {
	return answer(in, out, func(l load) (outcome, error) {
		var echo sight
		get, stop, err := getter(l, &echo)
		if err != nil {
			return outcome{}, err
		}
		loop := closedLoop
		if l.Rate > 0 {
			loop = openLoop
		}
		o := loop(l, get)
		o.Echo = echo.read("")
		return o, stop()
	})
}

// getter makes one request of a load.
func getter(l load, echo *sight) (get func(conn int) error, stop func() error, err error) {
	if l.GRPC != "" {
		return grpcGet(l.GRPC)
	}
	if len(l.URLs) == 0 {
		return nil, nil, errors.New("nothing to ask for")
	}
	perHost, many := (l.Conns+len(l.URLs)-1)/len(l.URLs), 1
	if l.Wire.HTTP2 {
		perHost, many = 1, shared
	}
	var clients []*http.Client
	for range many {
		transport, err := l.Wire.transport(l.Authority)
		if err != nil {
			return nil, nil, err
		}
		transport.MaxIdleConns, transport.MaxIdleConnsPerHost, transport.MaxConnsPerHost = l.Conns, perHost, perHost
		clients = append(clients, &http.Client{Transport: transport, Timeout: 30 * time.Second})
	}
	get = func(conn int) error {
		req, err := http.NewRequest(http.MethodGet, l.URLs[conn%len(l.URLs)], nil)
		if err != nil {
			return err
		}
		for name, value := range l.Header {
			req.Header.Set(name, value)
		}
		resp, err := clients[conn%many].Do(req)
		if err != nil {
			return err
		}
		defer resp.Body.Close()
		if l.Echoed {
			err = countEcho(resp.Body, echo)
		}
		if _, rerr := io.Copy(io.Discard, resp.Body); err == nil {
			err = rerr
		}
		if resp.StatusCode != http.StatusOK {
			err = fmt.Errorf("answer %s", resp.Status)
		}
		return err
	}
	return get, func() error {
		for _, c := range clients {
			c.CloseIdleConnections()
		}
		return nil
	}, nil
}

// countEcho reads an answer that lists the header lines of the request.
func countEcho(body io.Reader, echo *sight) error {
	var said struct{ Headers [][2]string }
	if err := json.NewDecoder(body).Decode(&said); err != nil {
		return fmt.Errorf("read the headers in an answer: %w", err)
	}
	var parents []string
	for _, line := range said.Headers {
		if strings.EqualFold(line[0], "traceparent") {
			parents = append(parents, line[1])
		}
	}
	echo.request(parents)
	return nil
}

// worker holds what one connection's goroutine measured.
type worker struct {
	took         []time.Duration
	sent, failed uint64
	why          string // the first that failed
}

func (w *worker) fail(err error) {
	if w.failed++; w.failed == 1 {
		w.why = err.Error()
	}
}

func closedLoop(l load, get func(conn int) error) outcome {
	from := time.Now().Add(l.Warm)
	until := from.Add(l.For)
	workers := make([]worker, l.Conns)
	var running sync.WaitGroup
	for i := range workers {
		w := &workers[i]
		running.Go(func() {
			for {
				sent := time.Now()
				if sent.After(until) {
					return
				}
				w.sent++
				if err := get(i); err != nil {
					w.fail(err)
				}
				// Counted where it ends, so that the window holds what was
				// finished in it.
				if done := time.Now(); done.After(from) && !done.After(until) {
					w.took = append(w.took, done.Sub(sent))
				}
			}
		})
	}
	running.Wait()
	return summarise(workers, l.For, 0)
}

// openLoop sends at a fixed rate. A thread of its own sleeps until each request
// is due: the runtime's timers are a millisecond wide when idle.
func openLoop(l load, get func(conn int) error) outcome {
	total := int((l.Warm + l.For).Seconds() * l.Rate)
	due := make(chan time.Time, total) // never blocks: a slow server makes no request late to be due
	start := time.Now().Add(10 * time.Millisecond)
	from, until := start.Add(l.Warm), start.Add(l.Warm+l.For)
	workers := make([]worker, l.Conns)
	var late atomic.Uint64
	var running sync.WaitGroup
	for i := range workers {
		w := &workers[i]
		w.took = make([]time.Duration, 0, total)
		running.Go(func() {
			for at := range due {
				w.sent++
				if err := get(i); err != nil {
					w.fail(err)
				}
				if at.Before(from) {
					continue
				}
				done := time.Now()
				w.took = append(w.took, done.Sub(at))
				if done.After(until) {
					late.Add(1)
				}
			}
		})
	}
	go func() {
		runtime.LockOSThread()
		// As exact as the kernel can; without it the thread sleeps 50 µs longer.
		_ = unix.Prctl(unix.PR_SET_TIMERSLACK, 1, 0, 0, 0)
		for n := range total {
			at := start.Add(time.Duration(float64(n) / l.Rate * float64(time.Second)))
			if wait := time.Until(at); wait > 0 {
				ts := unix.NsecToTimespec(int64(wait))
				_ = unix.Nanosleep(&ts, nil) // a signal may cut it short; the time due stays true
			}
			due <- at
		}
		close(due)
	}()
	running.Wait()
	return summarise(workers, l.For, late.Load())
}

func summarise(workers []worker, elapsed time.Duration, late uint64) outcome {
	out := outcome{Elapsed: elapsed, Late: late}
	var took []time.Duration
	for _, w := range workers {
		took = append(took, w.took...)
		out.Sent += w.sent
		out.Failed += w.failed
		if out.Why == "" {
			out.Why = w.why
		}
	}
	out.Measured = uint64(len(took))
	slices.Sort(took)
	out.P50, out.P99, out.P999 = quantile(took, 0.5), quantile(took, 0.99), quantile(took, 0.999)
	out.Most = quantile(took, 1)
	return out
}

// quantile is the smallest of sorted values that at least q of them do not
// exceed, 0 of none.
func quantile(sorted []time.Duration, q float64) time.Duration {
	if len(sorted) == 0 {
		return 0
	}
	n := int(q*float64(len(sorted))+0.9999999) - 1
	return sorted[min(max(n, 0), len(sorted)-1)]
}
