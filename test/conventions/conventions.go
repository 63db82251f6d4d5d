package conventions

import (
	"fmt"
	"net/url"
	"slices"
	"strconv"
	"strings"

	commonpb "go.opentelemetry.io/proto/otlp/common/v1"
	tracepb "go.opentelemetry.io/proto/otlp/trace/v1"
)

// level is a requirement level of docs/general/attribute-requirement-level.md.
type level int

const (
	recommended level = iota
	required
	conditional // a rule of its own says when
)

// table is what one kind of span may have. Attributes that are not in it are not
// of that kind of span, opt-in ones left out: weft sets none.
type table map[string]level

// "HTTP client span" of http-spans.md.
var httpClient = table{
	"http.request.method": required, "server.address": required, "server.port": required, "url.full": required,
	"error.type": conditional, "http.request.method_original": conditional, "http.response.status_code": conditional,
	"network.protocol.name": conditional, "network.peer.address": recommended, "network.peer.port": recommended,
	"network.protocol.version": recommended, "http.request.resend_count": recommended,
	"http.request.body.size": recommended, "http.response.body.size": recommended, // opt-in, which weft offers
	"url.scheme": recommended, // opt-in; and in the place of a url.full there cannot be
	"url.path":   conditional, "url.query": conditional,
}

// "HTTP server span" of http-spans.md.
var httpServer = table{
	"http.request.method": required, "url.path": required, "url.scheme": required,
	"error.type": conditional, "http.request.method_original": conditional, "http.response.status_code": conditional,
	"http.route": conditional, "network.protocol.name": conditional, "server.port": conditional, "url.query": conditional,
	"client.address": recommended, "network.peer.address": recommended, "network.peer.port": recommended,
	"network.protocol.version": recommended, "server.address": recommended, "user_agent.original": recommended,
	"http.request.body.size": recommended, "http.response.body.size": recommended,
}

// "Client" of grpc.md, with what it refines of rpc-spans.md.
var grpcClient = table{
	"rpc.system.name": required, "rpc.method": required, "rpc.response.status_code": required, "server.address": required,
	"error.type": conditional, "server.port": conditional, "rpc.method_original": conditional,
	"network.peer.address": recommended, "network.peer.port": recommended, "network.protocol.name": recommended,
	"network.protocol.version": recommended, "network.transport": recommended,
}

// "Server" of grpc.md.
var grpcServer = table{
	"rpc.system.name": required, "rpc.response.status_code": required,
	"error.type": conditional, "server.port": conditional, "rpc.method_original": conditional,
	"rpc.method": recommended, "server.address": recommended, "client.address": recommended, "client.port": recommended,
	"network.peer.address": recommended, "network.peer.port": recommended, "network.protocol.name": recommended,
	"network.protocol.version": recommended, "network.transport": recommended,
}

// checker gathers what is wrong with one span.
type checker struct {
	span   *tracepb.Span
	values map[string]*commonpb.AnyValue
	wrong  []string
}

// Check returns what a span does against the conventions, each as one line; other
// are attributes that are the user's own, such as baggage.
func (r *Registry) Check(span *tracepb.Span, other ...string) []string {
	c := &checker{span: span, values: map[string]*commonpb.AnyValue{}}
	for _, kv := range span.Attributes {
		if c.values[kv.Key] != nil {
			c.say("%s is there twice", kv.Key)
		}
		c.values[kv.Key] = kv.Value
	}
	of := c.table()
	for key, value := range c.values {
		if strings.HasPrefix(key, "weft.") || slices.Contains(other, key) {
			continue
		}
		if _, ok := of[key]; !ok {
			c.say("%s does not belong to this kind of span", key)
		}
		c.attribute(r, key, value)
	}
	for key, l := range of {
		if l == required && c.values[key] == nil && !c.excused(key) {
			c.say("%s is required", key)
		}
	}
	c.name()
	c.network()
	c.outcome()
	if c.rpc() {
		c.call()
	} else {
		c.exchange()
	}
	slices.Sort(c.wrong)
	return c.wrong
}

func (c *checker) say(format string, args ...any) {
	c.wrong = append(c.wrong, fmt.Sprintf(format, args...))
}

func (c *checker) text(key string) string { return c.values[key].GetStringValue() }
func (c *checker) has(key string) bool    { return c.values[key] != nil }
func (c *checker) rpc() bool              { return c.has("rpc.system.name") }

func (c *checker) server() bool { return c.span.Kind == tracepb.Span_SPAN_KIND_SERVER }

// table is that of the span's kind, which must be SERVER or CLIENT.
func (c *checker) table() table {
	switch c.span.Kind {
	case tracepb.Span_SPAN_KIND_SERVER:
		if c.rpc() {
			return grpcServer
		}
		return httpServer
	case tracepb.Span_SPAN_KIND_CLIENT:
		if c.rpc() {
			return grpcClient
		}
		return httpClient
	}
	c.say("kind %s, want SERVER or CLIENT", c.span.Kind)
	return httpServer
}

// excused says what cannot be there, though it is required: the URL of CONNECT and
// of OPTIONS *, and the status of a call that broke off without one.
func (c *checker) excused(key string) bool {
	connect := c.text("http.request.method") == "CONNECT"
	switch key {
	case "url.full":
		return connect || !strings.HasPrefix(c.text("url.path"), "/")
	case "url.path":
		return connect
	case "rpc.response.status_code":
		return c.has("error.type") || c.has("weft.end")
	}
	return false
}

// attribute: in the registry, of its type, and of its members if it has a closed set.
func (c *checker) attribute(r *Registry, key string, value *commonpb.AnyValue) {
	a := r.attributes[key]
	if a == nil {
		c.say("%s is not in the registry", key)
		return
	}
	kind := ""
	switch value.Value.(type) {
	case *commonpb.AnyValue_StringValue:
		kind = "string"
	case *commonpb.AnyValue_IntValue:
		kind = "int"
	case *commonpb.AnyValue_BoolValue:
		kind = "boolean"
	}
	want := a.kind
	if want == "Enum" {
		want = "string"
	}
	if kind != want {
		c.say("%s is %s, want %s", key, kind, a.kind)
	}
	if kind == "string" && value.GetStringValue() == "" {
		c.say("%s is empty", key)
	}
	// Of the enumerations that weft sets only error.type takes values of one's own.
	if a.kind == "Enum" && key != "error.type" && !a.values[value.GetStringValue()] {
		c.say("%s=%s is none of its values", key, value.GetStringValue())
	}
}

// name: "Name" of http-spans.md and of rpc-spans.md.
func (c *checker) name() {
	want := c.text("http.request.method")
	if want == "_OTHER" {
		want = "HTTP"
	}
	if route := c.text("http.route"); route != "" {
		want += " " + route
	}
	if c.rpc() {
		want = c.text("rpc.method")
		if want == "" || want == "_OTHER" {
			want = c.text("rpc.system.name")
		}
	}
	if c.span.Name != want {
		c.say("name %q, want %q", c.span.Name, want)
	}
}

func (c *checker) network() {
	for _, end := range []string{"server", "client", "network.peer"} {
		port := c.values[end+".port"]
		if port == nil {
			continue
		}
		if n := port.GetIntValue(); n < 1 || n > 65535 {
			c.say("%s.port=%d", end, n)
		}
		if !c.has(end + ".address") {
			c.say("%s.port without %s.address", end, end)
		}
	}
	if v := c.text("network.protocol.version"); c.has("network.protocol.version") && !slices.Contains([]string{"1.0", "1.1", "2", "3"}, v) {
		c.say("network.protocol.version=%s", v)
	}
}

// outcome: recording-errors.md. error.type goes with the status ERROR and only with
// it; OK is for the program to say.
func (c *checker) outcome() {
	code := c.span.GetStatus().GetCode()
	if code == tracepb.Status_STATUS_CODE_OK {
		c.say("status OK is not an instrumentation's to set")
	}
	if failed := code == tracepb.Status_STATUS_CODE_ERROR; failed != c.has("error.type") {
		c.say("status %s and error.type %q", code, c.text("error.type"))
	}
	if c.span.GetStatus().GetMessage() != "" && code != tracepb.Status_STATUS_CODE_ERROR {
		c.say("a description without an error")
	}
}

// exchange are the rules of http-spans.md for values and "Status".
func (c *checker) exchange() {
	if c.has("http.request.method_original") && c.text("http.request.method") == c.text("http.request.method_original") {
		c.say("http.request.method_original is no other")
	}
	if c.has("url.full") {
		if c.has("url.path") || c.has("url.query") {
			c.say("url.full beside its parts")
		}
		if u, err := url.Parse(c.text("url.full")); err == nil && (u.Scheme == "" || u.User != nil && u.User.String() != "REDACTED:REDACTED") {
			c.say("url.full=%s", c.text("url.full"))
		}
	}
	if strings.HasPrefix(c.text("url.query"), "?") {
		c.say("url.query begins with ?")
	}
	if route := c.text("http.route"); c.has("http.route") && !strings.HasPrefix(route, "/") {
		c.say("http.route=%s has a method or a host", route)
	}
	if !c.has("http.response.status_code") {
		return
	}
	status := c.values["http.response.status_code"].GetIntValue()
	if failed := status >= 500 || !c.server() && status >= 400; failed {
		if t := c.text("error.type"); t != strconv.FormatInt(status, 10) {
			c.say("status %d and error.type %q", status, t)
		}
		if m := c.span.GetStatus().GetMessage(); m != "" {
			c.say("a description %q of what http.response.status_code says", m)
		}
	}
}

// serverErrors are the codes that "Server" of grpc.md lists.
var serverErrors = []string{"UNKNOWN", "DEADLINE_EXCEEDED", "UNIMPLEMENTED", "INTERNAL", "UNAVAILABLE", "DATA_LOSS"}

// codes are those of gRPC's doc/statuscodes.md.
var codes = []string{"OK", "CANCELLED", "UNKNOWN", "INVALID_ARGUMENT", "DEADLINE_EXCEEDED", "NOT_FOUND", "ALREADY_EXISTS",
	"PERMISSION_DENIED", "RESOURCE_EXHAUSTED", "FAILED_PRECONDITION", "ABORTED", "OUT_OF_RANGE", "UNIMPLEMENTED", "INTERNAL",
	"UNAVAILABLE", "DATA_LOSS", "UNAUTHENTICATED"}

// call are the rules of rpc-spans.md and grpc.md.
func (c *checker) call() {
	if s := c.text("rpc.system.name"); s != "grpc" {
		c.say("rpc.system.name=%s, want grpc", s)
	}
	method := c.text("rpc.method")
	if c.has("rpc.method_original") != (method == "_OTHER") {
		c.say("rpc.method=%s and rpc.method_original=%s", method, c.text("rpc.method_original"))
	}
	if service, name, ok := strings.Cut(method, "/"); method != "" && method != "_OTHER" && (!ok || service == "" || name == "") {
		c.say("rpc.method=%s is not fully qualified", method)
	}
	status := c.text("rpc.response.status_code")
	if status == "" {
		return
	}
	_, err := strconv.Atoi(status)
	if !slices.Contains(codes, status) && err != nil {
		c.say("rpc.response.status_code=%s", status)
	}
	failed := status != "OK"
	if c.server() && slices.Contains(codes, status) {
		failed = slices.Contains(serverErrors, status)
	}
	if t := c.text("error.type"); failed && t != status || !failed && t != "" {
		c.say("status %s and error.type %q", status, t)
	}
}
