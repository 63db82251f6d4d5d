package main

import (
	"encoding/xml"
	"errors"
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

func TestParse(t *testing.T) {
	s, err := parse([]string{"-rounds", "4", "-quick", "-load", "2s", "-only", "nginx,soak", "-peer", "name=x:/opt/x --a=b:c {port}",
		"-peer", "name=y:/opt/y", "-peer-ready", "x=line:ready to go", "-peer-ready", "y=http://127.0.0.1:9/ready"})
	if err != nil {
		t.Fatal(err)
	}
	if s.rounds != 4 || s.phase != 2*time.Second || s.soak != 3*time.Second || s.doc != "" || s.quietWithin != 0 {
		t.Errorf("-quick and what wins over it: %+v", s)
	}
	if len(s.peers) != 2 || s.peers[0] != (peer{"x", "/opt/x --a=b:c {port}", "line:ready to go"}) || s.peers[1].ready != "http://127.0.0.1:9/ready" {
		t.Errorf("peers %+v", s.peers)
	}
	if d, err := parse(nil); err != nil || d.doc != "docs/performance.md" || d.rounds < 5 {
		t.Errorf("by default %+v, %v", d, err)
	}
	if d, err := parse([]string{"-peer", "name=x:/opt/x"}); err != nil || d.doc != "" {
		t.Errorf("with a peer the page of weft alone would be overwritten: %q, %v", d.doc, err)
	}
	for says, args := range map[string][]string{
		`no section "go-http3"; there are go-http1, go-http2, go-tls, go-http2-tls, go-grpc, flask-express, nginx, both-ends, carry, traps, soak`: {"-only", "go-http3"},
		"-rounds 1":        {"-rounds", "1"},
		"-load 10ms":       {"-load", "10ms"},
		"name=NAME:":       {"-peer", "/opt/x"},
		"no -peer name=x":  {"-peer-ready", "x=5s"},
		"line:TEXT":        {"-peer", "name=x:/opt/x", "-peer-ready", "x=soon"},
		"two of the name":  {"-peer", "name=x:/opt/x", "-peer", "name=x:/opt/x2"},
		`argument "nginx"`: {"nginx"},
		"-soak 0s":         {"-soak", "0"},
	} {
		if _, err := parse(args); err == nil || !strings.Contains(err.Error(), says) {
			t.Errorf("%v: got %v, want %q", args, err, says)
		}
	}
}

func TestHalfOf(t *testing.T) {
	for reached, want := range map[float64]float64{29116: 14500, 4400: 2200, 873: 430, 12: 10, 0: 10} {
		if got := halfOf(reached); got != want {
			t.Errorf("half of %g is %g, want %g", reached, got, want)
		}
	}
}

func TestProgress(t *testing.T) {
	p := &progress{planned: 10 * time.Minute}
	if got := p.left(time.Minute); got != 10*time.Minute {
		t.Errorf("before anything is done %v are left, want the plan", got)
	}
	p.add(9 * time.Minute)
	if got := p.left(18 * time.Minute); got < 110*time.Second || got > 2*time.Minute {
		t.Errorf("a tenth left at half the pace: %v, want almost 2 min", got)
	}
	p.add(2 * time.Minute)
	if got := p.left(time.Hour); got != 0 {
		t.Errorf("%v left behind the end of the plan", got)
	}
	var none *progress
	none.add(time.Second)
	if none.String() == "" || !strings.Contains(p.String(), "100 %") {
		t.Errorf("%q and %q", none, p)
	}
}

// The plan of a whole default run is what the page and the usage text promise.
func TestPlannedTime(t *testing.T) {
	var all time.Duration
	for _, sec := range sections() {
		d := sec.takes(defaults())
		if d < 10*time.Second {
			t.Errorf("%s takes %v", sec.name, d)
		}
		all += d
	}
	if all < 20*time.Minute || all > 60*time.Minute {
		t.Errorf("a default run takes %v", all)
	}
}

func TestWriteSection(t *testing.T) {
	path := filepath.Join(t.TempDir(), "doc.md")
	write := func(text string) {
		if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	write("# Before\n\n" + sectionsBegin + "\nold, without sections\n" + sectionsEnd + "\n\nafter\n")
	for _, step := range []struct{ name, text string }{{"soak", "soaked\n"}, {"go-http1", "old hop"}, {"overview", "seen"}, {"go-http1", "\nnew <!-- not a mark --> hop\n"}} {
		if err := writeSection(path, step.name, step.text); err != nil {
			t.Fatal(err)
		}
	}
	got, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	want := "# Before\n\n" + sectionsBegin + "\n\n<!-- section overview -->\n\nseen\n\n<!-- section go-http1 -->\n\nnew <!-- not a mark --> hop\n\n<!-- section soak -->\n\nsoaked\n\n" + sectionsEnd + "\n\nafter\n"
	if string(got) != want {
		t.Errorf("got %q, want %q", got, want)
	}
	if err := writeSection(path, "nowhere", "x"); err == nil {
		t.Error("a section without a place was written")
	}
	write("nothing to replace")
	if err := writeSection(path, "soak", "new"); err == nil || !strings.Contains(err.Error(), sectionsBegin) {
		t.Errorf("error %v does not say what to put there", err)
	}
}

// hopResults are a hop in which weft costs a tenth of the throughput.
func hopResults(h hop) *results {
	const us = time.Microsecond
	latency := func(x reading, p99 time.Duration) reading {
		x.P50, x.P99, x.P999 = p99/2, p99, 2*p99
		return x
	}
	s := settings{rate: 4000, rounds: 3, phase: time.Second, conns: 32}
	r := &results{settings: s, hop: &h, arms: s.hopArms("group", h), machine: machine{cpu: "a <CPU>", cores: 2, kernel: "6.18", date: "2026-11-21", capture: "fentry"},
		hooks:     map[int]hookReading{armTrace: timed(100, 4000, program("tp_recv", 400, 2000))},
		saturated: map[int]hookReading{armTrace: timed(100, 0, program("tp_recv", 400, 1500))}}
	r.rounds = make([][]round, len(r.arms))
	for n := range 3 {
		wobble := 1 + 0.01*float64(n)
		for at := range r.rounds {
			x := round{closed: measured(int(10000*wobble), 60*us, 50*us, 0), open: latency(measured(4000, 70*us, 50*us, 0), 1000*us)}
			if at == armTrace {
				x = round{closed: measured(int(9100*wobble), 70*us, 51*us, 8*us), open: latency(measured(4000, 80*us, 51*us, 9*us), 1200*us), memory: 50 << 20}
				x.seen = evidence{requests: 10, traceparent: 10, spans: 20}
			}
			if r.arms[at].spends {
				x = round{closed: measured(int(8000*wobble), 80*us, 50*us, 0), open: latency(measured(4000, 90*us, 50*us, 0), 1500*us)}
			}
			r.rounds[at] = append(r.rounds[at], x)
		}
	}
	return r
}

func TestReportOfHop(t *testing.T) {
	r := hopResults(hops()[0])
	text := r.markdown()
	wantRows(t, text,
		"| spans delivered per request | | 0.00 (0.00–0.00) | 0.00 (0.00–0.00) | 2.00 (2.00–2.00) | 0.00 (0.00–0.00) |",
		"| requests/s, as fast as it goes, to those without an agent | ≥ 0.90× | 0.91× (0.91–0.91) | **met** |",
		"| p99 at 4000 requests/s, to that without an agent | ≤ 1.05× | 1.20× (1.20–1.20) | **missed** |",
		// 4 × 2 µs and 9 µs; 4 × 1.5 µs and 8 µs.
		"| CPU per request, at 4000 requests/s: BPF programs 8.00 µs, and agent | ≤ 20.0 µs | 17.0 (17.0–17.0) µs | **met** |",
		"| the same as fast as it goes: BPF programs 6.00 µs, and agent | ≤ 20.0 µs | 14.0 (14.0–14.0) µs | **met** |",
		"| CPU of traced program and agent beyond that without an agent, as fast as it goes | ≤ 20.0 µs | 18.0 (18.0–18.0) µs | **met** |",
		"| agent's largest resident set in these loads (at 20,000 requests/s: see the soak) | ≤ 64.0 MiB | 50.0 (50.0–50.0) MiB | **met** |")
	if want := "It keeps 0.80× (0.80–0.80) of the requests (wanted: 0.90×) and its p99 is 1.50× (1.50–1.50) (wanted: 1.05×)."; !strings.Contains(text, want) {
		t.Errorf("the page does not say %q:\n%s", want, text)
	}
	if strings.Count(text, "**missed**") != 1 || !strings.Contains(text, "capture fentry") {
		t.Errorf("the page:\n%s", text)
	}
	// A round on the other side of the bound is doubt, and a loss is a miss.
	r.rounds[armTrace][0].open.agent *= 2
	r.rounds[armTrace][1].seen.lost = samples{"weft_dropped_total": 3}
	r.rounds[armTrace][2].seen.lost = samples{"weft_dropped_total": 1}
	wantRows(t, r.markdown(),
		"| CPU per request, at 4000 requests/s: BPF programs 8.00 µs, and agent | ≤ 20.0 µs | 17.0 (17.0–26.0) µs | **met**, within the noise |",
		"| events lost | ≤ 0.00 | 1.00 (0.00–3.00) | **missed**, within the noise |")
	second := hopResults(hops()[1])
	second.note = " It is dark."
	h := second.hooks[armTrace]
	h.hooks = append(h.hooks, program("go_entry", 200, 1000), program("go_entry_H2_WR", 100, 500), program("go_other", 100, 1))
	second.hooks[armTrace] = h
	if text := second.markdown(); strings.Contains(text, "Targets") || !strings.Contains(text, "one to the service behind. It is dark.") ||
		!strings.Contains(text, "**3.00 traps per request**") || strings.Count(text, "traps per request") != 1 {
		t.Errorf("the HTTP/2 hop:\n%s", text)
	}
}

func TestReportOfSoak(t *testing.T) {
	r := &results{settings: settings{soakRate: 20000, soak: time.Second}, soaks: []soakReading{{of: "both ends", spans: 2, reading: measured(20000, 1, 1, 1), wanted: 20000, memory: 60 << 20}}}
	wantRows(t, r.markdown(), "| agent's largest resident set at 20,000 requests/s | ≤ 64 MiB | 60.0 MiB | **met** |", "| events lost | 0 | 0 | **met** |")
	r.soaks[0].lost, r.soaks[0].reading, r.soaks[0].wanted = samples{"weft_dropped_total": 2}, measured(13000, 1, 1, 1), 0
	r.soaks = append(r.soaks, soakReading{of: "one end", spans: 1, reading: measured(20000, 1, 1, 1), wanted: 20000, memory: 40 << 20})
	wantRows(t, r.markdown(), "| agent's largest resident set at 20,000 requests/s | ≤ 64 MiB | 40.0 MiB | **met** |", "| events lost | 0 | 2 | **missed** |")
	r.soaks[1].reading, r.soaks[1].wanted, r.soaks[1].memory = measured(13000, 1, 1, 1), 0, 70<<20
	wantRows(t, r.markdown(), "| agent's largest resident set at 20,000 requests/s | ≤ 64 MiB | 70.0 MiB | not decided: 20,000 requests/s were not reached here; at 13,000 **missed** |",
		"| events lost | 0 | 2 | **missed** |")
}

func TestOverviewAndPlot(t *testing.T) {
	var measured []*results
	for _, h := range hops() {
		measured = append(measured, hopResults(h))
	}
	text := overview(measured, "docs/performance.md", "docs/performance.svg")
	if !strings.Contains(text, "](performance.svg)") {
		t.Errorf("the picture is not in the page:\n%s", text)
	}
	// 60 µs without; 70 and 8 with.
	wantRows(t, text[strings.Index(text, "| hop |"):], "| nginx proxy | weft | 0.91× (0.91–0.91) | 1.20× (1.20–1.20) | 1.30× (1.30–1.30) | 60.0 → 78.0 | — |")
	svg, err := drawPlot(measured)
	if err != nil {
		t.Fatal(err)
	}
	for in := xml.NewDecoder(strings.NewReader(svg)); ; {
		if _, err := in.Token(); errors.Is(err, io.EOF) {
			break
		} else if err != nil {
			t.Fatalf("%v in\n%s", err, svg)
		}
	}
	for _, want := range []string{"Flask → Express", ">0.91<", ">1.30<", "a &lt;CPU&gt;", ">target<"} {
		if !strings.Contains(svg, want) {
			t.Errorf("the picture does not show %q", want)
		}
	}
	if got := strings.Count(svg, "<title>"); got != 2*len(hops()) {
		t.Errorf("%d bars, want %d", got, 2*len(hops()))
	}
}
