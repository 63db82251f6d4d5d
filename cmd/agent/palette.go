package main

import (
	"io"
	"os"

	"golang.org/x/term"
)

// palette colours what commands print; the zero palette does not.
type palette struct{ colour bool }

// paint colours on a terminal, unless NO_COLOR is set or the terminal is dumb.
func paint(w io.Writer) palette {
	f, ok := w.(*os.File)
	return palette{ok && term.IsTerminal(int(f.Fd())) && os.Getenv("NO_COLOR") == "" && os.Getenv("TERM") != "dumb"}
}

func (p palette) in(code, s string) string {
	if !p.colour {
		return s
	}
	return "\x1b[" + code + "m" + s + "\x1b[0m"
}

func (p palette) dim(s string) string { return p.in("2", s) }

// mark is one character for a state.
func (p palette) mark(s state) string {
	switch s {
	case stateOK:
		return p.in("32", "✓")
	case stateDegraded:
		return p.in("33", "~")
	case stateMissing:
		return p.in("31", "✗")
	}
	return p.in("2", "?")
}
