package main

import (
	"bytes"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// TestUnreadPipe: a log that nobody reads must not stop what logs.
func TestUnreadPipe(t *testing.T) {
	r, w, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	s := (&streams{err: w}).skipUnread()
	line := []byte(strings.Repeat("x", 999) + "\n")
	const lines = 500 // a pipe holds 64
	ended := make(chan error, 1)
	go func() {
		for range lines {
			if n, err := s.err.Write(line); n != len(line) || err != nil {
				ended <- fmt.Errorf("wrote %d: %w", n, err)
				return
			}
		}
		ended <- nil
	}()
	select {
	case err := <-ended:
		if err != nil {
			t.Fatal(err)
		}
	case <-time.After(30 * time.Second):
		t.Fatal("a line waits for a reader")
	}

	// Somebody reads again: what was kept, how much was not, and what comes now.
	var got bytes.Buffer

	buf := make([]byte, 1<<20)
	n, err := r.Read(buf)
	if err != nil {
		t.Fatal(err)
	}
	got.Write(buf[:n])
	kept := bytes.Count(buf[:n], line)
	if kept == 0 || kept == lines {
		t.Fatalf("%d lines of %d were kept", kept, lines)
	}
	if _, err := s.err.Write([]byte("after\n")); err != nil {
		t.Fatal(err)
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	rest, err := io.ReadAll(r)
	if err != nil {
		t.Fatal(err)
	}
	if want := fmt.Sprintf("weft: %d lines of log were dropped, for nobody read them\nafter\n", lines-kept); string(rest) != want {
		t.Errorf("got %q, want %q", rest, want)
	}
	if _, err := s.err.Write(line); err == nil {
		t.Error("a write to a closed file was said to succeed")
	}
}

func TestUnreadFile(t *testing.T) {
	f, err := os.Create(filepath.Join(t.TempDir(), "log"))
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	s := (&streams{err: f}).skipUnread()
	for i := range 1000 {
		if _, err := fmt.Fprintf(s.err, "line %d\n", i); err != nil {
			t.Fatal(err)
		}
	}
	text, err := os.ReadFile(f.Name())
	if err != nil || strings.Count(string(text), "\n") != 1000 {
		t.Errorf("%d lines of 1000: %v", strings.Count(string(text), "\n"), err)
	}
	var buffer bytes.Buffer // no file: left as it is
	if s := (&streams{err: &buffer}).skipUnread(); s.err != &buffer {
		t.Error("what is no file was wrapped")
	}
}
