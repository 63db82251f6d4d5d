// Package w3ctest is what the tests of internal/w3c and of bpf/lib share: the vector
// files, and what a case comes to, as text that the C programs of bpf/tests write in
// the same way.
package w3ctest

import (
	"fmt"
	"os"
	"strconv"
	"strings"
)

// Vector is one case of tracestate.txt or baggage.txt. The files explain themselves.
type Vector struct {
	Name  string
	Line  int
	Lines []string // header lines
	Want  string   // lines of the transcript

	Threshold uint64 // tracestate: what is set

	Only, Without []string // baggage: keys; nil Only is all
	Key, Raw      string   // baggage: a member to append
}

// Read reads such a file.
func Read(path string) ([]Vector, error) {
	file, err := os.ReadFile(path)
	if err != nil {
		return nil, err
	}
	var all []Vector
	var v *Vector
	line := 0
	for text := range strings.SplitSeq(string(file), "\n") {
		line++
		if text == "" {
			v = nil
			continue
		}
		if text[0] == '#' {
			continue
		}
		if name, ok := strings.CutPrefix(text, "== "); ok {
			all = append(all, Vector{Name: name, Line: line})
			v = &all[len(all)-1]
			continue
		}
		if v == nil {
			return nil, fmt.Errorf("%s:%d: outside of a vector", path, line)
		}
		if err := v.read(text); err != nil {
			return nil, fmt.Errorf("%s:%d: %w", path, line, err)
		}
	}
	return all, nil
}

func (v *Vector) read(text string) (err error) {
	option, rest, _ := strings.Cut(text, " ")
	switch option {
	case "|":
		rest, err = Unescape(rest)
		v.Lines = append(v.Lines, rest)
	case "threshold":
		v.Threshold, err = strconv.ParseUint(rest, 16, 56)
	case "only":
		v.Only = strings.Fields(rest)
	case "without":
		v.Without = strings.Fields(rest)
	case "append":
		v.Key, rest, _ = strings.Cut(rest, " ")
		v.Raw, err = Unescape(rest)
	default:
		text, err = repeat(text)
		v.Want += text + "\n"
	}
	return err
}

// repeat resolves \*COUNT*TEXT* alone: in a transcript \xNN stands for itself.
func repeat(s string) (string, error) {
	return unescape(s, false)
}

// Unescape resolves \t, \\, \xNN and \*COUNT*TEXT*.
func Unescape(s string) (string, error) {
	return unescape(s, true)
}

func unescape(s string, all bool) (string, error) {
	var out strings.Builder
	for s != "" {
		before, after, ok := strings.Cut(s, `\`)
		out.WriteString(before)
		if !ok {
			break
		}
		switch {
		case !all && !strings.HasPrefix(after, "*"):
			out.WriteByte('\\')
			s = after
		case strings.HasPrefix(after, "t"):
			out.WriteByte('\t')
			s = after[1:]
		case strings.HasPrefix(after, `\`):
			out.WriteByte('\\')
			s = after[1:]
		case len(after) >= 3 && after[0] == 'x':
			n, err := strconv.ParseUint(after[1:3], 16, 8)
			if err != nil {
				return "", fmt.Errorf("bad escape in %q", s)
			}
			out.WriteByte(byte(n))
			s = after[3:]
		case strings.HasPrefix(after, "*"):
			parts := strings.SplitN(after[1:], "*", 3)
			n, err := strconv.Atoi(parts[0])
			if err != nil || len(parts) < 3 {
				return "", fmt.Errorf("bad escape in %q", s)
			}
			out.WriteString(strings.Repeat(parts[1], n))
			s = parts[2]
		default:
			return "", fmt.Errorf("bad escape in %q", s)
		}
	}
	return out.String(), nil
}

// Quote writes bytes as a transcript does.
func Quote(s string) string {
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
