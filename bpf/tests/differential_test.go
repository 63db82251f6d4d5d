package bpftest

import (
	"bufio"
	"bytes"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net/http"
	"net/url"
	"strings"
	"testing"

	"weft/internal/w3c"
)

// TestTraceparentAgrees compares the C parser with internal/w3c on mutated
// values: same verdict, same ids, same flags.
func TestTraceparentAgrees(t *testing.T) {
	const rounds = 20000
	random := rand.New(rand.NewPCG(1, 2))
	frames := make([]frame, rounds)
	for i := range frames {
		value := []byte("00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01")
		switch random.IntN(4) {
		case 0:
			value = append(value, "-later"...)
		case 1:
			copy(value[3:], strings.Repeat("0", 32))
		}
		for range random.IntN(3) {
			value[random.IntN(len(value))] = "0123456789abcdefABF-g `/:\x00\xff"[random.IntN(27)]
		}
		if random.IntN(8) == 0 {
			value = value[:random.IntN(len(value)+1)]
		}
		frames[i] = frame{data: value}
	}
	verdicts := map[error]string{
		w3c.ErrLength: "length", w3c.ErrForm: "form", w3c.ErrVersion: "version",
		w3c.ErrTraceID: "trace-id", w3c.ErrSpanID: "span-id",
	}
	seen := map[string]int{}
	for i, got := range ask(t, "parse", frames) {
		parsed, err := w3c.Parse(string(frames[i].data))
		want := fmt.Sprintf("ok %02x %s", parsed.Version, parsed)
		for sentinel, name := range verdicts {
			if errors.Is(err, sentinel) {
				want = name
			}
		}
		if got != want {
			t.Fatalf("%q: C says %q, Go says %q", frames[i].data, got, want)
		}
		seen[strings.Fields(got)[0]]++
	}
	for _, verdict := range []string{"ok", "length", "form", "trace-id"} {
		if seen[verdict] < rounds/100 {
			t.Errorf("verdict %s seen %d times only: %v", verdict, seen[verdict], seen)
		}
	}
}

// TestEveryByte puts each of the 256 bytes at each of 16 places into each part
// of a head, so that it is met both within eight bytes taken at once and alone,
// and compares with the grammar of RFC 9110 and 9112 as weft narrows it.
func TestEveryByte(t *testing.T) {
	const tokens = "!#$%&'*+-.^_`|~0123456789abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ"
	printable := func(c byte) bool { return c > 0x20 && c != 0x7f }
	text := func(c byte) bool { return printable(c) || c == ' ' || c == '\t' }
	parts := []struct {
		name          string
		request       bool
		before, after string
		fill          byte
		allowed       func(byte) bool
		// ends are bytes that end the part: the head may go on or not.
		ends string
	}{
		{"method", true, "", " / HTTP/1.1\r\n\r\n", 'M',
			func(c byte) bool { return c >= 'A' && c <= 'Z' || c == '-' || c == '_' }, " "},
		{"target", true, "GET /", " HTTP/1.1\r\n\r\n", 't', printable, " "},
		{"name", true, "GET / HTTP/1.1\r\n", ": v\r\n\r\n", 'n',
			func(c byte) bool { return strings.IndexByte(tokens, c) >= 0 }, ":"},
		{"value", true, "GET / HTTP/1.1\r\nn:", "\r\n\r\n", 'v', text, ""},
		{"host", true, "GET / HTTP/1.1\r\nhost:", "\r\n\r\n", 'h', text, ""},
		{"traceparent", true, "GET / HTTP/1.1\r\ntraceparent:", "\r\n\r\n", 't', text, ""},
		{"phrase", false, "HTTP/1.1 204 ", "\r\n\r\n", 'p', text, ""},
		{"extension", true, "PUT / HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n0;", "\r\n\r\n", 'e', text, ""},
	}
	for _, part := range parts {
		t.Run(part.name, func(t *testing.T) {
			var frames []frame
			for c := range 256 {
				for at := range 16 {
					middle := bytes.Repeat([]byte{part.fill}, 16)
					middle[at] = byte(c)
					frames = append(frames, frame{data: []byte(part.before + string(middle) + part.after), request: part.request})
				}
			}
			for i, got := range ask(t, "stream", frames) {
				c := byte(i / 16)
				if strings.IndexByte(part.ends, c) >= 0 {
					continue
				}
				want := part.allowed(c)
				if taken := !strings.Contains(got, "raw "); taken != want {
					t.Errorf("byte %#02x at %d: taken is %v, want %v\n%s", c, i%16, taken, want, got)
				}
			}
		})
	}
}

// message makes one HTTP/1 message; most are well formed.
func message(random *rand.Rand, request bool) []byte {
	pick := func(choices ...string) string { return choices[random.IntN(len(choices))] }
	var b bytes.Buffer
	minor := pick("1", "1", "1", "0")
	if request {
		fmt.Fprintf(&b, "%s %s HTTP/1.%s\r\n", pick("GET", "POST", "PUT", "DELETE", "X-PURGE"),
			pick("/", "/a?b=c", "/"+strings.Repeat("long/", random.IntN(80)), "http://h.example/x", "/\xc3\xa9"), minor)
	} else {
		fmt.Fprintf(&b, "HTTP/1.%s %s\r\n", minor,
			pick("200 OK", "200 OK", "200 OK", "404 Not Found", "204 No Content", "304 x", "100 Continue", "500 ", "200"))
	}
	for range random.IntN(6) {
		fmt.Fprintf(&b, "%s:%s%s%s\r\n", pick("Accept", "X-Long-Name-That-Goes-On-And-On", "cookie", "a_b", "Upgrade"),
			pick("", " ", " \t"), pick("v", "", "a b\tc", "\xc3\xa9", strings.Repeat("value ", random.IntN(60))), pick("", " "))
	}
	if random.IntN(2) == 0 {
		fmt.Fprintf(&b, "%s: %s\r\n", pick("Host", "host", "HOST"), pick("a.example", "b:80", ""))
	}
	if random.IntN(3) == 0 {
		fmt.Fprintf(&b, "traceparent: %s\r\n", pick("x", "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"))
	}
	body := bytes.Repeat([]byte("GET / HTTP/1.1\r\n\r\n"), random.IntN(40))
	body = body[:len(body)-len(body)%3]
	framing := random.IntN(8)
	if framing < 3 || framing == 7 {
		fmt.Fprintf(&b, "%s:%s%d\r\n", pick("Content-Length", "content-length"), pick(" ", "", " 0"), len(body))
	}
	if framing >= 3 && framing < 6 || framing == 7 {
		fmt.Fprintf(&b, "Transfer-Encoding: %s\r\n", pick("chunked", "Chunked", " chunked ", "chunked"))
	}
	b.WriteString("\r\n")
	switch {
	case framing < 3:
		b.Write(body)
	case framing < 6:
		for len(body) > 0 {
			n := 1 + random.IntN(len(body))
			fmt.Fprintf(&b, "%s%s\r\n%s\r\n", fmt.Sprintf(pick("%x", "%X", "0%x"), n), pick("", "", ";ext", ";a=b"), body[:n])
			body = body[n:]
		}
		b.WriteString("0\r\n" + pick("", "", "X-Sum: 1\r\n") + "\r\n")
	}
	return b.Bytes()
}

// mutate breaks a stream in a place or two.
func mutate(random *rand.Rand, data []byte) []byte {
	bytesOfInterest := "\r\n \t:;,0aZ\x00\x7f\x80-"
	for range 1 + random.IntN(2) {
		at := random.IntN(len(data))
		c := bytesOfInterest[random.IntN(len(bytesOfInterest))]
		switch random.IntN(3) {
		case 0:
			data[at] = c
		case 1:
			data = append(data[:at:at], append([]byte{c}, data[at:]...)...)
		case 2:
			data = append(data[:at:at], data[at+1:]...)
		}
		if len(data) == 0 {
			return []byte("x")
		}
	}
	return data
}

// TestHTTP1Agrees feeds streams of messages, half of them damaged, to the C
// parser and to net/http. The C parser may refuse more (it guards edits of
// other programs' bytes), but what it accepts net/http must read the same way:
// fields, framing, body length, and where the message ends.
func TestHTTP1Agrees(t *testing.T) {
	const rounds = 12000
	random := rand.New(rand.NewPCG(3, 4))
	frames := make([]frame, rounds)
	for i := range frames {
		request := random.IntN(2) == 0
		var data []byte
		for range 1 + random.IntN(3) {
			data = append(data, message(random, request)...)
		}
		if random.IntN(2) == 0 {
			data = mutate(random, data)
		}
		frames[i] = frame{data: data, request: request, noBody: !request && random.IntN(8) == 0}
	}
	messages, refused := 0, 0
	for i, got := range ask(t, "stream", frames) {
		n, err := compare(frames[i], got)
		if err != nil {
			t.Fatalf("stream %d: %v\nrequest=%v noBody=%v\n%q\nC:\n%s", i, err, frames[i].request, frames[i].noBody, frames[i].data, got)
		}
		messages += n
		if strings.Contains(got, "raw ") {
			refused++
		}
	}
	t.Logf("%d messages agreed in %d streams, %d streams refused by C", messages, rounds, refused)
	if messages < rounds || refused < rounds/10 || refused > rounds*3/4 {
		t.Errorf("the mix tests too little")
	}
}

// compare reads the stream with net/http along C's transcript and returns the
// number of messages both saw whole.
func compare(f frame, transcript string) (int, error) {
	source := bytes.NewReader(f.data)
	reader := bufio.NewReaderSize(source, 32768)
	lines := strings.Split(strings.TrimSuffix(transcript, "\n"), "\n")
	whole := 0
	// What C accepts and net/http does not do at all.
	beyond := func(err error) bool {
		var bad *url.Error // C does not look into targets
		return errors.As(err, &bad) || strings.Contains(err.Error(), "invalid URI") ||
			strings.Contains(err.Error(), "unsupported transfer encoding")
	}
	for i := 0; i < len(lines); i++ {
		if !strings.HasPrefix(lines[i], "head ") {
			break
		}
		head := lines[i]
		var body io.ReadCloser
		var want string
		if f.request {
			// RFC 9112 section 2.2 lets a server skip empty lines; net/http
			// does not.
			for next, _ := reader.Peek(2); string(next) == "\r\n"; next, _ = reader.Peek(2) {
				if _, err := reader.Discard(2); err != nil {
					break
				}
			}
			r, err := http.ReadRequest(reader)
			if err != nil {
				if beyond(err) {
					return whole, nil
				}
				return whole, fmt.Errorf("net/http refuses message %d: %w", whole, err)
			}
			body = r.Body
			target := r.RequestURI
			if len(target) > 256 {
				target = target[:256]
			}
			want = fmt.Sprintf("head method=%s target=%s/%d ", quote(r.Method), quote(target), len(r.RequestURI))
			if r.URL.Host == "" && !strings.Contains(head, " host="+quote(r.Host)+" ") {
				return whole, fmt.Errorf("host is %q", r.Host)
			}
			if n := len(r.Header.Values("Traceparent")); !strings.Contains(head, fmt.Sprintf(" traceparent=%d/", n)) {
				return whole, fmt.Errorf("%d traceparents", n)
			}
			if !strings.Contains(head, fmt.Sprintf(" minor=%d", r.ProtoMinor)) {
				return whole, fmt.Errorf("minor version %d", r.ProtoMinor)
			}
			if chunked := len(r.TransferEncoding) > 0; chunked != strings.Contains(head, " chunked ") {
				return whole, fmt.Errorf("chunked is %v", chunked)
			}
		} else {
			method := http.MethodGet
			if f.noBody {
				method = http.MethodHead
			}
			r, err := http.ReadResponse(reader, &http.Request{Method: method})
			if err != nil {
				if beyond(err) {
					return whole, nil
				}
				return whole, fmt.Errorf("net/http refuses message %d: %w", whole, err)
			}
			body = r.Body
			want = fmt.Sprintf("head status=%d minor=%d ", r.StatusCode, r.ProtoMinor)
		}
		if !strings.HasPrefix(head, want) {
			return whole, fmt.Errorf("head %q, want %q", head, want)
		}
		n, err := io.Copy(io.Discard, body)
		if i+1 == len(lines) {
			return whole, fmt.Errorf("transcript ends with a head")
		}
		i++
		offset := len(f.data) - source.Len() - reader.Buffered()
		switch kind := strings.Fields(lines[i])[0]; kind {
		case "end", "close":
			if err != nil {
				return whole, fmt.Errorf("net/http refuses the body of message %d: %w", whole, err)
			}
			if want := fmt.Sprintf("%s offset=%d body=%d", kind, offset, n); lines[i] != want {
				return whole, fmt.Errorf("%q, want %q", lines[i], want)
			}
			whole++
		case "cut":
			if err == nil && n > 0 {
				return whole, fmt.Errorf("net/http read a whole body of %d, C says %q", n, lines[i])
			}
			return whole, nil
		case "raw":
			return whole, nil
		}
	}
	return whole, nil
}

// quote writes bytes as the transcript does.
func quote(s string) string {
	var b strings.Builder
	b.WriteByte('"')
	for _, c := range []byte(s) {
		if c < 0x20 || c >= 0x7f || c == '"' || c == '\\' {
			fmt.Fprintf(&b, `\x%02x`, c)
		} else {
			b.WriteByte(c)
		}
	}
	b.WriteByte('"')
	return b.String()
}
