package main

import (
	"io"
	"net/http"
	"strings"
)

// served is what the server saw since it started.
type served struct {
	Address     string
	Requests    uint64
	Traceparent uint64 // those with exactly one traceparent
	Sampled     uint64 // and of these those whose sampled flag is set
	Repeated    uint64 // those with several
	Carried     uint64 // bytes of tracestate and baggage, in all
	Authority   string // PEM, of a server with TLS
}

// since is what was seen between two readings.
func (s served) since(was served) served {
	return served{s.Address, s.Requests - was.Requests, s.Traceparent - was.Traceparent, s.Sampled - was.Sampled,
		s.Repeated - was.Repeated, s.Carried - was.Carried, s.Authority}
}

// page is what every request gets: small, so that tracing shows.
var page = []byte(strings.Repeat("weft and warp. ", 8))

// server answers on a free loopback port and tells, when asked, what it saw.
func server(in io.Reader, out io.Writer, over wire) error {
	listener, config, authority, err := over.listen("127.0.0.1:0")
	if err != nil {
		return err
	}
	var saw sight
	stop := over.serve(listener, config, func(w http.ResponseWriter, r *http.Request) {
		saw.request(r.Header["Traceparent"])
		for _, name := range []string{"Tracestate", "Baggage"} {
			for _, value := range r.Header[name] {
				saw.carried.Add(uint64(len(value)))
			}
		}
		w.Header().Set("Content-Type", "text/plain")
		_, _ = w.Write(page) // a client that is gone needs no answer
	})
	defer stop() //nolint:errcheck // the process ends with it
	return answer(in, out, func(struct{}) (served, error) {
		s := saw.read(listener.Addr().String())
		s.Authority = authority
		return s, nil
	})
}
