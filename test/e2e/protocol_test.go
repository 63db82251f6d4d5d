package e2e

import (
	"bytes"
	"fmt"
	"math/rand/v2"
	"strings"
	"testing"
	"time"

	"weft/test/apps/rawhttp/script"
	"weft/test/e2e/truth"
)

// lookalike is bytes that must never be taken for a request where they are not.
const lookalike = "GET /leaf?id=lookalike HTTP/1.1\r\nHost: x\r\n\r\n"

// chunked frames parts as a chunked body.
func chunked(parts ...string) string {
	var b strings.Builder
	for _, p := range parts {
		fmt.Fprintf(&b, "%x\r\n%s\r\n", len(p), p)
	}
	return b.String() + "0\r\n\r\n"
}

const te = "Transfer-Encoding: chunked"

// TestProtocol covers HTTP/1 message by message between a raw client and a raw
// server, both traced.
func TestProtocol(t *testing.T) {
	r := newRig(t)

	t.Run("keep-alive", func(t *testing.T) {
		r.simple(t, r.addr, r.ask("GET", "/leaf", ""), r.ask("POST", "/leaf", "one"), r.ask("PUT", "/leaf", lookalike),
			r.ask("DELETE", "/leaf", ""), r.ask("GET", "/leaf", ""))
	})
	t.Run("pipelining", func(t *testing.T) {
		xs := []exchange{r.ask("GET", "/leaf", ""), r.ask("POST", "/leaf", "body "+lookalike), r.ask("GET", "/leaf", "")}
		var all []byte
		for _, x := range xs {
			all = append(all, x.bytes()...)
		}
		got := r.client.do(t, script.Step{Connect: r.addr, Send: all, Reads: make([]script.Read, len(xs))}).Got
		r.traced(t, xs, got)
	})
	t.Run("chunked request", func(t *testing.T) {
		r.simple(t, r.addr, r.ask("POST", "/leaf", chunked("first", lookalike, "last"), te), r.ask("GET", "/leaf", ""))
	})
	t.Run("chunk in a send of its own", func(t *testing.T) {
		body := chunked("first", lookalike)
		x := r.ask("POST", "/leaf", body, te)
		at := strings.Index(body, "GET ")
		got := r.client.do(t, script.Step{Connect: r.addr, Send: x.bytes(),
			Pieces: []int{len(x.head), at, len(lookalike), len(body) - at - len(lookalike)}, Reads: make([]script.Read, 1)}).Got
		r.traced(t, []exchange{x}, got)
		r.simple(t, "", r.ask("GET", "/leaf", ""))
	})
	t.Run("chunked response", func(t *testing.T) {
		r.simple(t, r.addr, r.ask("GET", "/chunked", ""), r.ask("GET", "/leaf", ""))
	})
	t.Run("expect continue", func(t *testing.T) {
		x := r.ask("POST", "/leaf", lookalike, "Expect: 100-continue")
		res := r.client.do(t, script.Step{Connect: r.addr, Send: x.head, Reads: make([]script.Read, 1)})
		if res.Got[0].Status != 100 {
			t.Fatalf("status %d instead of 100", res.Got[0].Status)
		}
		got := r.client.do(t, script.Step{Send: x.body, Reads: make([]script.Read, 1)}).Got
		r.traced(t, []exchange{x}, got)
		r.simple(t, "", r.ask("GET", "/leaf", ""))
	})
	t.Run("early hints", func(t *testing.T) {
		x := r.ask("GET", "/early", "")
		got := r.client.do(t, script.Step{Connect: r.addr, Send: x.head, Reads: make([]script.Read, 2)}).Got
		if got[0].Status != 103 {
			t.Fatalf("status %d instead of 103", got[0].Status)
		}
		r.traced(t, []exchange{x}, got[1:])
		r.simple(t, "", r.ask("GET", "/leaf", ""))
	})
	for _, path := range []string{"/204", "/304"} {
		t.Run("no body "+path[1:], func(t *testing.T) {
			r.simple(t, r.addr, r.ask("GET", path, ""), r.ask("GET", "/leaf", ""), r.ask("GET", path, ""))
		})
	}
	t.Run("HEAD", func(t *testing.T) {
		r.simple(t, r.addr, r.ask("HEAD", "/leaf", ""), r.ask("GET", "/leaf", ""), r.ask("HEAD", "/leaf", ""))
	})
	t.Run("HTTP 1.0", func(t *testing.T) {
		x := r.ask("GET", "/leaf", "")
		x.head = bytes.Replace(x.head, []byte("HTTP/1.1"), []byte("HTTP/1.0"), 1)
		spans := r.simple(t, r.addr, x)
		for _, s := range spans {
			if v := s.Attr("network.protocol.version"); v != "1.0" {
				t.Errorf("version %q: %s", v, &s)
			}
		}
	})
	t.Run("server error", func(t *testing.T) {
		for _, s := range r.simple(t, r.addr, r.ask("GET", "/500", "")) {
			if s.Status != "ERROR" {
				t.Errorf("status %s after a 500: %s", s.Status, &s)
			}
		}
	})
	t.Run("long target", func(t *testing.T) {
		x := r.ask("GET", "/leaf", "")
		x.head = bytes.Replace(x.head, []byte(" HTTP/1.1"), []byte("&pad="+strings.Repeat("p", 3000)+" HTTP/1.1"), 1)
		r.simple(t, r.addr, x)
	})
	t.Run("names are case-insensitive", func(t *testing.T) {
		x := r.ask("POST", "/leaf", lookalike)
		x.head = bytes.Replace(x.head, []byte("Content-Length:"), []byte("cOnTENT-length:"), 1)
		r.simple(t, r.addr, x, r.ask("GET", "/leaf", ""))
	})
	for name, addr := range addresses(t, r) {
		t.Run("address "+name, func(t *testing.T) {
			r.simple(t, addr, r.ask("GET", "/leaf", ""), r.ask("POST", "/leaf", "body"))
		})
	}
	if lost := r.agent.losses(); len(lost) > 0 {
		t.Errorf("lost: %v", lost)
	}
}

func addresses(t *testing.T, r *rig) map[string]string {
	t.Helper()
	all := map[string]string{"IPv4": r.addr}
	if r.addr6 != "" {
		port := strings.TrimPrefix(r.addr6, "[::]:")
		all["IPv6"] = "[::1]:" + port
		all["mapped"] = "[::ffff:127.0.0.1]:" + port
		all["IPv4 to wildcard"] = "127.0.0.1:" + port
	} else {
		t.Logf("IPv6 not tested: %v", ipv6Loopback())
	}
	return all
}

// TestOwnTraceparent covers programs which propagate by themselves.
func TestOwnTraceparent(t *testing.T) {
	r := newRig(t)
	const value = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"
	for _, line := range []string{"traceparent: " + value, "TraceParent:" + value, "TRACEPARENT:\t " + value + " \t"} {
		t.Run(fmt.Sprintf("adopted %.14q", line), func(t *testing.T) {
			for _, s := range r.simple(t, r.addr, r.ask("GET", "/leaf", "", line), r.ask("GET", "/leaf", "")) {
				if s.Kind == truth.Client && s.Rule == "adopted" && s.Propagation != "own" {
					t.Errorf("propagation %q of a program's own header", s.Propagation)
				}
			}
		})
	}
	t.Run("unsampled", func(t *testing.T) {
		x := r.ask("GET", "/leaf", "", "traceparent: "+strings.TrimSuffix(value, "1")+"0")
		got := r.client.do(t, script.Step{Connect: r.addr, Send: x.bytes(), Reads: make([]script.Read, 1)}).Got
		x.exact(t, got[0])
		after := r.ask("GET", "/leaf", "")
		r.simple(t, "", after)
		if spans := r.await(t, 0, x); len(spans) != 0 {
			t.Errorf("flags 00, yet exported: %s", &spans[0])
		}
	})
	bad := map[string][]string{
		"malformed":  {"traceparent: 00-zz"},
		"upper case": {"traceparent: " + strings.ToUpper(value)},
		"empty":      {"traceparent:"},
		"twice":      {"traceparent: " + value, "Traceparent: " + value},
	}
	for name, lines := range bad {
		t.Run(name, func(t *testing.T) {
			x := r.ask("GET", "/leaf", "", lines...)
			got := r.client.do(t, script.Step{Connect: r.addr, Send: x.bytes(), Reads: make([]script.Read, 1)}).Got
			if got := x.exact(t, got[0]); len(got) != len(lines) {
				t.Errorf("%d traceparent lines arrived of %d sent", len(got), len(lines))
			}
			spans := r.await(t, 2, x)
			if len(spans) != 2 {
				t.Fatalf("%d spans, want 2: %s", len(spans), list(spans))
			}
			for _, s := range spans {
				if s.ParentID != "" || s.Rule != "invalid" {
					t.Errorf("invalid context must make a root by rule invalid: %s", &s)
				}
			}
			if spans[0].TraceID == spans[1].TraceID {
				t.Errorf("joined by an invalid header: %s", &spans[0])
			}
		})
	}
}

// TestBrokenOff covers connections which end in the middle of an exchange.
func TestBrokenOff(t *testing.T) {
	r := newRig(t)
	for _, path := range []string{"/close", "/partial", "/reset"} {
		t.Run(path[1:], func(t *testing.T) {
			before, x := r.ask("GET", "/leaf", ""), r.ask("GET", path, "")
			r.simple(t, r.addr, before)
			res := r.client.try(t, script.Step{Send: x.bytes(), Reads: make([]script.Read, 1), Close: true})
			if res.Error == "" {
				t.Fatalf("an answer came: %+v", res)
			}
			spans := r.await(t, 2, x)
			if len(spans) != 2 {
				t.Fatalf("%d spans, want 2: %s", len(spans), list(spans))
			}
			for _, s := range spans {
				if s.Status != "ERROR" || s.Attr("error.type") == "" {
					t.Errorf("status %s, error.type %q: %s", s.Status, s.Attr("error.type"), &s)
				}
			}
		})
	}
	t.Run("client gives up", func(t *testing.T) {
		x := r.ask("POST", "/leaf", strings.Repeat("b", 1000))
		r.client.do(t, script.Step{Connect: r.addr, Send: x.bytes()[:len(x.head)+10], Close: true})
		spans := r.await(t, 2, x)
		if len(spans) != 2 {
			t.Fatalf("%d spans, want 2: %s", len(spans), list(spans))
		}
		for _, s := range spans {
			if s.Status != "ERROR" {
				t.Errorf("status %s: %s", s.Status, &s)
			}
		}
	})
}

// TestHandsOff covers connections which are not HTTP, or no longer: every byte
// must come back from the echo as it was sent.
func TestHandsOff(t *testing.T) {
	r := newRig(t)
	random := make([]byte, 3000)
	rng := rand.New(rand.NewPCG(7, 7))
	for i := range random {
		random[i] = byte(rng.Uint32())
	}
	echo := func(t *testing.T, connect string, sends ...string) {
		t.Helper()
		for i, s := range sends {
			step := script.Step{Send: []byte(s), Reads: []script.Read{{Raw: len(s)}}}
			if i == 0 {
				step.Connect = connect
			}
			if got := r.client.do(t, step).Got[0].Body; string(got) != s {
				t.Fatalf("sent %q, came back %q", s, got)
			}
		}
	}
	t.Run("upgrade", func(t *testing.T) {
		x := r.ask("GET", "/leaf", "", "Connection: upgrade", "Upgrade: raw")
		got := r.client.do(t, script.Step{Connect: r.addr, Send: x.bytes(), Reads: make([]script.Read, 1)}).Got
		if got[0].Status != 101 {
			t.Fatalf("status %d instead of 101", got[0].Status)
		}
		r.traced(t, []exchange{x}, got)
		echo(t, "", lookalike, string(random), lookalike, "HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n", lookalike)
	})
	firsts := map[string]string{
		"text":       "HELO weft\r\n",
		"TLS":        "\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03\n",
		"HTTP2":      "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
		"almost":     "GET / HTTPS/1.1\r\n",
		"lower case": "get /leaf http/1.1\r\n",
	}
	for name, first := range firsts {
		t.Run(name, func(t *testing.T) { echo(t, r.addr, first, lookalike, string(random), lookalike+lookalike) })
	}
	time.Sleep(patience(t, 2*time.Second))
	if left := append(r.spans, r.sink.Take()...); len(left) > 0 {
		t.Errorf("spans of what is not HTTP: %s", list(left))
	}
}
