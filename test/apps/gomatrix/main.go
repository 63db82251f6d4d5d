// Command gomatrix is a Go service that nobody instrumented, with the ways in
// which Go programs call each other: each request names the pattern by which
// the relay calls the back end, and carries its own truth.
//
//	gomatrix -role relay  -listen ADDR -protocol P -next URL -control SOCKET
//	gomatrix -role back   -listen ADDR -protocol P -control SOCKET
//	gomatrix -role client -protocol P -next URL -control SOCKET
//
// The relay answers GET /do/PATTERN?id=ID, and calls /leaf?id=ID&call=NAME of
// the next with the header X-Truth: ID/NAME. The back end echoes that header and
// remembers what arrived; it writes that as JSON lines to whoever connects to
// its control socket. A client reads orders there, sends what they say and
// answers each with a line of how it went.
//
// It compiles with Go 1.19; what later versions brought is behind build tags.
package main

import (
	"flag"
	"fmt"
	"log"
	"net"
	"net/http"
	"os"
	"time"
)

// settings are the flags.
type settings struct {
	role     string
	listen   string
	protocol string
	next     string
	control  string
	conns    int
}

func main() {
	var s settings
	flag.StringVar(&s.role, "role", "relay", "relay, back or client")
	flag.StringVar(&s.listen, "listen", "", "host:port to serve at")
	flag.StringVar(&s.protocol, "protocol", "http1", "of both sides: http1, https, h2, h2c, h2c-std, h2x")
	flag.StringVar(&s.next, "next", "", "base URL of the back end")
	flag.StringVar(&s.control, "control", "", "path of the control socket to make")
	flag.IntVar(&s.conns, "conns", 0, "connections to the next, 0: as many as needed")
	flag.Parse()
	log.SetFlags(log.Lmicroseconds)
	if err := run(s); err != nil {
		log.Fatalf("gomatrix %s: %v", s.role, err)
	}
}

func run(s settings) error {
	switch s.role {
	case "back":
		b := &back{}
		if err := control(s.control, b.report); err != nil {
			return err
		}
		return listen(s, b)
	case "relay":
		client, err := newClient(s.protocol, s.conns)
		if err != nil {
			return err
		}
		return listen(s, newRelay(client, s.next))
	case "client":
		client, err := newClient(s.protocol, s.conns)
		if err != nil {
			return err
		}
		if err := control(s.control, newRelay(client, s.next).obey); err != nil {
			return err
		}
		select {}
	}
	return fmt.Errorf("role %q: want relay, back or client", s.role)
}

func listen(s settings, h http.Handler) error {
	l, err := net.Listen("tcp", s.listen)
	if err != nil {
		return err
	}
	srv := &http.Server{Handler: h, ReadHeaderTimeout: time.Minute}
	return serve(s.protocol, srv, l)
}

// control serves a unix socket, one connection at a time. Spans are of TCP, so
// what is said there is outside of every trace.
func control(path string, handle func(net.Conn) error) error {
	if path == "" {
		return nil
	}
	_ = os.Remove(path) // of an earlier run
	l, err := net.Listen("unix", path)
	if err != nil {
		return err
	}
	go func() {
		for {
			c, err := l.Accept()
			if err != nil {
				log.Fatalf("accept on %s: %v", path, err)
			}
			if err := handle(c); err != nil {
				log.Printf("control: %v", err)
			}
			_ = c.Close()
		}
	}()
	return nil
}
