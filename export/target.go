package export

import (
	"net/http"
	"net/netip"
	"strconv"
	"strings"

	"weft/internal/event"
)

// target is a request target taken apart (RFC 9112 §3.2), with the secrets
// that the semantic conventions name already replaced.
type target struct {
	scheme   string // of an absolute-form target, else "http"
	absolute bool   // the target has a scheme
	path     string // "" for the authority form
	query    string // without "?"
	host     string // of an absolute or authority-form target
	port     int    // 0: not given
	user     bool   // the target carried credentials; they are not kept
	asked    bool   // the target had a "?"
}

// targetOf is the target of a request. What it does not say of the scheme, TLS does.
func targetOf(r *event.Request) target {
	t := parseTarget(r.Method, r.Target)
	if r.Protocol.Has(event.ProtocolTLS) && !t.absolute {
		t.scheme = "https"
	}
	return t
}

// parseTarget never fails: what it cannot take apart is a path.
func parseTarget(method, raw string) target {
	t := target{scheme: "http"}
	raw, _, _ = strings.Cut(raw, "#") // never sent by a conforming client
	switch {
	case method == http.MethodConnect:
		t.host, t.port = splitHostPort(raw)
		return t
	case raw == "*":
		t.path = "*"
		return t
	case !strings.HasPrefix(raw, "/"):
		if scheme, rest, ok := strings.Cut(raw, "://"); ok && isScheme(scheme) {
			t.scheme, t.absolute = strings.ToLower(scheme), true
			end := strings.IndexAny(rest, "/?")
			authority := rest
			raw = ""
			if end >= 0 {
				authority, raw = rest[:end], rest[end:]
			}
			if at := strings.LastIndexByte(authority, '@'); at >= 0 {
				authority, t.user = authority[at+1:], true
			}
			t.host, t.port = splitHostPort(authority)
		}
	}
	t.path, t.query, t.asked = strings.Cut(raw, "?")
	if t.path == "" {
		t.path = "/"
	}
	t.query = redactQuery(t.query)
	return t
}

func isScheme(s string) bool {
	for i := range len(s) {
		c := s[i] | 0x20
		if (c < 'a' || c > 'z') && (i == 0 || (s[i] < '0' || s[i] > '9') && !strings.ContainsRune("+-.", rune(s[i]))) {
			return false
		}
	}
	return s != ""
}

// splitHostPort reads host, host:port, [v6], [v6]:port and a bare v6.
func splitHostPort(s string) (host string, port int) {
	if rest, ok := strings.CutPrefix(s, "["); ok {
		host, rest, ok = strings.Cut(rest, "]")
		if !ok {
			return s, 0
		}
		s = rest
	} else if strings.Count(s, ":") > 1 {
		return s, 0
	} else if i := strings.IndexByte(s, ':'); i >= 0 {
		host, s = s[:i], s[i:]
	} else {
		return s, 0
	}
	if p, ok := strings.CutPrefix(s, ":"); ok {
		if n, err := strconv.ParseUint(p, 10, 16); err == nil {
			port = int(n)
		}
	}
	return host, port
}

// secretParams are the query parameters whose values the semantic conventions
// redact by default (url.query and url.full): today's list, and the names that
// earlier versions had. Keys match case-sensitively, as they say.
var secretParams = map[string]bool{
	"AWSAccessKeyId":       true,
	"Signature":            true,
	"sig":                  true,
	"X-Goog-Signature":     true,
	"X-Amz-Signature":      true,
	"X-Amz-Credential":     true,
	"X-Amz-Security-Token": true,
}

const redacted = "REDACTED"

// redactQuery replaces secret values and keeps everything else byte for byte.
func redactQuery(q string) string {
	if !strings.ContainsRune(q, '=') {
		return q
	}
	var out strings.Builder
	changed := false
	for i, pair := range strings.Split(q, "&") {
		if i > 0 {
			out.WriteByte('&')
		}
		if key, value, ok := strings.Cut(pair, "="); ok && value != "" && secretParams[key] {
			changed = true
			out.WriteString(key + "=" + redacted)
			continue
		}
		out.WriteString(pair)
	}
	if !changed {
		return q
	}
	return out.String()
}

// pathAndQuery is what a person calls "the URL" of a request.
func (t target) pathAndQuery() string {
	if t.asked {
		return t.path + "?" + t.query
	}
	return t.path
}

// full is url.full; "" when there is none (CONNECT, OPTIONS *).
func (t target) full(host string, port int) string {
	if host == "" || !strings.HasPrefix(t.path, "/") {
		return ""
	}
	var b strings.Builder
	b.WriteString(t.scheme + "://")
	if t.user {
		b.WriteString(redacted + ":" + redacted + "@")
	}
	if strings.ContainsRune(host, ':') {
		b.WriteString("[" + host + "]")
	} else {
		b.WriteString(host)
	}
	if port != 0 && port != defaultPort(t.scheme) {
		b.WriteString(":" + strconv.Itoa(port))
	}
	b.WriteString(t.pathAndQuery())
	return b.String()
}

func defaultPort(scheme string) int {
	if scheme == "https" {
		return 443
	}
	return 80
}

// hostMax is WEFT_HOST_MAX: a Host header this long may have been cut, and a
// cut name is a wrong name.
const hostMax = 128

// serverOf returns the logical server of the exchange: from the target, else
// from the Host header, else the address of the connection.
func serverOf(r *event.Request, t target) (host string, port int) {
	if host, port = hostOf(r, t); host != "" {
		return host, port
	}
	return address(serverEnd(r))
}

// hostOf is the server that the request names, "" for none.
func hostOf(r *event.Request, t target) (host string, port int) {
	host, port = t.host, t.port
	if host == "" && r.Host != "" && len(r.Host) < hostMax {
		host, port = splitHostPort(r.Host)
	}
	if host != "" && port == 0 && r.Method != http.MethodConnect {
		port = defaultPort(t.scheme)
	}
	return host, port
}

// serverEnd is the server's end of the connection.
func serverEnd(r *event.Request) netip.AddrPort {
	if r.Role == event.RoleServer {
		return r.Local
	}
	return r.Remote
}

// address returns the text of an address, v4-mapped ones as IPv4; "" and 0
// when it is not known.
func address(a netip.AddrPort) (string, int) {
	if !a.Addr().IsValid() {
		return "", 0
	}
	return a.Addr().Unmap().String(), int(a.Port())
}
