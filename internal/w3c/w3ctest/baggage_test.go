package w3ctest_test

import (
	"fmt"
	"hash/fnv"
	"strings"
	"testing"
	"unicode/utf8"

	"weft/internal/w3c"
	"weft/internal/w3c/w3ctest"
)

func TestBaggageVectors(t *testing.T) {
	decoded := 0
	for _, v := range readVectors(t, "baggage", 70) {
		t.Run(v.Name, func(t *testing.T) {
			members := strings.Contains(v.Want, "\nmember ")
			if members {
				decoded++
			}
			if got := v.Baggage(members); got != v.Want {
				t.Errorf("baggage.txt:%d: got\n%swant\n%s", v.Line, got, v.Want)
			}
		})
	}
	if decoded < 10 {
		t.Errorf("%d vectors say what is decoded, want at least 10", decoded)
	}
}

func TestBaggageGet(t *testing.T) {
	b := w3c.ParseBaggage(nil, "a=1%202;p,b=2", "a=3")
	if value, ok := b.Get("a"); !ok || value != "1 2" {
		t.Errorf("a is %q %v", value, ok)
	}
	if value, ok := b.Get("c"); ok {
		t.Errorf("c is %q", value)
	}
}

func TestToken(t *testing.T) {
	for key, want := range map[string]bool{"user_id": true, "!x": true, "": false, "a b": false, "a=b": false, "\u00e9": false} {
		if got := w3c.Token(key); got != want {
			t.Errorf("%q: %v", key, got)
		}
	}
}

// TestEscapeEveryByte wants each byte back, and nothing on the wire that the grammar
// does not allow.
func TestEscapeEveryByte(t *testing.T) {
	for c := range 256 {
		escaped := w3c.Escape(string([]byte{byte(c)}))
		plain := w3c.Octet(byte(c)) && c != '%'
		want := fmt.Sprintf("%%%02X", c)
		if plain {
			want = string(rune(c))
		}
		if escaped != want {
			t.Errorf("byte %#02x became %q, want %q", c, escaped, want)
		}
		if back := w3c.Unescape(escaped); c < 0x80 && back != string(rune(c)) {
			t.Errorf("byte %#02x came back as %q", c, back)
		}
	}
}

func TestBaggageKeyHash(t *testing.T) {
	for _, key := range []string{"", "a", "user_id", strings.Repeat("k", 300)} {
		reference := fnv.New64a()
		reference.Write([]byte(key))
		if got, want := w3c.BaggageKeyHash(key), reference.Sum64(); got != want {
			t.Errorf("%q: %x, want %x", key, got, want)
		}
	}
}

func FuzzBaggage(f *testing.F) {
	for _, v := range readVectors(f, "baggage", 70) {
		f.Add(strings.Join(v.Lines, "\n"), v.Raw)
	}
	f.Fuzz(func(t *testing.T, text, value string) {
		b := w3c.ParseBaggage(nil, strings.Split(text, "\n")...)
		again := w3c.ParseBaggage(nil, b.String())
		if again.String() != b.String() || again.Malformed+again.Dropped != 0 {
			t.Fatalf("%q became %q, %+v", b, again, again)
		}
		if len(b.String()) > w3c.BaggageMax || len(b.Members) > w3c.BaggageMembers {
			t.Fatalf("%d members, %d bytes", len(b.Members), len(b.String()))
		}
		for _, m := range b.Members {
			if !w3c.Token(m.Key) || !utf8.ValidString(m.Value) || !strings.HasPrefix(m.Raw, m.Key) {
				t.Fatalf("member %+v", m)
			}
		}
		escaped := w3c.ParseBaggage(nil, "k="+w3c.Escape(value))
		if len(value) > 2000 {
			return
		}
		if len(escaped.Members) != 1 || escaped.Members[0].Value != strings.ToValidUTF8(value, "\ufffd") && utf8.ValidString(value) {
			t.Fatalf("%q escaped and read is %+v", value, escaped)
		}
	})
}

// TestBaggageFilter wants keys asked for as they stand, and only whole ones.
func TestBaggageFilter(t *testing.T) {
	var seen []string
	w3c.ParseBaggage(func(key string) bool { seen = append(seen, key); return true }, "a%20b=1, c =2,d;e=1")
	if got := w3ctest.Quote(strings.Join(seen, "|")); got != `"a%20b|c"` {
		t.Errorf("keys asked for: %s", got)
	}
}
