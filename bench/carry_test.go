package main

import (
	"bufio"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"weft/internal/w3c"
)

// What a client brings must be so many bytes, and such that weft carries it whole:
// within the bounds and the grammar of both specifications.
func TestCarryHeader(t *testing.T) {
	for _, n := range append(carrySizes(), 20, 51, 333, 4096) {
		header := carryHeader(n)
		if got := len(header["Tracestate"]) + len(header["Baggage"]); got != n {
			t.Errorf("%d bytes, want %d", got, n)
		}
		if _, err := w3c.Parse(header["Traceparent"]); err != nil {
			t.Error(err)
		}
		wantState, wantBaggage := split(n)
		state, err := w3c.ParseTraceState(header["Tracestate"])
		if kept, cut := state.Cut(); err != nil || cut > 0 || len(kept.String()) != wantState {
			t.Errorf("%d bytes: tracestate %q: %v, cut %d", n, header["Tracestate"], err, cut)
		}
		baggage := w3c.ParseBaggage(nil, header["Baggage"])
		if baggage.Malformed > 0 || baggage.Dropped > 0 || len(baggage.String()) != wantBaggage {
			t.Errorf("%d bytes: baggage %q: %+v", n, header["Baggage"], baggage)
		}
		if keys := map[string]bool{}; wantBaggage > 0 {
			for _, m := range baggage.Members {
				if keys[m.Key] {
					t.Errorf("%d bytes: key %s twice", n, m.Key)
				}
				keys[m.Key] = true
			}
		}
		_, noState := header["Tracestate"]
		if _, none := header["Baggage"]; n == 0 && (noState || none) {
			t.Errorf("nothing is a header: %v", header)
		}
	}
	if state, baggage := split(8000); state != 512 || baggage != 7488 {
		t.Errorf("8000 bytes are %d + %d", state, baggage)
	}
}

// A relay that forwarded anything would leave weft nothing to do.
func TestRelayForwardsNoHeader(t *testing.T) {
	seen := make(chan *http.Request, 3)
	upstream := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		seen <- r
		fmt.Fprint(w, "answer to "+r.RequestURI)
	}))
	defer upstream.Close()
	near, far := net.Pipe()
	done := make(chan error, 1)
	go func() { done <- relaySession(far, upstream.Listener.Addr().String()) }()
	in := bufio.NewReader(near)
	for n := range 3 { // over one connection
		req, err := http.NewRequest(http.MethodGet, fmt.Sprintf("http://relay/a?n=%d", n), nil)
		if err != nil {
			t.Fatal(err)
		}
		for name, value := range carryHeader(8000) {
			req.Header.Set(name, value)
		}
		if err := req.Write(near); err != nil {
			t.Fatal(err)
		}
		resp, err := http.ReadResponse(in, req)
		if err != nil {
			t.Fatal(err)
		}
		body, err := io.ReadAll(resp.Body)
		if want := fmt.Sprintf("answer to /a?n=%d", n); err != nil || string(body) != want || resp.StatusCode != http.StatusOK {
			t.Errorf("%s %q, %v; want %q", resp.Status, body, err, want)
		}
		if got := <-seen; len(got.Header) != 0 {
			t.Errorf("the relay sent %v", got.Header)
		}
	}
	near.Close()
	if err := <-done; err != nil {
		t.Errorf("the end of a connection is no failure: %v", err)
	}
}

// measured is a reading of so many requests in a second, with this CPU time of
// each kind for one of them.
func measured(requests int, traced, plain, agent time.Duration) reading {
	n := time.Duration(requests)
	return reading{outcome{Sent: uint64(requests), Measured: uint64(requests), Elapsed: time.Second},
		usage{traced: n * traced, plain: n * plain, agent: n * agent, length: time.Second}}
}

func timed(sent uint64, rate float64, programs ...hook) hookReading {
	return hookReading{hooks: programs, reading: reading{outcome: outcome{Sent: sent}}, rate: rate}
}

func program(name string, runs uint64, each time.Duration) hook {
	return hook{Name: name, Kind: "Tracing", Runs: runs, Runtime: time.Duration(runs) * each}
}

// rows are the lines of a report that hold a table's row of this name.
func rows(text, name string) []string {
	var out []string
	for line := range strings.Lines(text) {
		if strings.HasPrefix(line, "| "+name+" |") {
			out = append(out, strings.TrimSpace(line))
		}
	}
	return out
}

func wantRows(t *testing.T, text string, want ...string) {
	t.Helper()
	for _, line := range want {
		name, _, _ := strings.Cut(strings.TrimPrefix(line, "| "), " |")
		if got := rows(text, name); len(got) == 0 || strings.Join(got, "\n") != line {
			t.Errorf("got  %s\nwant %s", strings.Join(got, "\n     "), line)
		}
	}
}

func TestReportOfSampledOut(t *testing.T) {
	const us = time.Microsecond
	r := &results{settings: settings{rate: 9000}, arms: settings{}.arms("group", true), hooks: map[int]hookReading{
		armTrace:      timed(100, 9000, program("tp_recv", 400, 2000), program("weft_msg", 100, 2000)),
		armSampledOut: timed(100, 9000, program("tp_recv", 400, 500), program("weft_state", 1, 50_000)),
	}, rounds: [][]round{
		armWithout: {
			{closed: measured(1000, 60*us, 0, 0)},
			{closed: measured(2000, 50*us, 0, 0)},
			{closed: measured(1000, 60*us, 0, 0)},
		},
		armTrace: {
			{closed: measured(500, 100*us, 0, 40*us), open: measured(500, 100*us, 0, 50*us)},
			{closed: measured(1000, 90*us, 0, 40*us), open: measured(500, 100*us, 0, 40*us)},
			{closed: measured(500, 120*us, 0, 40*us), open: measured(500, 100*us, 0, 60*us)},
		},
		armSampledOut: {
			{closed: measured(800, 80*us, 0, 0), open: measured(500, 100*us, 0, 5*us)},
			{closed: measured(1600, 70*us, 0, 0), open: measured(500, 100*us, 0, 2*us)},
			{closed: measured(800, 90*us, 0, 0), open: measured(500, 100*us, 0, 3*us)},
		},
	}}
	var b strings.Builder
	r.writeSampledOut(&b)
	wantRows(t, b.String(),
		"| requests/s, as fast as it goes, to those without weft | 0.50× (0.50–0.50) | 0.80× (0.80–0.80) | 1.60× (1.60–1.60) |",
		// 4 × 2000 + 2000, and 4 × 500; what ran once was for no request.
		"| BPF programs, ns per request | 10,000 | 2,000 | 0.20× |",
		"| agent, CPU ms per 1,000 requests, at 9000 requests/s | 50.0 (40.0–60.0) | 3.00 (2.00–5.00) | 0.05× (0.05–0.10) |",
		"| agent, CPU ms per 1,000 requests, as fast as it goes | 40.0 (40.0–40.0) | 0.00 (0.00–0.00) | 0.00× (0.00–0.00) |",
		// 40, 40, 60 and 20, 20, 30 above what no weft costs.
		"| server and client, CPU µs per request more than without weft, as fast as it goes | 40.0 (40.0–60.0) | 20.0 (20.0–30.0) | 0.50× (0.50–0.50) |",
		"| **weft's CPU, all told**: the last two, µs per request | 80.0 (80.0–100) | 20.0 (20.0–30.0) | 0.25× (0.25–0.30) |",
		// 1000, 2000, 1000 requests/s without weft; half of it, and four fifths.
		"| **time, all told**: what the requests/s above lose, µs per request, the receiver's work on the spans included | 1,000 (500–1,000) | 250 (125–250) | 0.25× (0.25–0.25) |")
	if !strings.Contains(b.String(), "at most 0.33×. Weft's CPU: **met, 0.25×**. Time: **met, 0.25×**.") {
		t.Errorf("the verdict is missing:\n%s", b.String())
	}
	for i := range r.rounds[armSampledOut] {
		r.rounds[armSampledOut][i].closed.traced *= 2
	}
	b.Reset()
	r.writeSampledOut(&b)
	if !strings.Contains(b.String(), "Weft's CPU: **missed, 1.20×**. Time: **met, 0.25×**.") {
		t.Errorf("a verdict that cannot fail:\n%s", b.String())
	}
	r.rounds[armTrace] = r.rounds[armWithout]
	b.Reset()
	r.writeSampledOut(&b)
	if !strings.Contains(b.String(), "Weft's CPU: the rounds differ too much to tell. Time: the rounds differ") {
		t.Errorf("nothing is the divisor:\n%s", b.String())
	}
}

func TestReportOfCarried(t *testing.T) {
	const us = time.Microsecond
	r := &results{empty: 54, carried: []carried{
		{bytes: 0,
			without: []reading{measured(1000, 40*us, 0, 0), measured(1200, 40*us, 0, 0)},
			with:    []reading{measured(800, 50*us, 0, 20*us), measured(960, 50*us, 0, 20*us)},
			hooks:   timed(1000, 300, program("tp_recv", 2000, 3000), program("weft_msg", 1000, 4000), program("weft_state", 1, 900))},
		{bytes: 8000,
			without: []reading{measured(500, 60*us, 0, 0), measured(600, 60*us, 0, 0)},
			with:    []reading{measured(200, 180*us, 0, 30*us), measured(240, 180*us, 0, 30*us)},
			hooks:   timed(500, 300, program("weft_msg", 500, 20000), program("tp_recv", 2000, 6000))},
	}}
	var b strings.Builder
	r.writeCarried(&b)
	wantRows(t, b.String(),
		"| tracestate + baggage | 0 + 0 | 512 + 7,488 |",
		"| requests/s without weft | 1,100 (1,000–1,200) | 550 (500–600) |",
		"| without weft, to 0 bytes | 1 | 0.50× (0.50–0.50) |",
		"| with weft, to 0 bytes | 1 | 0.25× (0.25–0.25) |",
		"| CPU of the relay without weft, µs per request | 40.0 (40.0–40.0) | 60.0 (60.0–60.0) |",
		"| CPU of the agent, ms per 1,000 requests | 20.0 (20.0–20.0) | 30.0 (30.0–30.0) |",
		"| BPF programs, ns per request | 10,000 | 44,000 |",
		"| of which for what is carried | — | +34,000 |",
		"| `weft_msg` | 1.00 × 4,000 | 1.00 × 20,000 |",
		"| `tp_recv` | 2.00 × 3,000 | 4.00 × 6,000 |")
	if got := strings.Join(rows(b.String(), "with weft, to that"), "\n"); got != "| with weft, to that | 0.80× (0.80–0.80) | 0.40× (0.40–0.40) |\n| with weft, to that | 1.25× (1.25–1.25) | 3.00× (3.00–3.00) |" {
		t.Errorf("ratios of rates and of CPU times:\n%s", got)
	}
	if at := strings.Index(b.String(), "`tp_recv`"); at > strings.Index(b.String(), "`weft_msg`") || strings.Contains(b.String(), "weft_state") {
		t.Errorf("not the dearest first, or programs that requests do not run:\n%s", b.String())
	}
}

func TestCarryRate(t *testing.T) {
	sizes := []carried{{with: []reading{measured(9000, 0, 0, 0)}}, {with: []reading{measured(4300, 0, 0, 0), measured(4500, 0, 0, 0)}}}
	if got := carryRate(sizes); got != 2200 {
		t.Errorf("%g, want half of the slowest size's median", got)
	}
}
