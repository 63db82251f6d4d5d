package config

import (
	"cmp"
	"slices"
	"strings"
)

// Bounds of baggage; the kernel's tables hold this much.
const (
	maxAttributes = 16
	maxSet        = 8
	maxSetKey     = 64
	maxSetHeader  = 40
)

// decodeKeys reads a list of baggage keys: tokens, as in W3C Baggage 3.2.1. They
// come sorted.
func decodeKeys(v value, want string, most int) []string {
	keys := []string{}
	items := v.items(want)
	for _, item := range items {
		key, ok := item.scalar("a key")
		switch {
		case !ok:
			continue
		case !isToken(key):
			item.fail("%s is not a baggage key: %s", item.shown(), tokenCharacters)
		case slices.Contains(keys, key):
			item.fail("%q is listed twice", key)
		}
		keys = append(keys, key)
	}
	if len(items) > most {
		v.fail("%d keys, at most %d", len(items), most)
	}
	slices.Sort(keys)
	return keys
}

func decodeAttributes(v value) []string {
	keys := decodeKeys(v, "a list of keys such as [user_id]", maxAttributes)
	if len(keys) == 0 {
		return nil
	}
	return keys
}

func decodeSet(v value) []SetHeader {
	var set []SetHeader
	keyOf := map[string]string{} // header → key
	v.pairs("a mapping such as {user_id: {header: X-User-Id}}", func(name string, key, item value) {
		switch {
		case !isToken(name):
			key.fail("%s is not a baggage key: %s", key.shown(), tokenCharacters)
		case len(name) > maxSetKey:
			key.fail("key %s has %d characters, at most %d", key.shown(), len(name), maxSetKey)
		}
		header := ""
		bad := item.problems.count()
		item.mapping(map[string]func(value){
			"header": func(v value) { header = decodeSetHeader(v) },
		})
		if header == "" {
			if item.problems.count() == bad {
				item.fail("no header; add one such as {header: X-User-Id}")
			}
			return
		}
		if other, twice := keyOf[header]; twice {
			item.fail("header %q is already the source of %q; remove one", header, other)
		}
		keyOf[header] = name
		set = append(set, SetHeader{Key: name, Header: header})
	})
	if len(set) > maxSet {
		v.fail("%d keys, at most %d", len(set), maxSet)
	}
	slices.SortFunc(set, func(a, b SetHeader) int { return cmp.Compare(a.Key, b.Key) })
	return set
}

// decodeSetHeader is the header's name in lower case; "" if it cannot be one.
func decodeSetHeader(v value) string {
	const want = "a header name such as X-User-Id"
	text, ok := v.scalar(want)
	if !ok {
		return ""
	}
	name := strings.ToLower(text)
	switch {
	case !isToken(name):
		v.want(want)
		return ""
	case len(name) > maxSetHeader:
		v.fail("header %s has %d characters, at most %d", v.shown(), len(name), maxSetHeader)
		return ""
	}
	switch name {
	case "host", "content-length", "transfer-encoding", "connection", "upgrade",
		"traceparent", "tracestate", "baggage":
		v.fail("header %q is one that weft reads itself; choose another", name)
		return ""
	case "authorization", "proxy-authorization", "cookie":
		v.fail("header %q carries credentials, and baggage goes to every service behind; choose another", name)
		return ""
	}
	return name
}

const tokenCharacters = "use letters, digits and !#$%&'*+-.^_`|~"

// isToken is RFC 9110 5.6.2.
func isToken(s string) bool {
	for i := range len(s) {
		c := s[i]
		letter := c|0x20 >= 'a' && c|0x20 <= 'z'
		if !letter && (c < '0' || c > '9') && strings.IndexByte("!#$%&'*+-.^_`|~", c) < 0 {
			return false
		}
	}
	return s != ""
}
