package conventions

import (
	"maps"
	"slices"
	"strings"
	"testing"

	commonpb "go.opentelemetry.io/proto/otlp/common/v1"
	tracepb "go.opentelemetry.io/proto/otlp/trace/v1"
)

type values map[string]any

// with returns these attributes and others; nil takes one out.
func (v values) with(others values) values {
	out := maps.Clone(v)
	for key, value := range others {
		if out[key] = value; value == nil {
			delete(out, key)
		}
	}
	return out
}

func span(kind tracepb.Span_SpanKind, name string, failed bool, attributes values) *tracepb.Span {
	s := &tracepb.Span{Kind: kind, Name: name}
	if failed {
		s.Status = &tracepb.Status{Code: tracepb.Status_STATUS_CODE_ERROR}
	}
	for _, key := range slices.Sorted(maps.Keys(attributes)) {
		value := &commonpb.AnyValue{}
		switch v := attributes[key].(type) {
		case string:
			value.Value = &commonpb.AnyValue_StringValue{StringValue: v}
		case int:
			value.Value = &commonpb.AnyValue_IntValue{IntValue: int64(v)}
		}
		s.Attributes = append(s.Attributes, &commonpb.KeyValue{Key: key, Value: value})
	}
	return s
}

const (
	serverKind = tracepb.Span_SPAN_KIND_SERVER
	clientKind = tracepb.Span_SPAN_KIND_CLIENT
)

var (
	webServer = values{"http.request.method": "GET", "url.scheme": "https", "url.path": "/items/7", "http.route": "/items/{id}",
		"server.address": "shop.example", "server.port": 443, "http.response.status_code": 200,
		"network.protocol.version": "2", "network.peer.address": "10.0.0.9", "network.peer.port": 40000}
	webClient = values{"http.request.method": "GET", "url.full": "http://shop/", "server.address": "shop", "server.port": 80,
		"http.response.status_code": 204, "network.protocol.version": "1.1"}
	callServer = values{"rpc.system.name": "grpc", "rpc.method": "stock.v1.Stock/Reserve", "rpc.response.status_code": "NOT_FOUND",
		"server.address": "stock", "server.port": 50051, "network.transport": "tcp"}
	callClient = callServer.with(values{"rpc.response.status_code": "OK"})
)

func registry(t *testing.T) *Registry {
	t.Helper()
	r, err := Read(t.Context(), "https://opentelemetry.io/schemas/1.43.0")
	if err != nil {
		t.Fatal(err)
	}
	return r
}

func TestKept(t *testing.T) {
	r := registry(t)
	for name, s := range map[string]*tracepb.Span{
		"HTTP server":         span(serverKind, "GET /items/{id}", false, webServer),
		"HTTP client":         span(clientKind, "GET", false, webClient),
		"404 of a server":     span(serverKind, "GET /items/{id}", false, webServer.with(values{"http.response.status_code": 404})),
		"503 of a server":     span(serverKind, "GET /items/{id}", true, webServer.with(values{"http.response.status_code": 503, "error.type": "503"})),
		"no answer":           span(clientKind, "GET", true, webClient.with(values{"http.response.status_code": nil, "error.type": "timeout"})),
		"unknown method":      span(clientKind, "HTTP", false, webClient.with(values{"http.request.method": "_OTHER", "http.request.method_original": "BREW"})),
		"gRPC server":         span(serverKind, "stock.v1.Stock/Reserve", false, callServer),
		"gRPC client":         span(clientKind, "stock.v1.Stock/Reserve", false, callClient),
		"UNAVAILABLE":         span(serverKind, "stock.v1.Stock/Reserve", true, callServer.with(values{"rpc.response.status_code": "UNAVAILABLE", "error.type": "UNAVAILABLE"})),
		"call of a stranger":  span(serverKind, "grpc", true, callServer.with(values{"rpc.method": "_OTHER", "rpc.method_original": "x/y", "rpc.response.status_code": "UNIMPLEMENTED", "error.type": "UNIMPLEMENTED"})),
		"call that broke off": span(clientKind, "stock.v1.Stock/Reserve", true, callClient.with(values{"rpc.response.status_code": nil, "error.type": "connection_reset"})),
	} {
		if wrong := r.Check(s); len(wrong) > 0 {
			t.Errorf("%s: %q", name, wrong)
		}
	}
}

// TestBroken: each rule, broken, is told in words that name it.
func TestBroken(t *testing.T) {
	r := registry(t)
	const route, method = "GET /items/{id}", "stock.v1.Stock/Reserve"
	twice := span(clientKind, "GET", false, webClient)
	twice.Attributes = append(twice.Attributes, twice.Attributes[0])
	okay := span(clientKind, "GET", false, webClient)
	okay.Status = &tracepb.Status{Code: tracepb.Status_STATUS_CODE_OK}
	described := span(clientKind, "GET", false, webClient)
	described.Status = &tracepb.Status{Message: "all is well"}
	repeated := span(serverKind, route, true, webServer.with(values{"http.response.status_code": 500, "error.type": "500"}))
	repeated.Status.Message = "Internal Server Error"
	for says, s := range map[string]*tracepb.Span{
		"http.request.method is there twice":                     twice,
		"status OK is not an instrumentation's":                  okay,
		"a description without an error":                         described,
		`a description "Internal Server Error"`:                  repeated,
		"kind SPAN_KIND_INTERNAL, want":                          span(tracepb.Span_SPAN_KIND_INTERNAL, route, false, webServer),
		"http.request.method is required":                        span(clientKind, "", false, webClient.with(values{"http.request.method": nil})),
		"url.full is required":                                   span(clientKind, "GET", false, webClient.with(values{"url.full": nil, "url.path": "/"})),
		"url.path is required":                                   span(serverKind, route, false, webServer.with(values{"url.path": nil})),
		"rpc.response.status_code is required":                   span(serverKind, method, false, callServer.with(values{"rpc.response.status_code": nil})),
		"rpc.method is required":                                 span(clientKind, "grpc", false, callClient.with(values{"rpc.method": nil})),
		"http.method does not belong":                            span(clientKind, "GET", false, webClient.with(values{"http.method": "GET"})),
		"http.route does not belong":                             span(clientKind, "GET /", false, webClient.with(values{"http.route": "/"})),
		"url.path does not belong":                               span(serverKind, method, false, callServer.with(values{"url.path": "/"})),
		"http.response.status_code does not belong":              span(clientKind, method, false, callClient.with(values{"http.response.status_code": 200})),
		"rpc.status_code is not in the registry":                 span(clientKind, method, false, callClient.with(values{"rpc.status_code": "OK"})),
		"server.port is string, want int":                        span(clientKind, "GET", false, webClient.with(values{"server.port": "80"})),
		"http.request.method=get is none":                        span(clientKind, "get", false, webClient.with(values{"http.request.method": "get"})),
		"network.transport=TCP is none":                          span(clientKind, method, false, callClient.with(values{"network.transport": "TCP"})),
		"rpc.system.name=gRPC is none":                           span(clientKind, method, false, callClient.with(values{"rpc.system.name": "gRPC"})),
		"server.address is empty":                                span(clientKind, "GET", false, webClient.with(values{"server.address": ""})),
		`name "GET /items/7", want "GET /items/{id}"`:            span(serverKind, "GET /items/7", false, webServer),
		`name "_OTHER", want "HTTP"`:                             span(clientKind, "_OTHER", false, webClient.with(values{"http.request.method": "_OTHER", "http.request.method_original": "X"})),
		`name "POST", want "stock.v1.Stock/Reserve"`:             span(serverKind, "POST", false, callServer),
		`name "x/y", want "grpc"`:                                span(clientKind, "x/y", false, callClient.with(values{"rpc.method": "_OTHER", "rpc.method_original": "x/y"})),
		"server.port=70000":                                      span(clientKind, "GET", false, webClient.with(values{"server.port": 70000})),
		"network.peer.port without network.peer.address":         span(serverKind, route, false, webServer.with(values{"network.peer.address": nil})),
		"network.protocol.version=2.0":                           span(serverKind, route, false, webServer.with(values{"network.protocol.version": "2.0"})),
		`status STATUS_CODE_ERROR and error.type ""`:             span(serverKind, route, true, webServer),
		`status STATUS_CODE_UNSET and error.type "timeout"`:      span(serverKind, route, false, webServer.with(values{"error.type": "timeout"})),
		`status 404 and error.type ""`:                           span(clientKind, "GET", false, webClient.with(values{"http.response.status_code": 404})),
		`status 500 and error.type "connection_closed"`:          span(serverKind, route, true, webServer.with(values{"http.response.status_code": 500, "error.type": "connection_closed"})),
		"http.request.method_original is no other":               span(clientKind, "GET", false, webClient.with(values{"http.request.method_original": "GET"})),
		"url.full beside its parts":                              span(clientKind, "GET", false, webClient.with(values{"url.query": "a=b"})),
		"url.full=http://user:secret@shop/":                      span(clientKind, "GET", false, webClient.with(values{"url.full": "http://user:secret@shop/"})),
		"url.query begins with ?":                                span(serverKind, route, false, webServer.with(values{"url.query": "?a=b"})),
		"http.route=shop/items/{id} has":                         span(serverKind, "GET shop/items/{id}", false, webServer.with(values{"http.route": "shop/items/{id}"})),
		"rpc.method=_OTHER and rpc.method_original=":             span(clientKind, "grpc", false, callClient.with(values{"rpc.method": "_OTHER"})),
		"rpc.method=Reserve is not fully qualified":              span(clientKind, "Reserve", false, callClient.with(values{"rpc.method": "Reserve"})),
		"rpc.response.status_code=NotFound":                      span(serverKind, method, false, callServer.with(values{"rpc.response.status_code": "NotFound"})),
		`status NOT_FOUND and error.type ""`:                     span(clientKind, method, false, callClient.with(values{"rpc.response.status_code": "NOT_FOUND"})),
		`status NOT_FOUND and error.type "NOT_FOUND"`:            span(serverKind, method, true, callServer.with(values{"error.type": "NOT_FOUND"})),
		`status DEADLINE_EXCEEDED and error.type "timeout"`:      span(serverKind, method, true, callServer.with(values{"rpc.response.status_code": "DEADLINE_EXCEEDED", "error.type": "timeout"})),
		"rpc.system.name=jsonrpc, want grpc":                     span(serverKind, method, false, callServer.with(values{"rpc.system.name": "jsonrpc"})),
		`tenant does not belong to this kind of span`:            span(serverKind, method, false, callServer.with(values{"tenant": "blue"})),
		`status 17 and error.type ""`:                            span(serverKind, method, false, callServer.with(values{"rpc.response.status_code": "17"})),
		"http.request.body.size does not belong":                 span(serverKind, method, false, callServer.with(values{"http.request.body.size": 7})),
		`client.port without client.address`:                     span(serverKind, method, false, callServer.with(values{"client.port": 7})),
		"http.response.status_code is string, want int":          span(clientKind, "GET", false, webClient.with(values{"http.response.status_code": "204"})),
		"rpc.response.status_code is int, want string":           span(serverKind, method, false, callServer.with(values{"rpc.response.status_code": 5})),
		"network.protocol.version is int, want string":           span(clientKind, "GET", false, webClient.with(values{"network.protocol.version": 2})),
		"rpc.method=stock.v1.Stock/Reserve and rpc.method_origi": span(clientKind, method, false, callClient.with(values{"rpc.method_original": "x/y"})),
	} {
		wrong := r.Check(s)
		if !slices.ContainsFunc(wrong, func(w string) bool { return strings.HasPrefix(w, says) }) {
			t.Errorf("want %q, said %q", says, wrong)
		}
	}
	if wrong := r.Check(span(serverKind, method, false, callServer.with(values{"tenant": "blue"})), "tenant"); len(wrong) > 0 {
		t.Errorf("an attribute of the user's own: %q", wrong)
	}
}

func TestReadRefuses(t *testing.T) {
	for schema, says := range map[string]string{
		"":                                      `schema URL ""`,
		"https://example.org/1.43.0":            "want https://opentelemetry.io/schemas/VERSION",
		"https://opentelemetry.io/schemas/9.99": "read registry 9.99",
	} {
		if _, err := Read(t.Context(), schema); err == nil || !strings.Contains(err.Error(), says) {
			t.Errorf("%q: error %v, want %q", schema, err, says)
		}
	}
}
