package config

import (
	"errors"
	"fmt"
	"strings"
	"unicode/utf8"
)

// Glob is a compiled pattern that must match the whole of a string:
//
//   - any characters, none included, '/' and spaces too
//     ?       any one character
//     [a-z_]  one character of the set; [!a-z] or [^a-z] one outside it
//     \c      the character c itself
//
// Unlike path.Match, '*' crosses '/': "/usr/*/python3*" and "*cart.py*" are
// what people write for paths and command lines alike. The zero Glob is unset.
type Glob struct {
	pattern string
	tokens  []token
}

type tokenKind uint8

const (
	tokenLiteral tokenKind = iota
	tokenStar
	tokenAny
	tokenSet
)

type token struct {
	kind    tokenKind
	negated bool
	literal string
	ranges  []runeRange
}

type runeRange struct{ lo, hi rune }

// CompileGlob compiles a pattern; it must not be empty.
func CompileGlob(pattern string) (Glob, error) {
	if pattern == "" {
		return Glob{}, errors.New("empty pattern matches nothing; leave the key out to match everything")
	}
	g := Glob{pattern: pattern}
	var literal strings.Builder
	flush := func() {
		if literal.Len() > 0 {
			g.tokens = append(g.tokens, token{kind: tokenLiteral, literal: literal.String()})
			literal.Reset()
		}
	}
	for i := 0; i < len(pattern); {
		switch c := pattern[i]; c {
		case '*':
			flush()
			if n := len(g.tokens); n == 0 || g.tokens[n-1].kind != tokenStar {
				g.tokens = append(g.tokens, token{kind: tokenStar})
			}
			i++
		case '?':
			flush()
			g.tokens = append(g.tokens, token{kind: tokenAny})
			i++
		case '[':
			flush()
			set, n, err := parseSet(pattern[i:])
			if err != nil {
				return Glob{}, err
			}
			g.tokens = append(g.tokens, set)
			i += n
		case '\\':
			if i+1 == len(pattern) {
				return Glob{}, errors.New(`pattern ends in '\'; write '\\' for a backslash`)
			}
			literal.WriteByte(pattern[i+1])
			i += 2
		default:
			literal.WriteByte(c)
			i++
		}
	}
	flush()
	return g, nil
}

// parseSet reads a set at the start of s and says how many bytes it took.
func parseSet(s string) (token, int, error) {
	t := token{kind: tokenSet}
	i := 1
	if i < len(s) && (s[i] == '!' || s[i] == '^') {
		t.negated = true
		i++
	}
	one := func() (rune, bool) {
		if i < len(s) && s[i] == '\\' {
			i++
		}
		if i >= len(s) {
			return 0, false
		}
		r, n := utf8.DecodeRuneInString(s[i:])
		i += n
		return r, true
	}
	// A ']' that comes first stands for itself.
	for first := true; i >= len(s) || s[i] != ']' || first; first = false {
		lo, ok := one()
		if !ok {
			return token{}, 0, fmt.Errorf("no ']' closes %q; write '\\[' for a bracket", s)
		}
		hi := lo
		if i+1 < len(s) && s[i] == '-' && s[i+1] != ']' {
			i++
			if hi, ok = one(); !ok {
				return token{}, 0, fmt.Errorf("no ']' closes %q; write '\\[' for a bracket", s)
			}
		}
		if hi < lo {
			return token{}, 0, fmt.Errorf("range %c-%c in a set runs backwards", lo, hi)
		}
		t.ranges = append(t.ranges, runeRange{lo, hi})
	}
	return t, i + 1, nil
}

// IsSet says whether there is a pattern.
func (g Glob) IsSet() bool { return g.pattern != "" }

// String is the pattern as written.
func (g Glob) String() string { return g.pattern }

// MarshalText is the pattern as written.
func (g Glob) MarshalText() ([]byte, error) { return []byte(g.pattern), nil }

// Match says whether all of s matches. It does not allocate. Only the last
// star is ever retried, so the cost is bounded by len(s) times len(pattern).
func (g Glob) Match(s string) bool {
	star, starAt := -1, 0
	ti, si := 0, 0
	for {
		if ti < len(g.tokens) {
			t := &g.tokens[ti]
			if t.kind == tokenStar {
				if ti == len(g.tokens)-1 {
					return true
				}
				star, starAt = ti, si
				ti++
				continue
			}
			if n := t.take(s[si:]); n >= 0 {
				si += n
				ti++
				continue
			}
		} else if si == len(s) {
			return true
		}
		if star < 0 || starAt >= len(s) {
			return false
		}
		_, n := utf8.DecodeRuneInString(s[starAt:])
		starAt += n
		if next := &g.tokens[star+1]; next.kind == tokenLiteral {
			i := strings.Index(s[starAt:], next.literal)
			if i < 0 {
				return false
			}
			starAt += i
		}
		ti, si = star+1, starAt
	}
}

// take is how many bytes at the start of s the token matches, or -1.
func (t *token) take(s string) int {
	if t.kind == tokenLiteral {
		if strings.HasPrefix(s, t.literal) {
			return len(t.literal)
		}
		return -1
	}
	if s == "" {
		return -1
	}
	r, n := utf8.DecodeRuneInString(s)
	if t.kind == tokenAny {
		return n
	}
	in := false
	for _, rr := range t.ranges {
		if rr.lo <= r && r <= rr.hi {
			in = true
			break
		}
	}
	if in == t.negated {
		return -1
	}
	return n
}
