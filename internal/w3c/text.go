package w3c

import "strings"

// blank reports optional white space as RFC 9110 section 5.6.3 defines it, which
// is less than what unicode.IsSpace takes.
func blank(c byte) bool { return c == ' ' || c == '\t' }

// trim drops blanks at both ends.
func trim(v string) string { return strings.Trim(v, " \t") }

// run returns how many bytes from v[i] on satisfy is.
func run(v string, i int, is func(byte) bool) int {
	n := 0
	for i+n < len(v) && is(v[i+n]) {
		n++
	}
	return n
}

// token reports a tchar of RFC 9110 section 5.6.2.
func token(c byte) bool {
	return lower(c) || c >= 'A' && c <= 'Z' || strings.IndexByte("!#$%&'*+-.^_`|~", c) >= 0
}

// lower reports a lower-case letter or a digit.
func lower(c byte) bool { return c >= 'a' && c <= 'z' || c >= '0' && c <= '9' }

// visible reports printable ASCII without the space.
func visible(c byte) bool { return c > 0x20 && c < 0x7f }

// digit returns the value of a lower-case hexadecimal digit, 0xff if c is none.
func digit(c byte) byte {
	switch {
	case c >= '0' && c <= '9':
		return c - '0'
	case c >= 'a' && c <= 'f':
		return c - 'a' + 10
	}
	return 0xff
}

// digitAnyCase takes upper case too.
func digitAnyCase(c byte) byte {
	if c >= 'A' && c <= 'F' {
		c += 'a' - 'A'
	}
	return digit(c)
}

// clip keeps an error message short when a peer sends a long value.
func clip(v string) string {
	const most = 80
	if len(v) <= most {
		return v
	}
	return v[:most] + "..."
}
