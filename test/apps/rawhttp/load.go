package main

import (
	"bufio"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"io"
	"math/rand/v2"
	"net/http"
	"os"
	"runtime"
	"sync"
	"time"

	"weft/test/apps/blocking"
	"weft/test/apps/rawhttp/script"
	"weft/test/e2e/truth"
)

// load sends random requests on so many kept connections for so long, compares
// what the server says it received, and writes one script.Sample a request.
// Each connection rests for pause between two requests. The same seed gives the
// same bytes.
func load(out io.Writer, address string, connections int, seed uint64, duration, pause time.Duration) error {
	var mu sync.Mutex
	enc := json.NewEncoder(out)
	emit := func(s script.Sample) error {
		mu.Lock()
		defer mu.Unlock()
		return enc.Encode(s)
	}
	end := time.Now().Add(duration)
	errs := make(chan error)
	for i := range connections {
		go func() {
			runtime.LockOSThread()
			err := oneConnection(address, i, connections, seed, end, pause, emit)
			if err != nil { // now: the others may go on for hours
				fmt.Fprintln(os.Stderr, "rawhttp:", err)
			}
			errs <- err
		}()
	}
	var first error
	for range connections {
		if err := <-errs; err != nil && first == nil {
			first = err
		}
	}
	return first
}

func oneConnection(address string, index, connections int, seed uint64, end time.Time, pause time.Duration, emit func(script.Sample) error) error {
	rng := rand.New(rand.NewPCG(seed, uint64(index)))
	c, err := blocking.Dial(address)
	if err != nil {
		return err
	}
	defer c.Close()
	// The first half blocks in its calls, the second half in poll, as event
	// loops do.
	if index >= connections/2 {
		if err := c.NonBlocking(); err != nil {
			return err
		}
	}
	// Every other connection keeps Nagle's algorithm: a split header line
	// would stall there.
	if index%2 == 1 {
		if err := c.NoDelay(true); err != nil {
			return err
		}
	}
	r := bufio.NewReader(c)
	for n := 0; time.Now().Before(end); n++ {
		if pause > 0 && n > 0 {
			time.Sleep(pause)
		}
		head, body := randomRequest(rng, fmt.Sprintf("load-%d-%d", index, n))
		start := time.Now()
		if err := sendRandomly(c, rng, index%2 == 1, head, body); err != nil {
			return fmt.Errorf("connection %d, request %d: %w", index, n, err)
		}
		got, err := readResponse(r, http.MethodGet)
		if err != nil {
			return fmt.Errorf("connection %d, request %d: %w", index, n, err)
		}
		s := script.Sample{Conn: index, Head: len(head), Body: len(body), At: start.UnixNano(), Micros: time.Since(start).Microseconds()}
		s.Bad = compare(got, head, body)
		if got.Report != nil {
			s.Injected = len(got.Report.Traceparents)
		}
		if err := emit(s); err != nil {
			return fmt.Errorf("write sample: %w", err)
		}
	}
	return nil
}

func compare(got script.Got, head, body []byte) string {
	sum := func(b []byte) string {
		s := sha256.Sum256(b)
		return hex.EncodeToString(s[:])
	}
	switch rep := got.Report; {
	case got.Status != http.StatusOK || rep == nil:
		return fmt.Sprintf("status %d without a report", got.Status)
	case rep.StrippedSum != sum(head):
		return "header block differs beyond one traceparent line"
	case len(rep.Traceparents) == 0 && rep.HeadSum != sum(head):
		return "header block differs"
	case len(rep.Traceparents) > 1:
		return "several traceparent lines"
	case rep.BodyLen != len(body) || rep.BodySum != sum(body):
		return fmt.Sprintf("body differs: %d bytes of %d", rep.BodyLen, len(body))
	case string(got.Body) != "ok":
		return fmt.Sprintf("response body %q", got.Body)
	case len(rep.Traceparents) == 1:
		if _, err := truth.ParseTraceparent(rep.Traceparents[0]); err != nil {
			return err.Error()
		}
	}
	return ""
}

// randomRequest makes a header block of 60 B to 15 KiB and a body of none to
// 200 KiB, by Content-Length or in chunks, random bytes with request lines in
// between.
func randomRequest(rng *rand.Rand, id string) (head, body []byte) {
	head = fmt.Appendf(nil, "POST /leaf?id=%s HTTP/1.1\r\nHost: test\r\n", id)
	lines := rng.IntN(8)
	if rng.IntN(10) == 0 {
		lines = 200
	}
	for i := range lines {
		value := make([]byte, rng.IntN(60))
		for j := range value {
			value[j] = byte('!' + rng.IntN('~'-'!'))
		}
		head = fmt.Appendf(head, "X-%d: %s\r\n", i, value)
	}
	size := rng.IntN(2000)
	switch rng.IntN(10) {
	case 0:
		size = rng.IntN(200 << 10)
	case 1, 2, 3:
		size = 0
	}
	data := make([]byte, size)
	for i := range data {
		data[i] = byte(rng.Uint32())
	}
	if size > 200 {
		copy(data[rng.IntN(100):], smuggle)
	}
	if rng.IntN(3) > 0 {
		head = fmt.Appendf(head, "Content-Length: %d\r\n\r\n", len(data))
		return head, data
	}
	head = append(head, "Transfer-Encoding: chunked\r\n\r\n"...)
	for len(data) > 0 {
		n := 1 + rng.IntN(len(data))
		body = fmt.Appendf(body, "%x\r\n", n)
		body = append(append(body, data[:n]...), "\r\n"...)
		data = data[n:]
	}
	return head, append(body, "0\r\n\r\n"...)
}

// sendRandomly sends head and body in up to six random pieces by random calls.
// With Nagle on it is one piece, so that a stall can only come from the kernel
// side of the injection.
func sendRandomly(c *blocking.Conn, rng *rand.Rand, split bool, head, body []byte) error {
	all := append(append([]byte(nil), head...), body...)
	hows := []string{script.Write, script.Writev, script.Sendmsg, script.Sendto, script.Sendfile}
	for split && len(all) > 1 && rng.IntN(6) > 0 {
		n := 1 + rng.IntN(len(all)-1)
		if err := sendBy(c, hows[rng.IntN(len(hows))], all[:n]); err != nil {
			return err
		}
		all = all[n:]
	}
	return sendBy(c, hows[rng.IntN(len(hows)-1)], all)
}
