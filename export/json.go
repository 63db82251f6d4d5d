package export

import (
	"bufio"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"io"
	"strconv"
	"strings"
	"time"

	"go.opentelemetry.io/otel/attribute"

	"weft/internal/event"
	"weft/internal/selfstats"
)

// jsonQueue is the number of spans that wait for a slow reader.
const jsonQueue = 65536

// JSON writes one span per line, with the names of OTLP/JSON.
type JSON struct{ *worker }

// NewJSON starts an exporter that writes to w.
func NewJSON(w io.Writer, convert *Converter, stats *selfstats.Stats) *JSON {
	const name = "json"
	out := bufio.NewWriterSize(w, 64<<10)
	encode := json.NewEncoder(PlainJSON(out))
	encode.SetEscapeHTML(false) // URLs stay readable
	return &JSON{startWorker(name, jsonQueue, 100*time.Millisecond, &jsonPrinter{
		out:     out,
		encode:  encode,
		convert: convert,
		written: stats.Exported(name),
		failed:  stats.Dropped(name, "write_failed"),
	}, stats)}
}

type jsonPrinter struct {
	out     *bufio.Writer
	encode  *json.Encoder // to out
	convert *Converter
	pending int // spans in out that were not flushed
	err     error
	written selfstats.Counter
	failed  selfstats.Counter
}

// jsonSpan is one line. Times are strings, as in OTLP/JSON: they do not fit a
// JavaScript number.
type jsonSpan struct {
	TraceID       string         `json:"traceId"`
	SpanID        string         `json:"spanId"`
	ParentSpanID  string         `json:"parentSpanId,omitempty"`
	Name          string         `json:"name"`
	Kind          string         `json:"kind"` // SERVER, CLIENT, UNSPECIFIED
	Service       string         `json:"service"`
	PID           uint32         `json:"pid"`
	TID           uint32         `json:"tid"`
	Start         string         `json:"startTimeUnixNano"`
	End           string         `json:"endTimeUnixNano"`
	DurationMS    float64        `json:"durationMs"`
	Status        string         `json:"status"` // UNSET, ERROR
	StatusMessage string         `json:"statusMessage,omitempty"`
	Flags         uint8          `json:"flags"` // W3C trace-flags, as on the wire
	TraceState    string         `json:"traceState,omitempty"`
	Links         []jsonLink     `json:"links,omitempty"`
	ParentRule    string         `json:"parentRule"`
	Propagation   string         `json:"propagation"`
	Attributes    map[string]any `json:"attributes"`
	Resource      map[string]any `json:"resource"`
}

// jsonLink names a span of another trace.
type jsonLink struct {
	TraceID    string         `json:"traceId"`
	SpanID     string         `json:"spanId"`
	Flags      uint8          `json:"flags"` // W3C trace-flags, as on the wire
	Attributes map[string]any `json:"attributes"`
}

func (p *jsonPrinter) add(s *event.Span) {
	if err := p.encode.Encode(p.line(s)); err != nil {
		p.fail(err, 1)
		return
	}
	p.pending++
}

func (p *jsonPrinter) line(s *event.Span) jsonSpan {
	out := jsonSpan{
		TraceID:     hex.EncodeToString(s.TraceID[:]),
		SpanID:      hex.EncodeToString(s.SpanID[:]),
		Name:        p.convert.spanName(s),
		Kind:        strings.TrimPrefix(kind(s.Role).String(), "SPAN_KIND_"),
		Service:     serviceName(s.Process),
		PID:         s.PID,
		TID:         s.TID,
		Start:       strconv.FormatUint(nanos(s.Start), 10),
		End:         strconv.FormatUint(nanos(s.Response.End), 10),
		DurationMS:  float64(duration(s)) / float64(time.Millisecond),
		Status:      "UNSET",
		Flags:       s.Flags,
		TraceState:  s.TraceState,
		ParentRule:  s.Rule.String(),
		Propagation: s.Propagation.String(),
		Attributes:  valueMap(p.convert.attributes(s)),
		Resource:    valueMap(p.convert.resource(s)),
	}
	if s.ParentID != (event.SpanID{}) {
		out.ParentSpanID = hex.EncodeToString(s.ParentID[:])
	}
	if hasLink(s) {
		out.Links = []jsonLink{{
			TraceID:    hex.EncodeToString(s.Link.TraceID[:]),
			SpanID:     hex.EncodeToString(s.Link.SpanID[:]),
			Flags:      s.Link.Flags,
			Attributes: valueMap(linkAttributes(s)),
		}}
	}
	if e := s.ErrorType(); e != "" {
		out.Status, out.StatusMessage = "ERROR", errorText(e)
	}
	return out
}

func (p *jsonPrinter) tick(time.Time) { p.flush() }

func (p *jsonPrinter) finish() error {
	p.flush()
	if p.err != nil {
		return fmt.Errorf("write JSON spans: %w", p.err)
	}
	return nil
}

func (p *jsonPrinter) flush() {
	if p.pending == 0 {
		return
	}
	if err := p.out.Flush(); err != nil {
		p.fail(err, p.pending)
		p.pending = 0
		return
	}
	p.written.Add(float64(p.pending))
	p.pending = 0
}

// fail counts; the error itself is reported once, by Close. bufio repeats the
// first error for ever, so nothing is half written after it.
func (p *jsonPrinter) fail(err error, spans int) {
	p.failed.Add(float64(spans))
	if p.err == nil {
		p.err = err
	}
}

func valueMap(kv []attribute.KeyValue) map[string]any {
	out := make(map[string]any, len(kv))
	for _, a := range kv {
		out[string(a.Key)] = a.Value.AsInterface()
	}
	return out
}

// duration is never negative: correlate puts no end before a start.
func duration(s *event.Span) time.Duration { return s.Response.End.Sub(s.Start) }
