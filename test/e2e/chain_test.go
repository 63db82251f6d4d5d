package e2e

import (
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"testing"

	"weft/test/e2e/truth"
)

// link is one hop of a chain of services.
type link struct {
	start     service
	path      string // where it serves; "" is /call, or /leaf for the last
	eventLoop bool   // one thread serves several requests: roots where several are in flight
	moves     bool   // requests move between threads: roots at any time
	forwards  bool   // a proxy that passes headers on
}

// chain is services that call each other, the first called by the driver.
type chain struct {
	name  string
	links []link
}

func (c chain) hops(conc int) []truth.Hop {
	hops := make([]truth.Hop, len(c.links))
	for i, l := range c.links {
		hops[i] = truth.Hop{Path: c.path(i), Selected: true, Roots: l.moves || l.eventLoop && conc > 1, Forwards: l.forwards}
	}
	return hops
}

func (c chain) path(i int) string {
	switch {
	case c.links[i].path != "":
		return c.links[i].path
	case i == len(c.links)-1:
		return "/leaf"
	}
	return "/call"
}

// start runs all services, the last first, and returns the URL of the first.
func (c chain) start(t *testing.T, g *group, keepAlive bool) string {
	t.Helper()
	url := ""
	for i := len(c.links) - 1; i >= 0; i-- {
		port := freePort(t)
		c.links[i].start(t, g, place{port: port, downstream: url, keepAlive: keepAlive})
		url = fmt.Sprintf("http://127.0.0.1:%d%s", port, c.path(i))
	}
	return url
}

func (c chain) contexts() contexts {
	for _, l := range c.links {
		if l.forwards {
			return wellFormed
		}
	}
	return anything
}

var chains = []chain{
	{"werkzeug-express", []link{{start: werkzeug}, {start: express}}},
	{"gunicorn-express", []link{{start: gunicorn}, {start: express}}},
	{"nginx-flask", []link{{start: nginx, path: "/via", eventLoop: true, forwards: true}, {start: werkzeug}}},
	{"nginx-gunicorn-express", []link{{start: nginx, path: "/via", eventLoop: true, forwards: true}, {start: gunicorn}, {start: express}}},
	{"go-go", []link{{start: goService, moves: true}, {start: goService}}},
	{"java-express", []link{{start: javaPool}, {start: express}}},
	{"express-go", []link{{start: express, eventLoop: true}, {start: goService}}},
}

// TestChain sends requests through chains of unmodified services and judges
// every one of them.
func TestChain(t *testing.T) {
	for _, c := range chains {
		for _, keepAlive := range []bool{false, true} {
			how := "close"
			if keepAlive {
				how = "keepalive"
			}
			t.Run(c.name+"/"+how, func(t *testing.T) {
				g := newGroup(t)
				sink := startSink(t)
				url := c.start(t, g, keepAlive)
				protocol := "grpc"
				if keepAlive {
					protocol = "http/protobuf"
				}
				a := startAgent(t, g, sink, agentOptions{protocol: protocol})
				for _, conc := range []int{1, 32} {
					t.Run(fmt.Sprintf("conc=%d", conc), func(t *testing.T) {
						name := fmt.Sprintf("%s/%s/conc=%d", c.name, how, conc)
						hops := c.hops(conc)
						d := drive(t, url, fmt.Sprintf("c%d", conc), scaled(t, 2000), conc, c.contexts())
						spans := gather(t, sink, hops, d.requests)
						judge(t, name, truth.Evidence{Hops: hops, Requests: d.requests, Arrivals: d.arrivals, Spans: spans}, d)
					})
				}
				if lost := a.losses(); len(lost) > 0 {
					t.Errorf("lost: %v", lost)
				}
				if missed := a.missed(); len(missed) > 0 {
					t.Logf("the kernel skipped runs: %v", missed)
				}
				a.stop()
				if late := sink.Take(); len(late) > 0 {
					t.Errorf("%d spans came after all were counted, first: %s", len(late), &late[0])
				}
			})
		}
	}
}

// TestChainJudgesUntraced is the harness's own proof: the same services and
// load without weft must be answered in full and must be found untraced.
func TestChainJudgesUntraced(t *testing.T) {
	for _, c := range chains {
		t.Run(c.name, func(t *testing.T) {
			url := c.start(t, newGroup(t), true)
			d := drive(t, url, "off", 40, 8, func(int) []string { return nil })
			if len(d.arrivals) != len(d.requests) {
				t.Fatalf("%d arrivals of %d", len(d.arrivals), len(d.requests))
			}
			r := truth.Check(truth.Evidence{Hops: c.hops(1), Requests: d.requests, Arrivals: d.arrivals})
			if r.Count("header") != len(d.requests) || r.Count("lost") < len(d.requests) {
				t.Fatalf("nothing was traced, but: %v", r.Err())
			}
		})
	}
}

// result is one row of the results.
type result struct {
	Name     string  `json:"name"`
	Requests int     `json:"requests"`
	Linked   int     `json:"linked"`
	Roots    int     `json:"roots"`
	Wrong    int     `json:"wrong"`
	P50      float64 `json:"p50Ms"`
	P99      float64 `json:"p99Ms"`
	Passed   bool    `json:"passed"`
}

// judge checks the evidence, prints one row, and appends it as JSON to the
// file WEFT_E2E_RESULTS if that is set.
func judge(t *testing.T, name string, e truth.Evidence, d driven) {
	t.Helper()
	r := truth.Check(e)
	err := r.Err()
	ms := func(q float64) float64 { return float64(d.quantile(q).Microseconds()) / 1000 }
	row := result{Name: name, Requests: r.Requests, Linked: r.Linked, Roots: r.Roots, Wrong: r.Wrong(),
		P50: ms(0.5), P99: ms(0.99), Passed: err == nil && !t.Failed()}
	t.Logf("%-44s %5d requests %5.1f %% linked %5d roots %d wrong  p50 %.1f ms  p99 %.1f ms", row.Name, row.Requests,
		100*float64(row.Linked)/float64(max(row.Requests, 1)), row.Roots, row.Wrong, row.P50, row.P99)
	if err := writeResult(row); err != nil {
		t.Error(err)
	}
	if err != nil {
		t.Errorf("%s:\n%v", name, err)
	}
}

func writeResult(row result) (err error) {
	path := os.Getenv("WEFT_E2E_RESULTS")
	if path == "" {
		return nil
	}
	f, err := os.OpenFile(path, os.O_APPEND|os.O_CREATE|os.O_WRONLY, 0o644)
	if err != nil {
		return fmt.Errorf("write result: %w", err)
	}
	defer func() { err = errors.Join(err, f.Close()) }()
	return json.NewEncoder(f).Encode(row)
}
