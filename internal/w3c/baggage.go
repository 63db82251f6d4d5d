package w3c

import (
	"strings"
	"unicode/utf8"
)

// Limits of a baggage: the floor of its specification, section 3.3.2, and here the
// most that is carried.
const (
	BaggageMembers = 64
	BaggageMax     = 8192 // bytes
)

// BaggageMember is one member.
type BaggageMember struct {
	Key        string
	Value      string // percent-decoded, valid UTF-8
	Properties string // as they came, from behind the first ';'
	Raw        string // the whole as it came, without white space around
}

// Baggage is the members that are carried on, in order, and why others are not.
type Baggage struct {
	Members   []BaggageMember
	Malformed int // the grammar does not allow them
	Dropped   int // one did not fit, or came behind one that did not
	Filtered  int // their key was refused
}

// ParseBaggage reads the baggage fields of one message, in order of appearance: they
// are combined as if a comma stood between them. keep says which keys are carried
// on; nil is all. Empty members vanish, members of one key all stay.
func ParseBaggage(keep func(key string) bool, fields ...string) Baggage {
	var b Baggage
	size, full := 0, false
	for _, field := range fields {
		for part := range strings.SplitSeq(field, ",") {
			text := trim(part)
			if text == "" {
				continue
			}
			at := size // where it would begin
			if size > 0 {
				at++
			}
			member, bad, equals := parseMember(text)
			over := overflow(text, BaggageMax-at)
			switch {
			case bad == 0:
				b.Malformed++
			case full || len(b.Members) == BaggageMembers:
				full = true
				b.Dropped++
			case bad >= 0 && (equals < 0 || bad < equals) && (over < 0 || bad <= over):
				b.Malformed++
			case over >= 0 && (equals < 0 || over < equals):
				full = true
				b.Dropped++
			case keep != nil && !keep(member.Key):
				b.Filtered++
			case bad >= 0 && (over < 0 || bad <= over):
				b.Malformed++
			case over >= 0:
				full = true
				b.Dropped++
			default:
				b.Members = append(b.Members, member)
				size = at + len(text)
			}
		}
	}
	return b
}

// overflow returns the first byte of text that is beyond room, blanks aside because
// they may turn out to be no part of it; -1 if all fits.
func overflow(text string, room int) int {
	for i := max(room, 0); i < len(text); i++ {
		if !blank(text[i]) {
			return i
		}
	}
	return -1
}

// parseMember applies the grammar of section 3.3.1 to a trimmed member. bad is where
// it is broken, -1 if nowhere; equals where its first '=' stands, if it got so far.
// A property without a key is refused like any other error: a recipient may refuse
// the whole baggage for it.
func parseMember(text string) (m BaggageMember, bad, equals int) {
	m.Raw, equals = text, -1
	i := run(text, 0, token)
	m.Key = text[:i]
	if i == 0 {
		return m, 0, equals
	}
	i += run(text, i, blank)
	if i == len(text) || text[i] != '=' {
		return m, i, equals
	}
	equals = i
	start := i + 1 + run(text, i+1, blank)
	i = start + run(text, start, Octet)
	m.Value = Unescape(text[start:i])
	for first := true; ; first = false {
		i += run(text, i, blank)
		if i == len(text) {
			return m, -1, equals
		}
		if text[i] != ';' {
			return m, i, equals
		}
		i++
		if first {
			m.Properties = text[i:]
		}
		i += run(text, i, blank)
		key := run(text, i, token)
		if key == 0 {
			return m, i, equals
		}
		i += key
		i += run(text, i, blank)
		if i < len(text) && text[i] == '=' {
			i++
			i += run(text, i, blank)
			i += run(text, i, Octet)
		}
	}
}

// String writes the members with a comma between.
func (b Baggage) String() string {
	var out strings.Builder
	for i, m := range b.Members {
		if i > 0 {
			out.WriteByte(',')
		}
		out.WriteString(m.Raw)
	}
	return out.String()
}

// Get returns the value of the first member with this key.
func (b Baggage) Get(key string) (string, bool) {
	for _, m := range b.Members {
		if m.Key == key {
			return m.Value, true
		}
	}
	return "", false
}

// Octet reports a baggage-octet: a byte that a value may have.
func Octet(c byte) bool { return visible(c) && strings.IndexByte(`",;\`, c) < 0 }

// Token reports whether key can be a baggage key.
func Token(key string) bool { return key != "" && run(key, 0, token) == len(key) }

// Escape makes a value of any bytes: what is no baggage-octet, and '%', is
// percent-encoded.
func Escape(value string) string {
	const digits = "0123456789ABCDEF"
	var out strings.Builder
	for i := range len(value) {
		c := value[i]
		if Octet(c) && c != '%' {
			out.WriteByte(c)
			continue
		}
		out.WriteByte('%')
		out.WriteByte(digits[c>>4])
		out.WriteByte(digits[c&15])
	}
	return out.String()
}

// Unescape decodes a value. A '%' that begins no encoded byte stays as it is; bytes
// that are not UTF-8 become U+FFFD, as section 3.3.1.3 asks.
func Unescape(value string) string {
	if strings.IndexByte(value, '%') < 0 {
		return strings.ToValidUTF8(value, "\ufffd")
	}
	raw := make([]byte, 0, len(value))
	for i := 0; i < len(value); i++ {
		if value[i] == '%' && i+2 < len(value) {
			high, low := digitAnyCase(value[i+1]), digitAnyCase(value[i+2])
			if high < 16 && low < 16 {
				raw = append(raw, high<<4|low)
				i += 2
				continue
			}
		}
		raw = append(raw, value[i])
	}
	out := make([]byte, 0, len(raw))
	for len(raw) > 0 {
		r, size := utf8.DecodeRune(raw)
		out = utf8.AppendRune(out, r) // RuneError is U+FFFD
		raw = raw[size:]
	}
	return string(out)
}

// BaggageKeyHash is how the kernel knows a key: 64-bit FNV-1a.
func BaggageKeyHash(key string) uint64 {
	hash := uint64(0xcbf29ce484222325)
	for i := range len(key) {
		hash = (hash ^ uint64(key[i])) * 0x100000001b3
	}
	return hash
}
