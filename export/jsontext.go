package export

import (
	"fmt"
	"io"
	"unicode"
	"unicode/utf16"
	"unicode/utf8"
)

// PlainJSON writes JSON on to out with what does not print, within its strings, as
// \uNNNN: encoding/json leaves it as it is above U+001F, and terminals act upon some
// of it (U+009B begins a command, U+202E turns the text around). Each Write must hold
// whole characters, as those of a json.Encoder do.
func PlainJSON(out io.Writer) io.Writer { return plainJSON{out} }

type plainJSON struct{ out io.Writer }

func (p plainJSON) Write(b []byte) (int, error) {
	if _, err := p.out.Write(escapeJSON(b)); err != nil {
		return 0, err
	}
	return len(b), nil
}

// escapeJSON is b itself where there is nothing to escape.
func escapeJSON(b []byte) []byte {
	var out []byte // nil until something is escaped
	done := 0
	for i := 0; i < len(b); {
		if b[i] < 0x7f { // outside of strings; in them, encoding/json has done it
			i++
			continue
		}
		r, n := utf8.DecodeRune(b[i:])
		if !unicode.IsGraphic(r) {
			out = append(out, b[done:i]...)
			if high, low := utf16.EncodeRune(r); high != unicode.ReplacementChar {
				out = fmt.Appendf(out, `\u%04x\u%04x`, high, low)
			} else {
				out = fmt.Appendf(out, `\u%04x`, r)
			}
			done = i + n
		}
		i += n
	}
	if out == nil {
		return b
	}
	return append(out, b[done:]...)
}
