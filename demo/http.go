package main

import (
	"bufio"
	"bytes"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"runtime"
	"strings"

	"weft/test/apps/blocking"
)

// handler answers one request with a status and a text.
type handler func(*http.Request) (int, string, error)

// serve answers requests, each connection on a thread of its own, until killed.
func serve(address string, h handler) error {
	listener, err := blocking.Listen(address)
	if err != nil {
		return err
	}
	for {
		conn, err := blocking.Accept(listener)
		if err != nil {
			return err
		}
		go func() {
			runtime.LockOSThread()
			if err := session(conn, h); err != nil {
				fmt.Fprintln(os.Stderr, "demo:", err)
			}
		}()
	}
}

func session(conn *blocking.Conn, h handler) (err error) {
	defer func() { err = errors.Join(err, conn.Close()) }()
	r := bufio.NewReader(conn)
	for {
		req, err := http.ReadRequest(r)
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err != nil {
			return fmt.Errorf("read request: %w", err)
		}
		status, body, err := h(req)
		if err != nil {
			status, body = http.StatusBadGateway, err.Error()
		}
		var out bytes.Buffer
		fmt.Fprintf(&out, "HTTP/1.1 %d %s\r\nContent-Type: text/plain\r\nContent-Length: %d\r\n\r\n%s",
			status, http.StatusText(status), len(body), body)
		if _, err := conn.Write(out.Bytes()); err != nil {
			return fmt.Errorf("write response: %w", err)
		}
		if req.Close {
			return nil
		}
	}
}

// get requests one page on a connection of its own, on the calling thread.
func get(address, target string) (status int, body string, err error) {
	conn, err := blocking.Dial(address)
	if err != nil {
		return 0, "", err
	}
	defer func() { err = errors.Join(err, conn.Close()) }()
	if _, err := fmt.Fprintf(conn, "GET %s HTTP/1.1\r\nHost: %s\r\nConnection: close\r\n\r\n", target, address); err != nil {
		return 0, "", fmt.Errorf("send request: %w", err)
	}
	resp, err := http.ReadResponse(bufio.NewReader(conn), nil)
	if err != nil {
		return 0, "", fmt.Errorf("read response: %w", err)
	}
	text, err := io.ReadAll(resp.Body)
	if err != nil {
		return 0, "", fmt.Errorf("read response body: %w", err)
	}
	return resp.StatusCode, strings.TrimSpace(string(text)), nil
}
