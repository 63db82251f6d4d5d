package main

import (
	"fmt"
	"io"
	"net"
	"net/http"
	"strings"
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

// since is what was seen between two readings.
func (s served) since(was served) served {
	return served{s.Address, s.Requests - was.Requests, s.Traceparent - was.Traceparent, s.Sampled - was.Sampled,
		s.Repeated - was.Repeated, s.Carried - was.Carried}
}

// page is what every request gets: small, so that tracing shows.
var page = []byte(strings.Repeat("weft and warp. ", 8))

// server answers on a free loopback port and tells, when asked, what it saw.
func server(in io.Reader, out io.Writer) error {
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return fmt.Errorf("listen: %w", err)
	}
	var saw sight
	s := &http.Server{ReadHeaderTimeout: time.Minute, Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		saw.request(r.Header["Traceparent"])
		for _, name := range []string{"Tracestate", "Baggage"} {
			for _, value := range r.Header[name] {
				saw.carried.Add(uint64(len(value)))
			}
		}
		w.Header().Set("Content-Type", "text/plain")
		_, _ = w.Write(page) // a client that is gone needs no answer
	})}
	go func() { _ = s.Serve(listener) }() // until Close
	defer s.Close()
	return answer(in, out, func(struct{}) (served, error) { return saw.read(listener.Addr().String()), nil })
}
