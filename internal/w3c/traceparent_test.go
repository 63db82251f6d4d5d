package w3c

import (
	"bufio"
	"errors"
	"fmt"
	"os"
	"strconv"
	"strings"
	"testing"
)

const vectorFile = "../../bpf/tests/vectors/traceparent.txt"

var byName = map[string]error{
	"length":   ErrLength,
	"form":     ErrForm,
	"version":  ErrVersion,
	"trace-id": ErrTraceID,
	"span-id":  ErrSpanID,
}

type vector struct {
	line        int
	value, want string
}

// vectors reads the file that the host test of bpf/lib reads too.
func vectors(t testing.TB) []vector {
	t.Helper()
	f, err := os.Open(vectorFile)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	var all []vector
	scanner := bufio.NewScanner(f)
	for line := 1; scanner.Scan(); line++ {
		text := scanner.Text()
		if text == "" || text[0] == '#' {
			continue
		}
		value, want, ok := strings.Cut(text, "\t")
		if !ok {
			t.Fatalf("%s:%d: no tab", vectorFile, line)
		}
		all = append(all, vector{line, unescape(t, value), want})
	}
	if err := scanner.Err(); err != nil {
		t.Fatal(err)
	}
	if len(all) < 50 {
		t.Fatalf("%s: %d vectors, expected at least 50", vectorFile, len(all))
	}
	return all
}

// unescape resolves \xNN and \*COUNT*TEXT*.
func unescape(t testing.TB, s string) string {
	t.Helper()
	var out strings.Builder
	for s != "" {
		before, after, ok := strings.Cut(s, `\`)
		out.WriteString(before)
		if !ok {
			break
		}
		switch {
		case len(after) >= 3 && after[0] == 'x':
			n, err := strconv.ParseUint(after[1:3], 16, 8)
			if err != nil {
				t.Fatalf("bad escape in %q", s)
			}
			out.WriteByte(byte(n))
			s = after[3:]
		case strings.HasPrefix(after, "*"):
			parts := strings.SplitN(after[1:], "*", 3)
			n, err := strconv.Atoi(parts[0])
			if err != nil || len(parts) < 3 {
				t.Fatalf("bad escape in %q", s)
			}
			out.WriteString(strings.Repeat(parts[1], n))
			s = parts[2]
		default:
			t.Fatalf("bad escape in %q", s)
		}
	}
	return out.String()
}

func TestParseVectors(t *testing.T) {
	for _, v := range vectors(t) {
		got, err := Parse(v.value)
		if want, broken := byName[v.want]; broken {
			if !errors.Is(err, want) {
				t.Errorf("line %d: %q: error %v, want %v", v.line, v.value, err, want)
			}
			if got != (TraceParent{}) {
				t.Errorf("line %d: %q: a value beside the error: %+v", v.line, v.value, got)
			}
			continue
		}
		if err != nil {
			t.Errorf("line %d: %v", v.line, err)
			continue
		}
		if s := fmt.Sprintf("ok %02x %s", got.Version, got); s != v.want {
			t.Errorf("line %d: %q: got %q, want %q", v.line, v.value, s, v.want)
		}
	}
}

func TestParseFields(t *testing.T) {
	const value = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"
	got, err := Parse(value)
	if err != nil {
		t.Fatal(err)
	}
	want := TraceParent{
		TraceID: [16]byte{0x4b, 0xf9, 0x2f, 0x35, 0x77, 0xb3, 0x4d, 0xa6, 0xa3, 0xce, 0x92, 0x9d, 0x0e, 0x0e, 0x47, 0x36},
		SpanID:  [8]byte{0x00, 0xf0, 0x67, 0xaa, 0x0b, 0xa9, 0x02, 0xb7},
		Flags:   FlagSampled,
	}
	if got != want {
		t.Errorf("got %+v, want %+v", got, want)
	}
	if !got.Sampled() || (TraceParent{Flags: FlagRandom}).Sampled() {
		t.Error("Sampled does not follow the flag")
	}
}

func TestFromFields(t *testing.T) {
	const value = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"
	tests := []struct {
		name   string
		values []string
		want   error
	}{
		{"none", nil, ErrMissing},
		{"one", []string{value}, nil},
		{"blanks around", []string{" \t" + value + "\t "}, nil},
		{"line end is no white space", []string{value + "\n"}, ErrLength},
		{"two different", []string{value, strings.Replace(value, "4bf", "5bf", 1)}, ErrDuplicate},
		{"two equal", []string{value, value}, ErrDuplicate},
		{"empty", []string{""}, ErrLength},
		{"blank", []string{" "}, ErrLength},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			got, err := FromFields(test.values)
			if !errors.Is(err, test.want) || (test.want == nil) != (err == nil) {
				t.Fatalf("error %v, want %v", err, test.want)
			}
			if err == nil && got.String() != value {
				t.Errorf("got %s", got)
			}
		})
	}
}

func TestErrorIsShort(t *testing.T) {
	_, err := Parse(strings.Repeat("x", 10000))
	if err == nil || len(err.Error()) > 250 {
		t.Errorf("error of %d bytes", len(err.Error()))
	}
}

func FuzzParse(f *testing.F) {
	for _, v := range vectors(f) {
		f.Add(v.value)
	}
	f.Fuzz(func(t *testing.T, value string) {
		parsed, err := Parse(value)
		if err != nil {
			return
		}
		again, err := Parse(parsed.String())
		if err != nil {
			t.Fatalf("%q: own output refused: %v", value, err)
		}
		parsed.Version = 0
		if again != parsed {
			t.Fatalf("%q: %+v became %+v", value, parsed, again)
		}
		if value[2:53] != again.String()[2:53] {
			t.Fatalf("%q: ids changed to %s", value, again)
		}
	})
}
