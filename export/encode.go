package export

import (
	"encoding/binary"

	"go.opentelemetry.io/otel/attribute"
	semconv "go.opentelemetry.io/otel/semconv/v1.43.0"
	tracepb "go.opentelemetry.io/proto/otlp/trace/v1"
	"google.golang.org/protobuf/encoding/protowire"

	"weft/internal/event"
)

// Spans are written as protobuf by hand: building OTLP's messages, sizing them
// and walking them again to marshal cost five times as much as what is below, and
// was most of the agent's CPU time. Field numbers are those of
// opentelemetry/proto/trace/v1/trace.proto, common/v1 and resource/v1; a test
// holds the result to what the generated messages make of the same spans.
const (
	resourceSpansResource   = 1
	resourceSpansScopeSpans = 2
	resourceSpansSchemaURL  = 3

	resourceAttributes = 1

	scopeSpansScope     = 1
	scopeSpansSpans     = 2
	scopeSpansSchemaURL = 3

	scopeNameField    = 1
	scopeVersionField = 2

	spanTraceID    = 1
	spanSpanID     = 2
	spanTraceState = 3
	spanParentID   = 4
	spanName       = 5
	spanKind       = 6
	spanStart      = 7
	spanEnd        = 8
	spanAttributes = 9
	spanLinks      = 13
	spanStatus     = 15
	spanFlagsField = 16

	linkTraceID         = 1
	linkSpanID          = 2
	linkAttributesField = 4
	linkFlags           = 6

	statusMessage = 2
	statusCode    = 3

	keyValueKey   = 1
	keyValueValue = 2

	valueString = 1
	valueBool   = 2
	valueInt    = 3
)

// keptResources bounds the encoded resources that are kept for the next batch.
const keptResources = 1024

// source is what the spans of one ResourceSpans have in common.
type source struct {
	process *event.Process
	pid     uint32 // distinguishes processes that are not known
}

// resourceEntry is the encoded resource of a source and, within a batch, the list
// of its spans: indices into the batch, -1 for none.
type resourceEntry struct {
	encoded     []byte
	first, last int
	batch       uint64 // that used it last
}

// Encoder writes batches of spans as OTLP. It reuses its memory: what it returned
// is valid until the next call, and only one goroutine may use it.
type Encoder struct {
	convert   *Converter
	scope     []byte // InstrumentationScope as a field of ScopeSpans
	schema    []byte // schema_url as a field of ScopeSpans; the number in ResourceSpans is the same
	resources map[source]*resourceEntry
	batch     uint64

	order      []*resourceEntry // of this batch, by first appearance
	next       []int            // by span: the next one of its resource
	spans      []byte           // ScopeSpans being built
	out        [][]byte         // by resource: a ResourceSpans
	attributes []attribute.KeyValue
	texts      texts
}

// NewEncoder returns an encoder that describes spans as convert says.
func NewEncoder(convert *Converter) *Encoder {
	e := &Encoder{convert: convert, resources: map[source]*resourceEntry{}}
	var scope []byte
	scope = appendText(scope, scopeNameField, scopeName)
	scope = appendText(scope, scopeVersionField, convert.version)
	e.scope = appendBytes(nil, scopeSpansScope, scope)
	e.schema = appendText(nil, scopeSpansSchemaURL, semconv.SchemaURL)
	return e
}

// ResourceSpans groups spans by process, in order of first appearance. The
// messages are encoded already: all they hold is in their unknown fields, which
// marshalling copies as they stand. To look into one, marshal and unmarshal it.
func (e *Encoder) ResourceSpans(spans []*event.Span) []*tracepb.ResourceSpans {
	e.group(spans)
	out := make([]*tracepb.ResourceSpans, len(e.order))
	for i, r := range e.order {
		if i == len(e.out) {
			e.out = append(e.out, nil)
		}
		e.out[i] = e.resourceSpans(e.out[i][:0], r, spans)
		out[i] = &tracepb.ResourceSpans{}
		out[i].ProtoReflect().SetUnknown(e.out[i])
	}
	if len(e.resources) > keptResources {
		for s, r := range e.resources {
			if r.batch != e.batch {
				delete(e.resources, s)
			}
		}
	}
	return out
}

// Size is the number of bytes of the last batch.
func (e *Encoder) Size() int {
	n := 0
	for i := range e.order {
		n += len(e.out[i])
	}
	return n
}

// group links the spans of each source.
func (e *Encoder) group(spans []*event.Span) {
	e.batch++
	e.order = e.order[:0]
	e.next = e.next[:0]
	var last source
	var r *resourceEntry
	for i, s := range spans {
		e.next = append(e.next, -1)
		from := source{s.Process, s.PID}
		if r == nil || from != last {
			last, r = from, e.resource(from, s)
		}
		if r.batch != e.batch {
			r.batch, r.first = e.batch, i
			e.order = append(e.order, r)
		} else {
			e.next[r.last] = i
		}
		r.last = i
	}
}

func (e *Encoder) resource(from source, s *event.Span) *resourceEntry {
	if r, ok := e.resources[from]; ok {
		return r
	}
	var attributes []byte
	for _, a := range e.convert.resource(s) {
		attributes = appendAttribute(attributes, resourceAttributes, a)
	}
	r := &resourceEntry{encoded: appendBytes(nil, resourceSpansResource, attributes)}
	e.resources[from] = r
	return r
}

func (e *Encoder) resourceSpans(out []byte, r *resourceEntry, spans []*event.Span) []byte {
	b := append(e.spans[:0], e.scope...)
	for i := r.first; i >= 0; i = e.next[i] {
		b = protowire.AppendTag(b, scopeSpansSpans, protowire.BytesType)
		b = lengthed(b, func(b []byte) []byte { return e.span(b, spans[i]) })
	}
	b = append(b, e.schema...)
	e.spans = b
	out = append(out, r.encoded...)
	out = appendBytes(out, resourceSpansScopeSpans, b)
	return append(out, e.schema...)
}

func (e *Encoder) span(b []byte, s *event.Span) []byte {
	b = appendBytes(b, spanTraceID, s.TraceID[:])
	b = appendBytes(b, spanSpanID, s.SpanID[:])
	b = appendText(b, spanTraceState, s.TraceState)
	if s.ParentID != (event.SpanID{}) {
		b = appendBytes(b, spanParentID, s.ParentID[:])
	}
	b = appendText(b, spanName, e.convert.spanName(s))
	b = appendNumber(b, spanKind, uint64(kind(s.Role)))
	b = appendFixed64(b, spanStart, nanos(s.Start))
	b = appendFixed64(b, spanEnd, nanos(s.Response.End))
	e.attributes = e.convert.appendAttributes(e.attributes[:0], s, &e.texts)
	for i := range e.attributes {
		b = appendAttribute(b, spanAttributes, e.attributes[i])
	}
	if hasLink(s) {
		b = protowire.AppendTag(b, spanLinks, protowire.BytesType)
		b = lengthed(b, func(b []byte) []byte { return link(b, s) })
	}
	if t := s.ErrorType(); t != "" {
		var status [128]byte
		body := appendText(status[:0], statusMessage, errorText(t))
		b = appendBytes(b, spanStatus, appendNumber(body, statusCode, uint64(tracepb.Status_STATUS_CODE_ERROR)))
	}
	return appendFixed32(b, spanFlagsField, spanFlags(s))
}

func link(b []byte, s *event.Span) []byte {
	b = appendBytes(b, linkTraceID, s.Link.TraceID[:])
	b = appendBytes(b, linkSpanID, s.Link.SpanID[:])
	for _, a := range linkAttributes(s) {
		b = appendAttribute(b, linkAttributesField, a)
	}
	return appendFixed32(b, linkFlags, uint32(s.Link.Flags)|isRemote)
}

// lengthed appends what body appends, behind its length. Room is left for a
// length of two bytes, which most are; others are moved.
func lengthed(b []byte, body func([]byte) []byte) []byte {
	start := len(b)
	b = body(append(b, 0, 0))
	n := len(b) - start - 2
	switch size := protowire.SizeVarint(uint64(n)); {
	case size < 2:
		copy(b[start+1:], b[start+2:])
		b = b[:len(b)-1]
	case size > 2:
		b = append(b, make([]byte, size-2)...)
		copy(b[start+size:], b[start+2:])
	}
	protowire.AppendVarint(b[:start], uint64(n)) // in place
	return b
}

// appendAttribute appends a KeyValue as field number of whatever holds it.
func appendAttribute(b []byte, number protowire.Number, a attribute.KeyValue) []byte {
	key := validText(string(a.Key))
	var text string
	var value int // length of AnyValue
	switch a.Value.Type() {
	case attribute.INT64:
		value = 1 + protowire.SizeVarint(uint64(a.Value.AsInt64()))
	case attribute.BOOL:
		value = 2
	default: // everything else weft makes is text
		text = validText(a.Value.AsString())
		value = 1 + protowire.SizeBytes(len(text))
	}
	b = protowire.AppendTag(b, number, protowire.BytesType)
	b = protowire.AppendVarint(b, uint64(1+protowire.SizeBytes(len(key))+1+protowire.SizeBytes(value)))
	b = protowire.AppendTag(b, keyValueKey, protowire.BytesType)
	b = protowire.AppendString(b, key)
	b = protowire.AppendTag(b, keyValueValue, protowire.BytesType)
	b = protowire.AppendVarint(b, uint64(value))
	switch a.Value.Type() {
	case attribute.INT64:
		b = protowire.AppendTag(b, valueInt, protowire.VarintType)
		return protowire.AppendVarint(b, uint64(a.Value.AsInt64()))
	case attribute.BOOL:
		b = protowire.AppendTag(b, valueBool, protowire.VarintType)
		return protowire.AppendVarint(b, protowire.EncodeBool(a.Value.AsBool()))
	}
	b = protowire.AppendTag(b, valueString, protowire.BytesType)
	return protowire.AppendString(b, text)
}

// appendText, like the other functions below, leaves out what is protobuf's
// default: an empty text, a zero.
func appendText(b []byte, number protowire.Number, text string) []byte {
	if text == "" {
		return b
	}
	b = protowire.AppendTag(b, number, protowire.BytesType)
	return protowire.AppendString(b, validText(text))
}

func appendBytes(b []byte, number protowire.Number, raw []byte) []byte {
	if len(raw) == 0 {
		return b
	}
	b = protowire.AppendTag(b, number, protowire.BytesType)
	return protowire.AppendBytes(b, raw)
}

func appendNumber(b []byte, number protowire.Number, n uint64) []byte {
	if n == 0 {
		return b
	}
	b = protowire.AppendTag(b, number, protowire.VarintType)
	return protowire.AppendVarint(b, n)
}

func appendFixed64(b []byte, number protowire.Number, n uint64) []byte {
	if n == 0 {
		return b
	}
	b = protowire.AppendTag(b, number, protowire.Fixed64Type)
	return binary.LittleEndian.AppendUint64(b, n)
}

func appendFixed32(b []byte, number protowire.Number, n uint32) []byte {
	if n == 0 {
		return b
	}
	b = protowire.AppendTag(b, number, protowire.Fixed32Type)
	return binary.LittleEndian.AppendUint32(b, n)
}
