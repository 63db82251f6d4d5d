package strict

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"net/http"
	"strings"
	"testing"
)

func TestRead(t *testing.T) {
	const fine = "POST /a?b HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n0\r\n\r\n"
	tests := []struct{ name, text, problem string }{
		{"chunked", fine, ""},
		{"length", "POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 3\r\n\r\nabc", ""},
		{"no body", "GET / HTTP/1.1\r\nHost: x\r\n\r\n", ""},
		{"empty value", "GET / HTTP/1.1\r\nHost: x\r\nA: \r\n\r\n", ""},
		{"lone LF", "GET / HTTP/1.1\nHost: x\r\n\r\n", "line without CR LF"},
		{"NUL", "GET / HTTP/1.1\r\nHost: x\r\nA: b\x00\r\n\r\n", "control character at 4"},
		{"no colon", "GET / HTTP/1.1\r\nHost: x\r\ntraceparent\r\n\r\n", "header line"},
		{"space in name", "GET / HTTP/1.1\r\nHost: x\r\ntrace parent: 1\r\n\r\n", "header line"},
		{"trailing space", "GET / HTTP/1.1\r\nHost: x\r\nA: 1 \r\n\r\n", "header line"},
		{"header in the request line", "GET /traceparent: 1\r\nHost: x\r\n\r\n", "request line"},
		{"two hosts", "GET / HTTP/1.1\r\nHost: x\r\nHost: x\r\n\r\n", "2 lines Host"},
		{"no host", "GET / HTTP/1.1\r\nA: x\r\n\r\n", "Host, or two lengths"},
		{"two lengths", "GET / HTTP/1.1\r\nHost: x\r\nContent-Length: 0\r\nTransfer-Encoding: chunked\r\n\r\n", "Host, or two lengths"},
		{"cut", "GET / HTTP/1.1\r\nHost: x\r\ntra", "ended within a head"},
		{"header in a chunk", strings.Replace(fine, "abc", "tra", 1)[:len(fine)-5] + "parent: 1\r\n", "size of a chunk"},
		{"chunk too long", strings.Replace(fine, "abc", "abcd", 1), "end of a chunk"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			_, _, err := Read(bufio.NewReader(strings.NewReader(tt.text)))
			var bad *MalformedError
			if tt.problem == "" && err != nil || tt.problem != "" && (!errors.As(err, &bad) || bad.What != tt.problem) {
				t.Errorf("%v, want %q", err, tt.problem)
			}
		})
	}
}

func TestServer(t *testing.T) {
	s, err := Start()
	if err != nil {
		t.Fatal(err)
	}
	resp, err := http.Post("http://"+s.Addr+"/x?y", "text/plain", io.MultiReader(strings.NewReader("ab"), strings.NewReader("c")))
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	sum, err := io.ReadAll(resp.Body)
	if err != nil || !strings.HasPrefix(string(sum), "ba7816bf") {
		t.Errorf("sum %q of abc: %v", sum, err)
	}
	requests, problems := s.Take()
	if len(requests) != 1 || len(problems) > 0 || requests[0].Body != 3 || requests[0].Target() != "/x?y" {
		t.Fatalf("%+v %v", requests, problems)
	}
	if without := Without(requests[0].Head, "content-type"); len(without) != len(requests[0].Head)-len("Content-Type: text/plain\r\n") {
		t.Errorf("%q", without)
	}
	if got := fmt.Sprint(requests[0].Values("transfer-encoding")); got != "[chunked]" {
		t.Error(got)
	}
	if err := s.Close(); err != nil {
		t.Error(err)
	}
}
