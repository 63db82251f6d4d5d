package loader

import (
	"errors"
	"fmt"
	"io"
	"testing"

	"golang.org/x/net/http2"
	"golang.org/x/net/http2/hpack"
)

// BenchmarkHTTP2Send is one small request in one send on loopback, with its reader on
// the same machine: outside the sockhash, inside with nothing to be written, and with
// a traceparent to be written.
func BenchmarkHTTP2Send(b *testing.B) {
	for _, way := range []string{"outside", "followed", "written"} {
		b.Run(way, func(b *testing.B) {
			r := newHTTP2Rig(b, anywhere())
			c, done := r.connect(func(server io.Reader) error {
				_, err := io.Copy(io.Discard, server)
				return err
			})
			if way == "outside" {
				for _, cookie := range r.l.inject.keys() {
					c.must(r.l.inject.sockets.Delete(cookie))
				}
			}
			c.send(c.out.Len())
			d := &departure{write: HeaderTraceparent, traceID: [16]byte{1}, spanID: [8]byte{2}}
			if way != "outside" {
				c.sk, c.tuple = r.socketOf(c)
				c.open(d) // or it would be handed off
			}
			const batch = 1000
			requests := make([][]byte, batch)
			b.StopTimer()
			b.ResetTimer()
			for n := 0; n < b.N; {
				for i := range requests {
					c.last += 2
					if way == "written" {
						c.must(r.leave(c.sk, c.tuple, c.last-1, d))
					}
					c.must(c.framer.WriteHeaders(http2.HeadersFrameParam{StreamID: c.last - 1, EndStream: true, EndHeaders: true,
						BlockFragment: c.encode([]hpack.HeaderField{{Name: ":method", Value: "GET"}, {Name: ":scheme", Value: "http"},
							{Name: ":path", Value: fmt.Sprintf("/items/%d", i)}, {Name: "user-agent", Value: "bench"}})}))
					requests[i] = append(requests[i][:0], c.out.Next(c.out.Len())...)
				}
				b.StartTimer()
				for i := 0; i < batch && n < b.N; i, n = i+1, n+1 {
					if _, err := c.Write(requests[i]); err != nil {
						b.Fatal(err)
					}
				}
				b.StopTimer()
				if way == "written" {
					for stream := c.last + 1 - 2*batch; stream < c.last; stream += 2 {
						r.l.coll.Maps["conns"].Delete(source(c.sk, stream, false)) //nolint:errcheck // made above
					}
				}
			}
			if err := errors.Join(c.CloseWrite(), <-done); err != nil {
				b.Fatal(err)
			}
			if n := int(r.since("injected_socket")); way == "written" && n < b.N*9/10 {
				b.Errorf("%d of %d written", n, b.N)
			}
		})
	}
}
