package loader

import (
	"bytes"
	"errors"
	"io"
	"testing"

	"golang.org/x/net/http2"
)

// http2Greeted: a server may send its SETTINGS before it has read the preface, and the
// client may read them before it sends that. What looks like such a server and is none
// is left alone.
func http2Greeted(t *testing.T, r *http2Rig) {
	d := &departure{write: HeaderTraceparent, traceID: [16]byte{1}, spanID: [8]byte{2}}
	var settings bytes.Buffer
	if err := http2.NewFramer(&settings, nil).WriteSettings(http2.Setting{ID: http2.SettingMaxConcurrentStreams, Val: 100}); err != nil {
		t.Fatal(err)
	}
	for name, pieces := range map[string][]int{"in one piece": {settings.Len()}, "header first": {9, settings.Len() - 9}} {
		t.Run(name, func(t *testing.T) {
			r.reset()
			var got received
			c, done := r.greeted(settings.Bytes(), strict(&got))
			for _, n := range pieces {
				if _, err := io.ReadFull(c.TCPConn, make([]byte, n)); err != nil {
					t.Fatal(err)
				}
			}
			c.send(c.out.Len())
			c.sk, c.tuple = r.socketOf(c)
			stream := c.open(d)
			if err := errors.Join(c.CloseWrite(), <-done); err != nil {
				t.Fatal(err)
			}
			if followed := r.since("http2_followed"); !got.has(stream) || followed != 1 {
				t.Errorf("written: %v; counted %d connections followed, want 1; all: %v", got.has(stream), followed, r.moved())
			}
		})
	}
	t.Run("no HTTP/2 behind it", func(t *testing.T) {
		r.reset()
		var came bytes.Buffer
		c, done := r.greeted(settings.Bytes(), func(from io.Reader) error {
			_, err := io.Copy(&came, from)
			return err
		})
		if _, err := io.ReadFull(c.TCPConn, make([]byte, settings.Len())); err != nil {
			t.Fatal(err)
		}
		const sent = "HELO h.example\r\n"
		if _, err := c.Write([]byte(sent)); err != nil {
			t.Fatal(err)
		}
		if err := errors.Join(c.CloseWrite(), <-done); err != nil {
			t.Fatal(err)
		}
		if raw := r.since("handsoff_raw"); came.String() != sent || raw == 0 {
			t.Errorf("%q came, and %d connections were left alone", came.String(), raw)
		}
	})
}
