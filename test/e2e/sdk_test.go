package e2e

import (
	"encoding/json"
	"fmt"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"weft/test/e2e/truth"
)

// sdkSpan is a line of test/apps/otelsdk.
type sdkSpan struct {
	TraceID  string `json:"traceId"`
	SpanID   string `json:"spanId"`
	ParentID string `json:"parentSpanId"`
	Kind     string `json:"kind"` // SERVER, CLIENT
	URL      string `json:"url"`
}

// instrumented starts the Flask service with the OpenTelemetry SDK in it.
func instrumented(t *testing.T, g *group, p place) *program {
	t.Helper()
	bin, err := tool("python3", "python3")
	need(t, "python", err)
	libs, err := installed("python")
	need(t, "flask", err)
	sdk, err := installed("python-otel")
	need(t, "flask", err)
	prog := g.start("otelsdk", launch{env: p.env("PYTHONPATH="+sdk+":"+libs, "PYTHONDONTWRITEBYTECODE=1", "PYTHONUNBUFFERED=1"),
		argv: []string{bin, filepath.Join(appsDir(t), "otelsdk", "app.py")}}, nil)
	prog.ready(p.port)
	return prog
}

// sdkSpans are the spans that the SDK has finished, by the id of their request.
func sdkSpans(t *testing.T, p *program) map[string][]sdkSpan {
	t.Helper()
	out := map[string][]sdkSpan{}
	for line := range strings.Lines(p.out.String()) {
		if !strings.HasPrefix(line, `{"traceId"`) {
			continue
		}
		var s sdkSpan
		if err := json.Unmarshal([]byte(line), &s); err != nil {
			t.Fatalf("span %q: %v", line, err)
		}
		if m := queryID.FindStringSubmatch(s.URL); m != nil {
			out[m[1]] = append(out[m[1]], s)
		}
	}
	return out
}

// TestSDK: a service with the OpenTelemetry SDK between two that nobody
// instrumented. The SDK takes up what weft wrote; what the SDK writes is adopted,
// not doubled; and all spans of a request, of both, are one tree.
func TestSDK(t *testing.T) {
	g := newGroup(t)
	sink := startSink(t)
	leafPort, sdkPort, frontPort := freePort(t), freePort(t), freePort(t)
	gunicorn(t, g, place{port: leafPort})
	sdk := instrumented(t, g, place{port: sdkPort, downstream: fmt.Sprintf("http://127.0.0.1:%d/leaf", leafPort)})
	gunicorn(t, g, place{port: frontPort, downstream: fmt.Sprintf("http://127.0.0.1:%d/call", sdkPort)})
	a := startAgent(t, g, sink, agentOptions{})

	n := scaled(t, 100)
	d := drive(t, fmt.Sprintf("http://127.0.0.1:%d/call", frontPort), "sdk", n, 4, func(int) []string { return nil })
	if len(d.arrivals) != n {
		t.Fatalf("%d of %d requests arrived", len(d.arrivals), n)
	}
	// Three services: front server and client, SDK service's server and client, leaf.
	const each = 5
	sink.Wait(each*n, patience(t, 15*time.Second))
	byRequest := map[string][]truth.Span{}
	for _, s := range sink.Take() {
		byRequest[s.ID()] = append(byRequest[s.ID()], s)
	}
	var own map[string][]sdkSpan
	sdk.until(func() error {
		own = sdkSpans(t, sdk)
		if len(own) < n {
			return fmt.Errorf("the SDK has finished %d of %d requests", len(own), n)
		}
		return nil
	})
	for _, arrival := range d.arrivals {
		judgeSDK(t, arrival, byRequest[arrival.ID], own[arrival.ID], sdkPort, leafPort, frontPort)
		if t.Failed() {
			break
		}
	}
	if lost := a.losses(); len(lost) > 0 {
		t.Errorf("lost: %v", lost)
	}
	a.stop()
}

// judgeSDK holds the spans of one request against what arrived at the last hop.
func judgeSDK(t *testing.T, arrival truth.Arrival, spans []truth.Span, own []sdkSpan, sdkPort, leafPort, frontPort int) {
	t.Helper()
	if len(arrival.Traceparents) != 1 {
		t.Errorf("%s: %d traceparent lines at the last hop: %q", arrival.ID, len(arrival.Traceparents), arrival.Traceparents)
		return
	}
	wire, err := truth.ParseTraceparent(arrival.Traceparents[0])
	if err != nil {
		t.Errorf("%s: %v", arrival.ID, err)
		return
	}
	pick := func(kind string, port int) truth.Span {
		var found []truth.Span
		for _, s := range spans {
			if s.Kind == kind && s.Attr("server.port") == fmt.Sprint(port) {
				found = append(found, s)
			}
		}
		if len(found) != 1 {
			t.Errorf("%s: %d %s spans for port %d, want one: %s", arrival.ID, len(found), kind, port, list(spans))
			return truth.Span{}
		}
		return found[0]
	}
	front, toSDK := pick("SERVER", frontPort), pick("CLIENT", sdkPort)
	service, toLeaf, leaf := pick("SERVER", sdkPort), pick("CLIENT", leafPort), pick("SERVER", leafPort)
	byKind := map[string]sdkSpan{}
	for _, s := range own {
		byKind[s.Kind] = s
	}
	if len(own) != 2 || len(byKind) != 2 {
		t.Errorf("%s: the SDK made %+v", arrival.ID, own)
		return
	}
	server, client := byKind["SERVER"], byKind["CLIENT"]
	for _, edge := range []struct {
		child, parent string
		got, want     string
	}{
		{"weft's client of the front", "its server", toSDK.ParentID, front.SpanID},
		{"weft's server of the instrumented service", "what weft wrote", service.ParentID, toSDK.SpanID},
		{"the SDK's server", "what weft wrote", server.ParentID, toSDK.SpanID},
		{"the SDK's client", "the SDK's server", client.ParentID, server.SpanID},
		{"the wire at the last hop", "the SDK's client", wire.SpanID, client.SpanID},
		{"weft's client of the instrumented service", "the SDK's client", toLeaf.ParentID, client.SpanID},
		{"weft's server of the last hop", "the SDK's client", leaf.ParentID, client.SpanID},
	} {
		if edge.got != edge.want {
			t.Errorf("%s: %s has the parent %s, want %s, %s", arrival.ID, edge.child, edge.got, edge.want, edge.parent)
		}
	}
	traces := []string{wire.TraceID, server.TraceID, client.TraceID}
	for _, s := range spans {
		traces = append(traces, s.TraceID)
	}
	if slices.Sort(traces); traces[0] != traces[len(traces)-1] {
		t.Errorf("%s: several traces: %v", arrival.ID, slices.Compact(traces))
	}
	if front.ParentID != "" || toLeaf.Propagation != "own" || toLeaf.Rule != "adopted" || toSDK.Propagation != "injected" {
		t.Errorf("%s: front %s, to the SDK %s, to the leaf %s", arrival.ID, &front, &toSDK, &toLeaf)
	}
}
