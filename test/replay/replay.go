// Package replay runs recorded events through correlate and export and
// compares what comes out with golden spans. It is for tests alone, which is
// why it may import both. Events come written down as JSON, or as recordings of
// the kernel's ring that the loader decodes.
package replay

import (
	"bytes"
	"encoding/base64"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"os"
	"strings"
	"testing"

	tracepb "go.opentelemetry.io/proto/otlp/trace/v1"
	"google.golang.org/protobuf/encoding/protojson"
	"google.golang.org/protobuf/proto"

	"weft/correlate"
	"weft/export"
	"weft/internal/event"
	"weft/internal/selfstats"
)

// Result is what a replay leaves behind.
type Result struct {
	Spans []*event.Span
	Lost  []selfstats.Row // drop counters that are not zero
}

type collector struct{ spans []*event.Span }

func (c *collector) Span(s *event.Span) { c.spans = append(c.spans, s) }

// Run feeds a fresh correlator, flushes it, and returns the spans in the order
// they were finished.
func Run(t testing.TB, opts correlate.Options, feed func(*correlate.Correlator)) Result {
	t.Helper()
	var out collector
	stats := selfstats.New()
	c := correlate.New(opts, &out, stats)
	feed(c)
	c.Flush()
	lost, err := stats.Summary()
	if err != nil {
		t.Fatal(err)
	}
	return Result{Spans: out.spans, Lost: lost}
}

// Golden compares the OTLP form of a replay, and what it lost, with the file at
// path; with update it writes the file instead.
func Golden(t testing.TB, path string, update bool, r Result) {
	t.Helper()
	got := r.render(t)
	if update {
		if err := os.WriteFile(path, got, 0o644); err != nil {
			t.Fatal(err)
		}
		return
	}
	want, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(got, want) {
		t.Errorf("%s differs; run with -update if the change is meant\n%s", path, firstDifference(got, want))
	}
}

// Received is what a receiver reads of the replay's spans.
func (r Result) Received(t testing.TB) *tracepb.TracesData {
	t.Helper()
	// The environment of whoever runs the test must not show.
	for _, name := range []string{"OTEL_RESOURCE_ATTRIBUTES", "OTEL_SERVICE_NAME", "OTEL_INSTRUMENTATION_HTTP_KNOWN_METHODS"} {
		if tt, ok := t.(*testing.T); ok {
			tt.Setenv(name, "")
		}
	}
	convert, err := export.NewConverter(export.ConverterOptions{Version: "0.0.0-replay", HostName: "replay"})
	if err != nil {
		t.Fatal(err)
	}
	sent, err := proto.Marshal(&tracepb.TracesData{ResourceSpans: export.NewEncoder(convert).ResourceSpans(r.Spans)})
	if err != nil {
		t.Fatal(err)
	}
	var received tracepb.TracesData
	if err := proto.Unmarshal(sent, &received); err != nil {
		t.Fatal(err)
	}
	return &received
}

// render is deterministic: protojson varies its white space on purpose, so its
// output is laid out anew, with the keys sorted.
func (r Result) render(t testing.TB) []byte {
	t.Helper()
	raw, err := protojson.Marshal(r.Received(t))
	if err != nil {
		t.Fatal(err)
	}
	var spans any
	if err := json.Unmarshal(raw, &spans); err != nil {
		t.Fatal(err)
	}
	hexIDs(t, spans)
	lost := map[string]float64{}
	for _, row := range r.Lost {
		lost[row.Name] = row.Value
	}
	var out bytes.Buffer
	encode := json.NewEncoder(&out)
	encode.SetEscapeHTML(false)
	encode.SetIndent("", " ")
	if err := encode.Encode(map[string]any{"otlp": spans, "lost": lost}); err != nil {
		t.Fatal(err)
	}
	return out.Bytes()
}

// hexIDs writes ids as OTLP/JSON has them; protojson writes bytes in base64.
func hexIDs(t testing.TB, v any) {
	t.Helper()
	switch v := v.(type) {
	case []any:
		for _, e := range v {
			hexIDs(t, e)
		}
	case map[string]any:
		for key, e := range v {
			if text, ok := e.(string); ok && strings.HasSuffix(strings.ToLower(key), "spanid") || ok && key == "traceId" {
				raw, err := base64.StdEncoding.DecodeString(text)
				if err != nil {
					t.Fatal(err)
				}
				v[key] = hex.EncodeToString(raw)
				continue
			}
			hexIDs(t, e)
		}
	}
}

func firstDifference(got, want []byte) string {
	g, w := strings.Split(string(got), "\n"), strings.Split(string(want), "\n")
	for i := range max(len(g), len(w)) {
		var a, b string
		if i < len(g) {
			a = g[i]
		}
		if i < len(w) {
			b = w[i]
		}
		if a != b {
			from := max(0, i-5)
			return fmt.Sprintf("line %d, after\n%s\n- %s\n+ %s", i+1, strings.Join(w[min(from, len(w)):min(i, len(w))], "\n"), b, a)
		}
	}
	return ""
}
