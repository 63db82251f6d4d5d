package export

import (
	"net/netip"
	"slices"
	"strings"
	"testing"
	"time"

	"go.opentelemetry.io/otel/attribute"
	commonpb "go.opentelemetry.io/proto/otlp/common/v1"
	tracepb "go.opentelemetry.io/proto/otlp/trace/v1"

	"weft/internal/event"
)

func testConverter(t *testing.T) *Converter {
	t.Helper()
	c, err := NewConverter(ConverterOptions{Version: "1.2.3", HostName: "testhost"})
	if err != nil {
		t.Fatal(err)
	}
	return c
}

// text lists attributes as key=value.
func text(kv []attribute.KeyValue) []string {
	var out []string
	for _, a := range kv {
		out = append(out, string(a.Key)+"="+a.Value.String())
	}
	return out
}

func get(kv []attribute.KeyValue, key string) string {
	for _, a := range kv {
		if string(a.Key) == key {
			return a.Value.String()
		}
	}
	return "(none)"
}

func TestAttributesServer(t *testing.T) {
	clearEnv(t)
	s := hop{1, 2, nil, server, event.ParentWire, "POST", "/cart?id=7&sig=abc", "shop.example:8080", 500, 0, 1, 0}.span(1)
	s.Response.RequestBody = 33
	want := []string{
		"http.request.method=POST", "url.scheme=http", "url.path=/cart", "url.query=id=7&sig=REDACTED",
		"server.address=shop.example", "server.port=8080",
		"client.address=127.0.0.1", "network.peer.address=127.0.0.1", "network.peer.port=40112",
		"network.protocol.version=1.1", "http.response.status_code=500", "error.type=500",
		"http.request.body.size=33", "http.response.body.size=120", "weft.parent.rule=wire",
	}
	if got := text(testConverter(t).attributes(s)); !slices.Equal(got, want) {
		t.Errorf("got  %q\nwant %q", got, want)
	}
}

func TestAttributesClient(t *testing.T) {
	clearEnv(t)
	s := hop{1, 2, nil, client, event.ParentThread, "FETCH", "/a?b", "[2001:db8::1]", 404, 0, 1, 0}.span(1)
	s.Protocol = 0
	want := []string{
		"http.request.method=_OTHER", "http.request.method_original=FETCH",
		"url.full=http://[2001:db8::1]/a?b",
		"server.address=2001:db8::1", "server.port=80",
		"network.peer.address=127.0.0.1", "network.peer.port=8080",
		"network.protocol.version=1.0", "http.response.status_code=404", "error.type=404",
		"http.response.body.size=120", "weft.parent.rule=thread", "weft.propagation=injected",
	}
	if got := text(testConverter(t).attributes(s)); !slices.Equal(got, want) {
		t.Errorf("got  %q\nwant %q", got, want)
	}
}

func TestTargetForms(t *testing.T) {
	clearEnv(t)
	c := testConverter(t)
	for _, tc := range []struct {
		role         event.Role
		method       string
		target, host string
		full, path   string
		query        string
		address      string
		port         string
	}{
		{client, "GET", "/", "h", "http://h/", "/", "(none)", "h", "80"},
		{client, "GET", "/a?", "h:81", "http://h:81/a?", "/a", "(none)", "h", "81"},
		{client, "GET", "/a#f?x", "h", "http://h/a", "/a", "(none)", "h", "80"},
		{client, "GET", "http://o:90/p?q=1", "proxy", "http://o:90/p?q=1", "/p", "q=1", "o", "90"},
		{client, "GET", "HTTPS://o", "proxy", "https://o/", "/", "(none)", "o", "443"},
		{client, "GET", "http://u:p@o?x", "", "http://REDACTED:REDACTED@o/?x", "/", "x", "o", "80"},
		{client, "GET", "http://[::1]:5/p", "", "http://[::1]:5/p", "/p", "(none)", "::1", "5"},
		{client, "OPTIONS", "*", "h", "(none)", "*", "(none)", "h", "80"},
		{client, "CONNECT", "o:443", "o:443", "(none)", "(none)", "(none)", "o", "443"},
		{client, "CONNECT", "[::1]:443", "", "(none)", "(none)", "(none)", "::1", "443"},
		{client, "GET", "/no-host", "", "http://127.0.0.1:8080/no-host", "/no-host", "(none)", "127.0.0.1", "8080"},
		{client, "GET", "odd", "h", "(none)", "odd", "(none)", "h", "80"},
		{client, "GET", "1x://o/", "h", "(none)", "1x://o/", "(none)", "h", "80"},
		{client, "GET", "", "h", "http://h/", "/", "(none)", "h", "80"},
		{server, "GET", "/s", "", "(none)", "/s", "(none)", "127.0.0.1", "8080"},
		{server, "GET", "/s", strings.Repeat("h", 128), "(none)", "/s", "(none)", "127.0.0.1", "8080"},
		{server, "GET", "/s", "h:99999", "(none)", "/s", "(none)", "h", "80"},
		{server, "GET", "/s", "2001:db8::1", "(none)", "/s", "(none)", "2001:db8::1", "80"},
		{server, "GET", "/s", "[broken", "(none)", "/s", "(none)", "[broken", "80"},
	} {
		s := hop{id: 1, role: tc.role, method: tc.method, target: tc.target, host: tc.host, status: 200}.span(1)
		kv := c.attributes(s)
		path, query := tc.path, tc.query
		if tc.full != "(none)" { // the parts of a whole are not given again
			part := parseTarget(tc.method, tc.target)
			if part.path != tc.path || part.query != strings.TrimPrefix(tc.query, "(none)") {
				t.Errorf("%s %q: path %q, query %q; want %q and %q", tc.method, tc.target, part.path, part.query, tc.path, tc.query)
			}
			path, query = "(none)", "(none)"
		}
		for key, want := range map[string]string{
			"url.full": tc.full, "url.path": path, "url.query": query,
			"server.address": tc.address, "server.port": tc.port,
		} {
			if got := get(kv, key); got != want {
				t.Errorf("%s %q Host %q: %s is %q, want %q", tc.method, tc.target, tc.host, key, got, want)
			}
		}
	}
}

func TestRedactQuery(t *testing.T) {
	for in, want := range map[string]string{
		"":                    "",
		"a=1&b=2":             "a=1&b=2",
		"sig=x":               "sig=REDACTED",
		"Sig=x&signature=y":   "Sig=x&signature=y", // case matters, as the conventions say
		"a=1&Signature=s&b=2": "a=1&Signature=REDACTED&b=2",
		"AWSAccessKeyId=k&X-Goog-Signature=g&X-Amz-Signature=a&X-Amz-Credential=c&X-Amz-Security-Token=t": "AWSAccessKeyId=REDACTED&X-Goog-Signature=REDACTED&X-Amz-Signature=REDACTED&X-Amz-Credential=REDACTED&X-Amz-Security-Token=REDACTED",
		"sig":           "sig",
		"sig=":          "sig=",
		"&&=x&sig=a=b&": "&&=x&sig=REDACTED&",
		"%zz=1&a=%zz":   "%zz=1&a=%zz",
	} {
		if got := redactQuery(in); got != want {
			t.Errorf("%q: %q, want %q", in, got, want)
		}
	}
}

func TestErrorsAndStatus(t *testing.T) {
	clearEnv(t)
	c := testConverter(t)
	for _, tc := range []struct {
		role   event.Role
		status int
		end    event.End
		want   string
	}{
		{server, 200, event.EndComplete, ""},
		{server, 404, event.EndComplete, ""},
		{server, 500, event.EndComplete, "500"},
		{client, 399, event.EndComplete, ""},
		{client, 400, event.EndComplete, "400"},
		{client, 503, event.EndClosed, "503"},
		{client, 200, event.EndClosed, "connection_closed"},
		{server, 0, event.EndClosed, "connection_closed"},
		{server, 0, event.EndReset, "connection_reset"},
		{server, 101, event.EndUpgraded, ""},
		{server, 200, event.EndLost, ""},
		{server, 0, event.EndLost, ""},
	} {
		s := hop{id: 1, role: tc.role, method: "GET", target: "/", status: tc.status, end: tc.end}.span(1)
		want := tc.want
		if want == "" {
			want = "(none)"
		}
		if got := get(c.attributes(s), "error.type"); got != want {
			t.Errorf("%+v: error.type %q", tc, got)
		}
		code := encodedSpan(t, c, s).GetStatus().GetCode()
		if (code == tracepb.Status_STATUS_CODE_ERROR) != (tc.want != "") || code == tracepb.Status_STATUS_CODE_OK {
			t.Errorf("%+v: status %v", tc, code)
		}
		if lost := get(c.attributes(s), "weft.end") == "lost"; lost != (tc.end == event.EndLost) {
			t.Errorf("%+v: weft.end", tc)
		}
		// Bytes that passed unseen make the size a guess, which is not given.
		if size := get(c.attributes(s), "http.response.body.size"); tc.end == event.EndLost && size != "(none)" {
			t.Errorf("%+v: body size %s", tc, size)
		}
	}
}

func TestSpanFields(t *testing.T) {
	clearEnv(t)
	c := testConverter(t)
	const hasRemote, remote = 0x100, 0x200
	for _, tc := range []struct {
		parent uint64
		rule   event.ParentRule
		wire   uint8
		want   uint32
	}{
		{7, event.ParentWire, 1, 1 | hasRemote | remote},
		{7, event.ParentWire, 3, 3 | hasRemote | remote},
		{7, event.ParentThread, 1, 1 | hasRemote},
		{7, event.ParentAdopted, 0, hasRemote},
		{0, event.ParentNone, 1, 1 | hasRemote},
	} {
		s := hop{id: 9, parent: tc.parent, role: server, rule: tc.rule, method: "GET", target: "/x", status: 200, to: 5}.span(1)
		s.Flags = tc.wire
		out := encodedSpan(t, c, s)
		if out.Flags != tc.want {
			t.Errorf("%+v: flags %#x", tc, out.Flags)
		}
		if (len(out.ParentSpanId) == 8) != (tc.parent != 0) || len(out.ParentSpanId)%8 != 0 {
			t.Errorf("%+v: parent %x", tc, out.ParentSpanId)
		}
		if out.Name != "GET" || out.Kind != tracepb.Span_SPAN_KIND_SERVER ||
			out.EndTimeUnixNano-out.StartTimeUnixNano != uint64(5*time.Millisecond) {
			t.Errorf("%v", out)
		}
	}
	odd := hop{id: 9, method: "get", target: "/"}.span(1)
	if out := encodedSpan(t, c, odd); out.Name != "HTTP" || out.Kind != tracepb.Span_SPAN_KIND_UNSPECIFIED {
		t.Errorf("%v", out)
	}
}

func TestKnownMethodsOverride(t *testing.T) {
	clearEnv(t)
	t.Setenv("OTEL_INSTRUMENTATION_HTTP_KNOWN_METHODS", "GET, PURGE")
	c := testConverter(t)
	for method, want := range map[string]string{"GET": "GET", "PURGE": "PURGE", "POST": "HTTP"} {
		if got := c.spanName(hop{method: method}.span(1)); got != want {
			t.Errorf("%s: name %q, want %q", method, got, want)
		}
	}
}

func TestTruncatedTargetMarked(t *testing.T) {
	clearEnv(t)
	s := hop{id: 1, role: server, method: "GET", target: "/long"}.span(1)
	s.TargetTotal = 300
	if got := get(testConverter(t).attributes(s), "weft.target.truncated"); got != "true" {
		t.Errorf("weft.target.truncated=%s", got)
	}
}

func TestResourcePerProcess(t *testing.T) {
	clearEnv(t)
	t.Setenv("OTEL_RESOURCE_ATTRIBUTES", "cloud.region=eu%2Done,service.name=agent,deployment.environment.name=agent-env")
	t.Setenv("OTEL_SERVICE_NAME", "agent")
	c := testConverter(t)
	web := process("web", 10)
	web.Args = []string{"web", "--password=hunter2"}
	web.Resource["telemetry.sdk.name"] = "other" // must stay true to what made the span
	web.Resource["service.name"] = "not-resolved"
	batch := spans(1, hop{id: 1, process: web, role: server, method: "GET", target: "/"},
		hop{id: 2, process: process("api", 11), role: server, method: "GET", target: "/"},
		hop{id: 3, process: web, role: client, method: "GET", target: "/"},
		hop{id: 4, role: server, method: "GET", target: "/"})
	groups := encoded(t, NewEncoder(c), batch)
	if len(groups) != 3 || len(groups[0].ScopeSpans[0].Spans) != 2 {
		t.Fatalf("%d groups: %v", len(groups), groups)
	}
	want := []string{
		"cloud.region=eu-one", "deployment.environment.name=test", "host.name=testhost", "os.type=linux",
		"process.executable.name=web", "process.executable.path=/usr/bin/web", "process.pid=10",
		"service.instance.id=web-1", "service.name=web", "telemetry.sdk.name=weft", "telemetry.sdk.version=1.2.3",
	}
	if got := text(c.resource(batch[0])); !slices.Equal(got, want) {
		t.Errorf("got  %q\nwant %q", got, want)
	}
	if got := get(c.resource(batch[3]), "service.name"); got != "unknown_service" {
		t.Errorf("no process: service.name %q", got)
	}
	if got := serviceName(&event.Process{Exe: "/opt/x/y"}); got != "unknown_service:y" {
		t.Errorf("no service: %q", got)
	}
	if s := groups[0].ScopeSpans[0].Scope; s.Name != "weft" || s.Version != "1.2.3" {
		t.Errorf("scope %v", s)
	}
	if strings.Contains(groups[0].String(), "hunter2") {
		t.Error("the command line leaked")
	}
}

func TestResourceAttributesMalformed(t *testing.T) {
	clearEnv(t)
	t.Setenv("OTEL_RESOURCE_ATTRIBUTES", "no-equals-sign")
	_, err := NewConverter(ConverterOptions{HostName: "h"})
	if err == nil || !strings.HasPrefix(err.Error(), "OTEL_RESOURCE_ATTRIBUTES: ") || strings.Contains(err.Error(), "\n") {
		t.Errorf("error %v", err)
	}
}

// Bytes off the wire need not be UTF-8, and protobuf refuses what is not.
func TestBrokenUTF8CanBeSent(t *testing.T) {
	clearEnv(t)
	p := process("web\xff", 10)
	p.Resource["k\xfe"] = "v\xfd"
	s := hop{id: 1, process: p, role: client, method: "G\xffT", target: "/\xff?\xfe", host: "h\xfd"}.span(1)
	s.Local, s.Remote = netip.AddrPort{}, netip.AddrPort{}
	for _, kv := range encodedSpan(t, testConverter(t), s).Attributes {
		if v, ok := kv.Value.Value.(*commonpb.AnyValue_StringValue); ok && v.StringValue == "" {
			t.Errorf("%s is empty", kv.Key)
		}
	}
}

func FuzzTarget(f *testing.F) {
	for _, s := range []string{"/a?b=c", "*", "http://u@h:1/p?sig=x", "o:443", "[::1]:2", "::", "http://", "?", "#"} {
		f.Add("GET", s, s)
		f.Add("CONNECT", s, s)
	}
	f.Fuzz(func(t *testing.T, method, raw, host string) {
		r := &event.Request{Method: method, Target: raw, Host: host, Role: event.RoleClient}
		tg := parseTarget(method, raw)
		h, port := serverOf(r, tg)
		full := tg.full(h, port)
		if port < 0 || port > 65535 {
			t.Errorf("port %d", port)
		}
		for _, pair := range strings.Split(tg.query, "&") {
			if v, ok := strings.CutPrefix(pair, "sig="); ok && v != "" && v != redacted {
				t.Errorf("secret left in %q", tg.query)
			}
		}
		if full != "" && !strings.Contains(full, "://") {
			t.Errorf("url.full %q", full)
		}
	})
}
