// Package strict is an HTTP/1.1 server that takes requests apart byte by byte
// and forgives nothing, for tests that ask whether what was sent is well formed.
package strict

import (
	"bufio"
	"bytes"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"net"
	"strconv"
	"strings"
	"sync"
)

// Request is what came, as it came.
type Request struct {
	Conn   int    // number of the connection
	Head   []byte // from the request line to the empty line
	Header [][2]string
	Body   int // bytes, without chunked framing
}

// Target is the second word of the request line.
func (r *Request) Target() string { return strings.Fields(string(r.Head))[1] }

// Values are those of a header, in order.
func (r *Request) Values(name string) []string {
	var out []string
	for _, h := range r.Header {
		if strings.EqualFold(h[0], name) {
			out = append(out, h[1])
		}
	}
	return out
}

// Server answers each request with the SHA-256 of its body, in hex.
type Server struct {
	Addr string

	l        net.Listener
	mu       sync.Mutex
	requests []Request
	problems []string
	conns    map[net.Conn]bool
	count    int
}

// Start listens on loopback.
func Start() (*Server, error) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return nil, err
	}
	s := &Server{Addr: l.Addr().String(), l: l, conns: map[net.Conn]bool{}}
	go s.accept()
	return s, nil
}

// Close ends it and all connections.
func (s *Server) Close() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	for c := range s.conns {
		_ = c.Close()
	}
	return s.l.Close()
}

// Take returns the requests since the last Take, and what was wrong with any.
func (s *Server) Take() ([]Request, []string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	r, p := s.requests, s.problems
	s.requests, s.problems = nil, nil
	return r, p
}

func (s *Server) accept() {
	for {
		c, err := s.l.Accept()
		if err != nil {
			return // closed
		}
		s.mu.Lock()
		s.conns[c] = true
		s.count++
		n := s.count
		s.mu.Unlock()
		go s.serve(c, n)
	}
}

func (s *Server) serve(c net.Conn, n int) {
	defer c.Close()
	r := bufio.NewReaderSize(c, 64<<10)
	for {
		req, sum, err := Read(r)
		if errors.Is(err, io.EOF) {
			return
		}
		var bad *MalformedError
		if errors.As(err, &bad) {
			s.mu.Lock()
			s.problems = append(s.problems, bad.Error())
			s.mu.Unlock()
			_, _ = io.WriteString(c, "HTTP/1.1 400 Bad Request\r\nConnection: close\r\nContent-Length: 0\r\n\r\n")
			return
		}
		if err != nil {
			return // the client is gone
		}
		req.Conn = n
		s.mu.Lock()
		s.requests = append(s.requests, *req)
		s.mu.Unlock()
		if _, err := fmt.Fprintf(c, "HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n%s", len(sum), sum); err != nil {
			return
		}
	}
}

// MalformedError says what no client may send.
type MalformedError struct {
	What string
	Near []byte
}

func (e *MalformedError) Error() string { return fmt.Sprintf("%s: %.200q", e.What, e.Near) }

// maxHead is the longest head that is read.
const maxHead = 64 << 10

// Read takes one request and the sum of its body. It returns io.EOF between
// requests, *MalformedError for what is not well formed.
func Read(r *bufio.Reader) (*Request, string, error) {
	req := &Request{}
	for {
		line, err := r.ReadSlice('\n')
		req.Head = append(req.Head, line...)
		if err != nil {
			if errors.Is(err, io.EOF) && len(req.Head) > 0 {
				return nil, "", &MalformedError{"ended within a head", req.Head}
			}
			return nil, "", err
		}
		if len(req.Head) > maxHead {
			return nil, "", &MalformedError{"head without an end", req.Head[:200]}
		}
		if len(line) < 2 || line[len(line)-2] != '\r' {
			return nil, "", &MalformedError{"line without CR LF", line}
		}
		text := line[:len(line)-2]
		if i := bytes.IndexFunc(text, func(c rune) bool { return c < ' ' && c != '\t' || c == 0x7f }); i >= 0 {
			return nil, "", &MalformedError{fmt.Sprintf("control character at %d", i), text}
		}
		if len(text) == 0 {
			break
		}
		if len(req.Head) == len(line) {
			if err := requestLine(string(text)); err != nil {
				return nil, "", err
			}
			continue
		}
		name, value, found := strings.Cut(string(text), ": ")
		if !found || name == "" || strings.Trim(name, tokens) != "" || strings.TrimSpace(value) != value {
			return nil, "", &MalformedError{"header line", text}
		}
		req.Header = append(req.Header, [2]string{name, value})
	}
	if len(req.Head) < 4 || len(req.Header) == 0 {
		return nil, "", &MalformedError{"head without headers", req.Head}
	}
	return body(r, req)
}

const tokens = "!#$%&'*+-.^_`|~0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz"

func requestLine(line string) error {
	words := strings.Split(line, " ")
	if len(words) != 3 || strings.Trim(words[0], "ABCDEFGHIJKLMNOPQRSTUVWXYZ") != "" || words[0] == "" ||
		!strings.HasPrefix(words[1], "/") || words[2] != "HTTP/1.1" {
		return &MalformedError{"request line", []byte(line)}
	}
	return nil
}

func body(r *bufio.Reader, req *Request) (*Request, string, error) {
	for _, name := range []string{"Host", "Content-Length", "Transfer-Encoding", "User-Agent"} {
		if n := len(req.Values(name)); n > 1 {
			return nil, "", &MalformedError{fmt.Sprintf("%d lines %s", n, name), req.Head}
		}
	}
	length, coding := req.Values("Content-Length"), req.Values("Transfer-Encoding")
	h := sha256.New()
	switch {
	case len(req.Values("Host")) != 1 || len(length)+len(coding) > 1:
		return nil, "", &MalformedError{"Host, or two lengths", req.Head}
	case len(length) == 1:
		n, err := strconv.Atoi(length[0])
		if err != nil || n < 0 {
			return nil, "", &MalformedError{"Content-Length", req.Head}
		}
		if _, err := io.CopyN(h, r, int64(n)); err != nil {
			return nil, "", err
		}
		req.Body = n
	case len(coding) == 1:
		if coding[0] != "chunked" {
			return nil, "", &MalformedError{"Transfer-Encoding", req.Head}
		}
		for {
			n, err := chunk(r, h)
			if err != nil {
				return nil, "", err
			}
			if n == 0 {
				break
			}
			req.Body += n
		}
	}
	return req, fmt.Sprintf("%x", h.Sum(nil)), nil
}

// chunk reads one chunk; the last one is empty and has no trailers here.
func chunk(r *bufio.Reader, to io.Writer) (int, error) {
	line, err := r.ReadString('\n')
	if err != nil {
		return 0, err
	}
	n, err := strconv.ParseUint(strings.TrimSuffix(line, "\r\n"), 16, 31)
	if err != nil || !strings.HasSuffix(line, "\r\n") {
		return 0, &MalformedError{"size of a chunk", []byte(line)}
	}
	if _, err := io.CopyN(to, r, int64(n)); err != nil {
		return 0, err
	}
	end := make([]byte, 2)
	if _, err := io.ReadFull(r, end); err != nil {
		return 0, err
	}
	if string(end) != "\r\n" {
		return 0, &MalformedError{"end of a chunk", end}
	}
	return int(n), nil
}

// Without returns a head without the lines of one name.
func Without(head []byte, name string) []byte {
	var out []byte
	for line := range bytes.Lines(head) {
		got, _, _ := bytes.Cut(line, []byte(":"))
		if !strings.EqualFold(string(got), name) {
			out = append(out, line...)
		}
	}
	return out
}
