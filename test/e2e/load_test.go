package e2e

import (
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"weft/test/e2e/otlpsink"
	"weft/test/e2e/truth"
)

// leafReport is what the last hop answers: the header lines it received.
type leafReport struct {
	ID      string      `json:"id"`
	Headers [][2]string `json:"headers"`
}

func (r leafReport) arrival() truth.Arrival {
	a := truth.Arrival{ID: r.ID}
	for _, h := range r.Headers {
		if strings.EqualFold(h[0], "traceparent") {
			a.Traceparents = append(a.Traceparents, h[1])
		}
	}
	return a
}

// contexts gives the traceparent lines of the i-th request.
type contexts func(i int) []string

func tp(i int, flags string) string {
	return fmt.Sprintf("00-%032x-%016x-%s", 0xfeed0000+i, 0xcafe0000+i, flags)
}

// wellFormed is none, sampled or not sampled: what a proxy may pass on.
func wellFormed(i int) []string {
	switch i % 5 {
	case 1:
		return []string{tp(i, "01")}
	case 3:
		return []string{tp(i, "00")}
	}
	return nil
}

// anything adds what a strict reader must refuse, and what it must accept.
func anything(i int) []string {
	bad := []string{"", "00", tp(i, "01") + "-x", strings.ToUpper(tp(i, "01")), "ff" + tp(i, "01")[2:],
		"00-00000000000000000000000000000000-00f067aa0ba902b7-01", "00-4bf92f3577b34da6a3ce929d0e0e4736-0000000000000000-01",
		tp(i, "0g"), strings.ReplaceAll(tp(i, "01"), "-", "_")}
	switch i % 10 {
	case 4:
		return []string{bad[i/10%len(bad)]}
	case 6:
		return []string{tp(i, "01"), tp(i, "01")}
	case 8:
		return []string{"01" + tp(i, "01")[2:] + "-later"}
	case 9:
		return []string{tp(i, "03")}
	}
	return wellFormed(i)
}

// driven is what came back from a load.
type driven struct {
	requests []truth.Request
	arrivals []truth.Arrival
	took     []time.Duration // sorted
}

func (d driven) quantile(q float64) time.Duration {
	if len(d.took) == 0 {
		return 0
	}
	return d.took[min(int(q*float64(len(d.took))), len(d.took)-1)]
}

// drive sends n requests, conc at a time, from this process, which weft does
// not trace. Every request must be answered by the last hop.
func drive(t *testing.T, url, prefix string, n, conc int, ctx contexts) driven {
	t.Helper()
	client := &http.Client{
		Transport: &http.Transport{MaxIdleConnsPerHost: conc, MaxConnsPerHost: conc},
		Timeout:   patience(t, 30*time.Second),
	}
	defer client.CloseIdleConnections()
	d := driven{requests: make([]truth.Request, n), took: make([]time.Duration, n)}
	arrivals := make([]*truth.Arrival, n)
	var next, failed atomic.Int64
	var wg sync.WaitGroup
	for range conc {
		wg.Go(func() {
			for {
				i := int(next.Add(1)) - 1
				if i >= n || failed.Load() > 5 {
					return
				}
				r := truth.Request{ID: fmt.Sprintf("%s-%d", prefix, i), Traceparents: ctx(i)}
				start := time.Now()
				a, err := one(client, url, r)
				d.requests[i], d.took[i] = r, time.Since(start)
				if err != nil {
					failed.Add(1)
					t.Errorf("request %s: %v", r.ID, err)
					continue
				}
				arrivals[i] = &a
			}
		})
	}
	wg.Wait()
	for _, a := range arrivals {
		if a != nil {
			d.arrivals = append(d.arrivals, *a)
		}
	}
	slices.Sort(d.took)
	return d
}

func one(client *http.Client, url string, r truth.Request) (truth.Arrival, error) {
	var a truth.Arrival
	req, err := http.NewRequest(http.MethodGet, url+"?id="+r.ID, nil)
	if err != nil {
		return a, err
	}
	if r.Traceparents != nil {
		req.Header["Traceparent"] = r.Traceparents
	}
	resp, err := client.Do(req)
	if err != nil {
		return a, err
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(resp.Body)
	if err != nil {
		return a, err
	}
	if resp.StatusCode != http.StatusOK {
		return a, fmt.Errorf("%s: %.300s", resp.Status, body)
	}
	var rep leafReport
	if err := json.Unmarshal(body, &rep); err != nil {
		return a, fmt.Errorf("%w: %.300s", err, body)
	}
	return rep.arrival(), nil
}

// gather returns the spans of a load. Where no roots are allowed their number
// is known; else an unsampled request's call may be exported too, and the end
// is when no more come.
func gather(t *testing.T, sink *otlpsink.Sink, hops []truth.Hop, requests []truth.Request) []truth.Span {
	t.Helper()
	roots := slices.ContainsFunc(hops, func(h truth.Hop) bool { return h.Roots })
	each := 0
	for i, h := range hops {
		if h.Selected {
			each += 2
			if i == len(hops)-1 {
				each--
			}
		}
	}
	n := 0
	for _, r := range requests {
		got, err := truth.Single(r.Traceparents)
		if err != nil || got.Sampled() || roots {
			n += each
		}
	}
	quiet := 8 * time.Second
	if roots {
		quiet = 3 * time.Second // three times the longest an exporter waits
	}
	sink.Wait(n, patience(t, quiet))
	// What should not come would come now.
	time.Sleep(200 * time.Millisecond)
	return sink.Take()
}
