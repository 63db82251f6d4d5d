package export

import (
	"net/netip"
	"slices"
	"strings"

	"go.opentelemetry.io/otel/attribute"
	semconv "go.opentelemetry.io/otel/semconv/v1.43.0"

	"weft/internal/event"
)

// Attributes of weft's own, for those who ask how a span came to be.
const (
	// keyParentRule says how the parent was decided: wire, thread, sole,
	// adopted, ambiguous, invalid, untrusted, context, goroutine, creator, none.
	keyParentRule = attribute.Key("weft.parent.rule")
	// keyPropagation says what became of the outgoing traceparent: injected,
	// own, observed, refused, withheld. Client spans only.
	keyPropagation = attribute.Key("weft.propagation")
	// keyTruncated is true when url.* miss the end of the request target.
	keyTruncated = attribute.Key("weft.target.truncated")
	// keyEnd is lost when bytes passed unseen, so that end and sizes are not
	// exact.
	keyEnd = attribute.Key("weft.end")
	// keyLinkReason says why a span links to another: untrusted.
	keyLinkReason = attribute.Key("weft.link.reason")
)

// methodOther is what the semantic conventions put for an unknown method.
const methodOther = "_OTHER"

// knownMethods reads OTEL_INSTRUMENTATION_HTTP_KNOWN_METHODS, a full override
// of the default list: RFC 9110, RFC 5789 and QUERY.
func knownMethods(override string) map[string]bool {
	methods := []string{
		"CONNECT", "DELETE", "GET", "HEAD", "OPTIONS", "PATCH", "POST", "PUT", "QUERY", "TRACE",
	}
	if strings.TrimSpace(override) != "" {
		methods = strings.Split(override, ",")
	}
	known := make(map[string]bool, len(methods))
	for _, m := range methods {
		known[strings.TrimSpace(m)] = true
	}
	return known
}

// spanName is the method, and behind it the route where one is known: the path
// instead would make names without bound. An RPC has its own name.
func (c *Converter) spanName(s *event.Span) string {
	if isRPC(s) {
		return rpcSpanName(s)
	}
	name := "HTTP"
	if c.methods[s.Method] {
		name = s.Method
	}
	if r := route(s); r != "" {
		return name + " " + r
	}
	return name
}

// route is http.route: the path of the pattern that the program's router matched.
// Go's patterns may begin with a method and a host.
func route(s *event.Span) string {
	if s.Role != event.RoleServer {
		return ""
	}
	if at := strings.IndexByte(s.Route, '/'); at >= 0 {
		return s.Route[at:]
	}
	return ""
}

// texts keeps texts made of numbers for the spans that follow: a connection has
// the same peer for all its requests. The zero value is empty; nil keeps nothing.
type texts struct{ addresses map[netip.Addr]string }

// keptAddresses bounds texts; peers are far fewer, as a rule.
const keptAddresses = 4096

// address is address(a), kept.
func (t *texts) address(a netip.AddrPort) (string, int) {
	if t == nil || !a.Addr().IsValid() {
		return address(a)
	}
	if text, ok := t.addresses[a.Addr()]; ok {
		return text, int(a.Port())
	}
	if t.addresses == nil || len(t.addresses) >= keptAddresses {
		t.addresses = map[netip.Addr]string{}
	}
	text, port := address(a)
	t.addresses[a.Addr()] = text
	return text, port
}

// attributes returns the span's attributes by the stable HTTP conventions, or by
// those of RPC, in a fixed order, and after them the baggage members chosen to be attributes.
func (c *Converter) attributes(s *event.Span) []attribute.KeyValue {
	return c.appendAttributes(make([]attribute.KeyValue, 0, 20), s, nil)
}

// appendAttributes appends what attributes returns to kv, which is empty.
func (c *Converter) appendAttributes(kv []attribute.KeyValue, s *event.Span, kept *texts) []attribute.KeyValue {
	if isRPC(s) {
		kv = rpcAttributes(kv, s, kept)
	} else {
		kv = c.httpAttributes(kv, s, kept)
	}
	if s.Response.Reason == event.EndLost {
		kv = append(kv, keyEnd.String(event.EndLost.String()))
	}
	kv = append(kv, keyParentRule.String(s.Rule.String()))
	if s.Propagation != event.PropagationNone {
		kv = append(kv, keyPropagation.String(s.Propagation.String()))
	}
	if s.TargetTotal > len(s.Target) {
		kv = append(kv, keyTruncated.Bool(true))
	}
	return withBaggage(kv, s.Baggage)
}

// httpAttributes appends the attributes of an HTTP exchange, but for weft's own.
func (c *Converter) httpAttributes(kv []attribute.KeyValue, s *event.Span, kept *texts) []attribute.KeyValue {
	t := targetOf(&s.Request)
	peer, peerPort := kept.address(s.Remote)
	host, port := hostOf(&s.Request, t)
	if host == "" {
		host, port = kept.address(serverEnd(&s.Request))
	}
	client := s.Role == event.RoleClient

	text := func(k attribute.Key, v string) {
		if v != "" {
			kv = append(kv, k.String(v))
		}
	}
	number := func(k attribute.Key, v int) {
		if v != 0 {
			kv = append(kv, k.Int(v))
		}
	}

	if c.methods[s.Method] {
		text(semconv.HTTPRequestMethodKey, s.Method)
	} else {
		text(semconv.HTTPRequestMethodKey, methodOther)
		text(semconv.HTTPRequestMethodOriginalKey, s.Method)
	}
	// The conventions want url.full of clients and its parts of servers, and
	// not the one beside the other. CONNECT and OPTIONS * have no whole.
	full := ""
	if client {
		full = t.full(host, port)
		text(semconv.URLFullKey, full)
	}
	if full == "" {
		text(semconv.URLSchemeKey, t.scheme)
		text(semconv.URLPathKey, t.path)
		text(semconv.URLQueryKey, t.query)
	}
	text(semconv.ServerAddressKey, host)
	number(semconv.ServerPortKey, port)
	if !client {
		text(semconv.ClientAddressKey, peer)
	}
	text(semconv.NetworkPeerAddressKey, peer)
	number(semconv.NetworkPeerPortKey, peerPort)
	text(semconv.NetworkProtocolVersionKey, s.Protocol.Version())
	text(semconv.HTTPRouteKey, route(s))
	number(semconv.HTTPResponseStatusCodeKey, s.Response.Status)
	text(semconv.ErrorTypeKey, s.ErrorType())
	if s.Response.Reason != event.EndLost {
		if n := s.Response.RequestBody; n > 0 {
			kv = append(kv, semconv.HTTPRequestBodySizeKey.Int64(int64(n)))
		}
		// Of HTTP/2 and TLS not every body is counted: there, nothing is not a size.
		counted := s.Protocol&(event.ProtocolHTTP2|event.ProtocolTLS) == 0
		if n := s.Response.ResponseBody; n > 0 || counted && s.Response.Status != 0 && s.Response.Reason == event.EndComplete {
			kv = append(kv, semconv.HTTPResponseBodySizeKey.Int64(int64(n)))
		}
	}
	return kv
}

// withBaggage adds members under their own keys, as OpenTelemetry's baggage
// span processor does. A member never takes the place of what weft saw itself;
// of members with one key the last counts.
func withBaggage(kv []attribute.KeyValue, members []event.Member) []attribute.KeyValue {
	own := len(kv)
	for _, m := range members {
		at := slices.IndexFunc(kv, func(a attribute.KeyValue) bool { return string(a.Key) == m.Key })
		switch {
		case at < 0:
			kv = append(kv, attribute.String(m.Key, m.Value))
		case at >= own:
			kv[at].Value = attribute.StringValue(m.Value)
		}
	}
	return kv
}

// linkAttributes says why a span links to what it links to.
func linkAttributes(s *event.Span) []attribute.KeyValue {
	if s.Rule == event.ParentUntrusted {
		return []attribute.KeyValue{keyLinkReason.String(s.Rule.String())}
	}
	return nil
}

// errorText is the status description; the conventions leave it empty where
// the status code says it all.
func errorText(errType string) string {
	switch errType {
	case event.ErrorClosed:
		return "connection closed before the response was complete"
	case event.ErrorReset:
		return "connection reset or timed out before the response was complete"
	case event.ErrorCancelled:
		return "cancelled before the response was complete"
	case event.ErrorTimeout:
		return "deadline passed before the response was complete"
	}
	return ""
}
