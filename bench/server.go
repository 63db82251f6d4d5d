package main

import (
	"fmt"
	"io"
	"net"
	"net/http"
	"strings"
	"sync/atomic"
	"time"
)

// served is what the server saw since it started.
type served struct {
	Address     string
	Requests    uint64
	Traceparent uint64 // those with exactly one traceparent
	Sampled     uint64 // and of these those whose sampled flag is set
	Repeated    uint64 // those with several
	Carried     uint64 // bytes of tracestate and baggage, in all
}

// page is what every request gets: small, so that tracing shows.
var page = []byte(strings.Repeat("weft and warp. ", 8))

// server answers on a free loopback port and tells, when asked, what it saw.
func server(in io.Reader, out io.Writer) error {
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return fmt.Errorf("listen: %w", err)
	}
	var requests, traceparent, sampled, repeated, carried atomic.Uint64
	s := &http.Server{ReadHeaderTimeout: time.Minute, Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		requests.Add(1)
		switch parent := r.Header["Traceparent"]; len(parent) {
		case 0:
		case 1:
			traceparent.Add(1)
			// The last digit of 00 to 03, which are all the flags there are.
			if p := parent[0]; p[len(p)-1]&1 == 1 {
				sampled.Add(1)
			}
		default:
			repeated.Add(1)
		}
		for _, name := range []string{"Tracestate", "Baggage"} {
			for _, value := range r.Header[name] {
				carried.Add(uint64(len(value)))
			}
		}
		w.Header().Set("Content-Type", "text/plain")
		_, _ = w.Write(page) // a client that is gone needs no answer
	})}
	go func() { _ = s.Serve(listener) }() // until Close
	defer s.Close()
	return answer(in, out, func(struct{}) (served, error) {
		return served{listener.Addr().String(), requests.Load(), traceparent.Load(), sampled.Load(), repeated.Load(), carried.Load()}, nil
	})
}
