package main

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"runtime"
	"strconv"

	"golang.org/x/sys/unix"

	"weft/test/apps/blocking"
)

// passOn tells a relay where to. Address is where it is to listen; "" is the relay's
// choice.
type passOn struct {
	Upstream, Address string
	Authority         string // of upstream, with TLS
}

// passedOn is where it listens, and what a client with TLS must trust.
type passedOn struct{ Address, Authority string }

// relay is a service that knows nothing of tracing: it answers each request with
// what it gets for one of its own, and forwards no header. One connection at a
// time, on one thread and with blocking calls: what leaves is then for what came,
// and weft can tell.
func relay(in io.Reader, out io.Writer) error {
	listener, err := blocking.Listen("127.0.0.1:0")
	if err != nil {
		return err
	}
	name, err := unix.Getsockname(listener)
	if err != nil {
		return fmt.Errorf("ask for the relay's address: %w", err)
	}
	at, ok := name.(*unix.SockaddrInet4)
	if !ok {
		return fmt.Errorf("ask for the relay's address: it is a %T", name)
	}
	address := "127.0.0.1:" + strconv.Itoa(at.Port)
	return answer(in, out, func(to passOn) (passedOn, error) {
		go relayAll(listener, to.Upstream) // until this process ends
		return passedOn{Address: address}, nil
	})
}

func relayAll(listener int, upstream string) {
	runtime.LockOSThread()
	for {
		conn, err := blocking.Accept(listener)
		if err == nil {
			err = errors.Join(relaySession(conn, upstream), conn.Close())
		}
		if err != nil { // the client's request fails with it, and the benchmark
			fmt.Fprintln(os.Stderr, "bench: relay:", err)
		}
	}
}

// relaySession serves one connection over one of its own, until its end.
func relaySession(conn io.ReadWriter, upstream string) (err error) {
	up, err := blocking.Dial(upstream)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, up.Close()) }()
	if err := up.NoDelay(true); err != nil { // as HTTP clients do
		return err
	}
	from, back := bufio.NewReader(conn), bufio.NewReader(up)
	for {
		req, err := http.ReadRequest(from)
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err != nil {
			return fmt.Errorf("read request: %w", err)
		}
		if _, err := fmt.Fprintf(up, "GET %s HTTP/1.1\r\nHost: %s\r\n\r\n", req.URL.RequestURI(), upstream); err != nil {
			return fmt.Errorf("pass request on: %w", err)
		}
		resp, err := http.ReadResponse(back, req)
		if err != nil {
			return fmt.Errorf("read response: %w", err)
		}
		body, err := io.ReadAll(resp.Body)
		if err != nil {
			return fmt.Errorf("read response: %w", err)
		}
		if _, err := fmt.Fprintf(conn, "HTTP/1.1 %s\r\nContent-Type: text/plain\r\nContent-Length: %d\r\n\r\n%s", resp.Status, len(body), body); err != nil {
			return fmt.Errorf("answer: %w", err)
		}
	}
}
