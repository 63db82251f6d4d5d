package main

import (
	"bufio"
	"bytes"
	"crypto/sha256"
	"encoding/base64"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"runtime"
	"strconv"
	"strings"

	"weft/test/apps/blocking"
	"weft/test/apps/rawhttp/script"
)

// serve answers on every address, one thread a connection, until killed.
func serve(addresses []string) error {
	failed := make(chan error)
	for _, a := range addresses {
		fd, err := blocking.Listen(a)
		if err != nil {
			return err
		}
		go func() {
			for {
				c, err := blocking.Accept(fd)
				if err != nil {
					failed <- err
					return
				}
				go session(c)
			}
		}()
	}
	return <-failed
}

// errDone ends a session as planned.
var errDone = errors.New("session done")

func session(c *blocking.Conn) {
	runtime.LockOSThread()
	r := bufio.NewReaderSize(c, 64<<10)
	var err error
	for err == nil {
		err = answer(c, r)
	}
	if !errors.Is(err, errDone) && !errors.Is(err, io.EOF) {
		fmt.Fprintln(os.Stderr, "rawhttp: session:", err)
	}
	if err := c.Close(); err != nil {
		fmt.Fprintln(os.Stderr, "rawhttp: close:", err)
	}
}

type request struct {
	method, path, proto string
	header              map[string][]string // lower-case names
	head, body          []byte              // as received
}

func (q *request) get(name string) string {
	if v := q.header[name]; len(v) > 0 {
		return v[0]
	}
	return ""
}

func (q *request) report() (script.Report, error) {
	r := script.Report{Traceparents: q.header["traceparent"], BodyLen: len(q.body)}
	sum := func(b []byte) string {
		s := sha256.Sum256(b)
		return hex.EncodeToString(s[:])
	}
	var stripped []byte
	for line := range bytes.SplitAfterSeq(q.head, []byte("\n")) {
		name, _, _ := bytes.Cut(line, []byte(":"))
		if !strings.EqualFold(string(name), "traceparent") {
			stripped = append(stripped, line...)
		}
	}
	r.HeadSum, r.StrippedSum, r.BodySum = sum(q.head), sum(stripped), sum(q.body)
	return r, nil
}

// readHead reads a header block; a first line that is not HTTP/1 gives
// proto "".
func readHead(r *bufio.Reader) (*request, error) {
	q := &request{header: map[string][]string{}}
	line, err := r.ReadBytes('\n')
	if err != nil && len(line) == 0 {
		return nil, err
	}
	q.head = append(q.head, line...)
	first := strings.Fields(string(line))
	if len(first) != 3 || !strings.HasPrefix(first[2], "HTTP/1.") {
		return q, nil
	}
	q.method, q.path, q.proto = first[0], first[1], first[2]
	for {
		line, err := r.ReadBytes('\n')
		if err != nil {
			return nil, fmt.Errorf("read header block: %w", err)
		}
		q.head = append(q.head, line...)
		text := strings.TrimRight(string(line), "\r\n")
		if text == "" {
			return q, nil
		}
		name, value, found := strings.Cut(text, ":")
		if !found {
			return nil, fmt.Errorf("header line %q has no colon", text)
		}
		name = strings.ToLower(name)
		q.header[name] = append(q.header[name], strings.TrimSpace(value))
	}
}

func (q *request) readBody(r *bufio.Reader) error {
	if q.get("transfer-encoding") == "chunked" {
		return q.readChunks(r)
	}
	length := q.get("content-length")
	if length == "" {
		return nil
	}
	n, err := strconv.Atoi(length)
	if err != nil {
		return fmt.Errorf("content-length: %w", err)
	}
	q.body = make([]byte, n)
	if _, err := io.ReadFull(r, q.body); err != nil {
		return fmt.Errorf("read body: %w", err)
	}
	return nil
}

func (q *request) readChunks(r *bufio.Reader) error {
	for {
		line, err := r.ReadBytes('\n')
		if err != nil {
			return fmt.Errorf("read chunk size: %w", err)
		}
		q.body = append(q.body, line...)
		digits, _, _ := strings.Cut(strings.TrimSpace(string(line)), ";")
		size, err := strconv.ParseUint(digits, 16, 31)
		if err != nil {
			return fmt.Errorf("chunk size: %w", err)
		}
		data := make([]byte, size+2) // and CR LF
		if _, err := io.ReadFull(r, data); err != nil {
			return fmt.Errorf("read chunk: %w", err)
		}
		q.body = append(q.body, data...)
		if size == 0 {
			return nil
		}
	}
}

// answer serves one request.
func answer(c *blocking.Conn, r *bufio.Reader) error {
	q, err := readHead(r)
	if err != nil {
		return err
	}
	if q.proto == "" {
		return echo(c, r, q.head)
	}
	if strings.EqualFold(q.get("expect"), "100-continue") {
		if _, err := io.WriteString(c, "HTTP/1.1 100 Continue\r\n\r\n"); err != nil {
			return err
		}
	}
	if err := q.readBody(r); err != nil {
		return err
	}
	rep, err := q.report()
	if err != nil {
		return err
	}
	text, err := json.Marshal(rep)
	if err != nil {
		return fmt.Errorf("encode report: %w", err)
	}
	header := script.ReportHeader + ": " + base64.StdEncoding.EncodeToString(text) + "\r\n"
	path, _, _ := strings.Cut(q.path, "?")
	return respond(c, r, q, path, header)
}

// smuggle is a body which looks like a request.
const smuggle = "GET /leaf?id=smuggled HTTP/1.1\r\nHost: x\r\n\r\n"

func respond(c *blocking.Conn, r *bufio.Reader, q *request, path, header string) error {
	send := func(parts ...string) error {
		_, err := io.WriteString(c, strings.Join(parts, ""))
		return err
	}
	if q.get("upgrade") != "" {
		if err := send("HTTP/1.1 101 Switching Protocols\r\nConnection: upgrade\r\nUpgrade: raw\r\n", header, "\r\n"); err != nil {
			return err
		}
		return echo(c, r, nil)
	}
	switch path {
	case "/204":
		return send("HTTP/1.1 204 No Content\r\n", header, "\r\n")
	case "/304":
		return send("HTTP/1.1 304 Not Modified\r\nContent-Length: 5\r\n", header, "\r\n")
	case "/500":
		return send("HTTP/1.1 500 Internal Server Error\r\nContent-Length: 0\r\n", header, "\r\n")
	case "/early":
		if err := send("HTTP/1.1 103 Early Hints\r\nLink: </x>\r\n\r\n"); err != nil {
			return err
		}
	case "/chunked":
		chunk := fmt.Sprintf("%x\r\n%s\r\n", len(smuggle), smuggle)
		if err := send("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n", header, "\r\n"); err != nil {
			return err
		}
		return send(chunk, chunk, "0\r\n\r\n")
	case "/close":
		return errDone
	case "/partial":
		if err := send("HTTP/1.1 200 OK\r\nContent-Length: 100\r\n", header, "\r\nonly this"); err != nil {
			return err
		}
		return errDone
	case "/reset":
		if err := c.Reset(); err != nil {
			return err
		}
		return errDone
	}
	if q.proto == "HTTP/1.0" {
		if err := send("HTTP/1.0 200 OK\r\n", header, "\r\nuntil the end"); err != nil {
			return err
		}
		return errDone
	}
	head := "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n" + header + "\r\n"
	if q.method == "HEAD" {
		return send(head)
	}
	return send(head, "ok")
}

// echo returns every byte until the client closes.
func echo(c *blocking.Conn, r *bufio.Reader, first []byte) error {
	if _, err := c.Write(first); err != nil {
		return err
	}
	buf := make([]byte, 64<<10)
	for {
		n, err := r.Read(buf)
		if err != nil {
			return err
		}
		if _, err := c.Write(buf[:n]); err != nil {
			return err
		}
	}
}
