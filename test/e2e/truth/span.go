package truth

import (
	"fmt"
	"net/url"
)

// Span kinds.
const (
	Server = "SERVER"
	Client = "CLIENT"
)

// Span is a finished span as `weft exec --format json` prints it, one object
// a line. Spans received by OTLP are brought into the same form.
type Span struct {
	TraceID     string         `json:"traceId"`
	SpanID      string         `json:"spanId"`
	ParentID    string         `json:"parentSpanId"` // "": root
	Name        string         `json:"name"`
	Kind        string         `json:"kind"`
	Service     string         `json:"service"`
	PID         int            `json:"pid"`
	Start       int64          `json:"startTimeUnixNano,string"`
	End         int64          `json:"endTimeUnixNano,string"`
	DurationMs  float64        `json:"durationMs"`
	Status      string         `json:"status"` // UNSET, ERROR
	Flags       uint8          `json:"flags"`  // W3C trace-flags
	TraceState  string         `json:"traceState"`
	Links       []Link         `json:"links"`
	Rule        string         `json:"parentRule"`
	Propagation string         `json:"propagation"`
	Attributes  map[string]any `json:"attributes"`
	Resource    map[string]any `json:"resource"`
}

// Link names a span of another trace.
type Link struct {
	TraceID string `json:"traceId"`
	SpanID  string `json:"spanId"`
	Flags   uint8  `json:"flags"` // W3C trace-flags
}

// Attr returns an attribute as text, "" if it is absent.
func (s *Span) Attr(key string) string {
	v, ok := s.Attributes[key]
	if !ok {
		return ""
	}
	if f, ok := v.(float64); ok {
		return fmt.Sprintf("%.0f", f)
	}
	return fmt.Sprint(v)
}

// target returns path and query: of url.full for clients, else of url.path
// and url.query.
func (s *Span) target() (string, url.Values) {
	if full := s.Attr("url.full"); full != "" {
		u, err := url.Parse(full)
		if err != nil {
			return full, nil
		}
		return u.Path, u.Query()
	}
	q, err := url.ParseQuery(s.Attr("url.query"))
	if err != nil {
		q = nil
	}
	return s.Attr("url.path"), q
}

// Path is the path of the URL.
func (s *Span) Path() string {
	p, _ := s.target()
	return p
}

// ID is the request's own id, carried in the URL's query as "id".
func (s *Span) ID() string {
	_, q := s.target()
	return q.Get("id")
}

func (s *Span) String() string {
	parent := s.ParentID
	if parent == "" {
		parent = "root"
	}
	return fmt.Sprintf("%s %s id=%s trace=%s span=%s parent=%s rule=%s pid=%d", s.Kind, s.Path(), s.ID(), s.TraceID, s.SpanID, parent, s.Rule, s.PID)
}
