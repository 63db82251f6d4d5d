package main

import (
	"bufio"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"strconv"
	"sync"
	"time"
)

// arrival is a request as it came to the back end.
type arrival struct {
	ID           string   `json:"id"`
	Call         string   `json:"call"`
	Traceparents []string `json:"traceparents"`
	Bad          string   `json:"bad,omitempty"` // what is wrong with it
}

// back answers /leaf. Its query says how: status=503, delay=5ms, to=NAME (a
// redirect to the same with call=NAME).
type back struct {
	mu       sync.Mutex
	arrivals []arrival
}

func (b *back) ServeHTTP(w http.ResponseWriter, req *http.Request) {
	q := req.URL.Query()
	a := arrival{ID: q.Get("id"), Call: q.Get("call"), Traceparents: req.Header["Traceparent"]}
	body, err := io.ReadAll(req.Body)
	if err != nil {
		// The caller may have given up, which the truth then shows.
		http.Error(w, err.Error(), http.StatusBadRequest)
		return
	}
	said := req.Header.Get("X-Truth")
	switch {
	case len(req.Header["X-Truth"]) != 1:
		a.Bad = fmt.Sprintf("X-Truth lines %q", req.Header["X-Truth"])
	case q.Get("to") == "" && q.Get("redirected") == "" && said != a.ID+"/"+a.Call:
		a.Bad = fmt.Sprintf("X-Truth %q at %s", said, req.URL)
	case len(body) > 0 && string(body) != said:
		a.Bad = fmt.Sprintf("body %.100q for %q", body, said)
	}
	b.mu.Lock()
	b.arrivals = append(b.arrivals, a)
	b.mu.Unlock()

	if d, err := time.ParseDuration(q.Get("delay")); err == nil {
		select {
		case <-time.After(d):
		case <-req.Context().Done():
		}
	}
	w.Header().Set("X-Truth", said)
	if to := q.Get("to"); to != "" {
		q.Set("call", to)
		q.Del("to")
		q.Set("redirected", "1")
		http.Redirect(w, req, "/leaf?"+q.Encode(), http.StatusFound)
		return
	}
	if status, err := strconv.Atoi(q.Get("status")); err == nil {
		w.WriteHeader(status)
	}
	_, _ = io.WriteString(w, said) // a caller that is gone needs no answer
}

// report writes the arrivals since the last report.
func (b *back) report(c net.Conn) error {
	b.mu.Lock()
	taken := b.arrivals
	b.arrivals = nil
	b.mu.Unlock()
	buf := bufio.NewWriter(c)
	enc := json.NewEncoder(buf)
	for _, a := range taken {
		if err := enc.Encode(a); err != nil {
			return err
		}
	}
	return buf.Flush()
}
