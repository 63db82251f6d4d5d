package replay

import (
	"bytes"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"io"
	"net/netip"
	"os"
	"testing"
	"time"

	"weft/correlate"
	"weft/internal/event"
)

// An event file has one JSON object per line, each with one of the keys below.
// Times are milliseconds after Epoch; ids are hex. Lines that begin with # and
// empty lines are skipped.
type line struct {
	Process  *event.Process `json:"process"`
	Exit     *exit          `json:"exit"`
	Request  *request       `json:"request"`
	Carried  *carried       `json:"carried"`
	Route    *route         `json:"route"`
	Response *response      `json:"response"`
	Tick     *float64       `json:"tick"`
}

// Epoch is time zero of event files.
var Epoch = time.Date(2025, 6, 1, 12, 0, 0, 0, time.UTC)

type exit struct {
	PID      uint32
	PIDStart uint64
}

type request struct {
	Start                   float64
	PID, TID                uint32
	PIDStart                uint64
	Trace, Span, Parent     string
	Local, Remote           netip.AddrPort
	Role, Rule, Propagation string
	Flags                   uint8
	Minor                   uint8 // of HTTP/1
	HTTP2, TLS, GRPC        bool
	Method, Target, Host    string
	TargetTotal             int // 0: as long as Target
	Link                    *link
}

type link struct {
	Trace, Span string
	Flags       uint8
}

type carried struct{ Span, Role, TraceState, Baggage string }

type route struct {
	Span, Text string
	Cut        bool
}

type response struct {
	Span, Role                string
	FirstByte                 *float64
	End                       float64
	RequestBody, ResponseBody uint64
	Status                    int
	GRPC                      *uint8 // status code; null: none came
	Reason                    string
}

// Feed returns a function for Run that replays an event file.
func Feed(t testing.TB, path string) func(*correlate.Correlator) {
	t.Helper()
	raw, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	return func(c *correlate.Correlator) {
		for n, text := range bytes.Split(raw, []byte("\n")) {
			text = bytes.TrimSpace(text)
			if len(text) == 0 || text[0] == '#' {
				continue
			}
			if err := feed(c, text); err != nil {
				t.Fatalf("%s:%d: %v", path, n+1, err)
			}
		}
	}
}

func feed(c *correlate.Correlator, text []byte) error {
	var l line
	decode := json.NewDecoder(bytes.NewReader(text))
	decode.DisallowUnknownFields()
	if err := decode.Decode(&l); err != nil {
		return fmt.Errorf("decode event: %w", err)
	}
	if _, err := decode.Token(); err != io.EOF {
		return fmt.Errorf("decode event: more than one object on the line")
	}
	switch {
	case l.Process != nil:
		c.Process(l.Process)
	case l.Exit != nil:
		c.ProcessExit(l.Exit.PID, l.Exit.PIDStart)
	case l.Request != nil:
		r, err := l.Request.event()
		if err != nil {
			return err
		}
		c.Request(r)
	case l.Carried != nil:
		e, err := l.Carried.event()
		if err != nil {
			return err
		}
		c.Carried(e)
	case l.Route != nil:
		e, err := l.Route.event()
		if err != nil {
			return err
		}
		c.Route(e)
	case l.Response != nil:
		r, err := l.Response.event()
		if err != nil {
			return err
		}
		c.Response(r)
	case l.Tick != nil:
		c.Tick(at(*l.Tick))
	default:
		return fmt.Errorf("decode event: none of process, exit, request, carried, route, response, tick")
	}
	return nil
}

func (r *request) event() (event.Request, error) {
	protocol := event.Protocol(r.Minor)
	for bit, set := range map[event.Protocol]bool{
		event.ProtocolHTTP2: r.HTTP2, event.ProtocolTLS: r.TLS, event.ProtocolGRPC: r.GRPC,
	} {
		if set {
			protocol |= bit
		}
	}
	out := event.Request{
		Start: at(r.Start), PID: r.PID, TID: r.TID, PIDStart: r.PIDStart,
		Local: r.Local, Remote: r.Remote, Flags: r.Flags, Protocol: protocol,
		Method: r.Method, Target: r.Target, TargetTotal: r.TargetTotal, Host: r.Host,
	}
	if out.TargetTotal == 0 {
		out.TargetTotal = len(out.Target)
	}
	err := firstError(
		id("trace", out.TraceID[:], r.Trace),
		id("span", out.SpanID[:], r.Span),
		named("role", &out.Role, r.Role),
		named("rule", &out.Rule, r.Rule),
		named("propagation", &out.Propagation, r.Propagation),
	)
	if err == nil && r.Parent != "" {
		err = id("parent", out.ParentID[:], r.Parent)
	}
	if err == nil && r.Link != nil {
		out.Link.Flags = r.Link.Flags
		err = firstError(
			id("linked trace", out.Link.TraceID[:], r.Link.Trace),
			id("linked span", out.Link.SpanID[:], r.Link.Span),
		)
	}
	return out, err
}

func (c *carried) event() (event.Carried, error) {
	out := event.Carried{TraceState: c.TraceState, Baggage: c.Baggage}
	return out, firstError(id("span", out.SpanID[:], c.Span), named("role", &out.Role, c.Role))
}

func (r *route) event() (event.Route, error) {
	out := event.Route{Text: r.Text, Cut: r.Cut}
	return out, id("span", out.SpanID[:], r.Span)
}

func (r *response) event() (event.Response, error) {
	out := event.Response{
		End: at(r.End), RequestBody: r.RequestBody, ResponseBody: r.ResponseBody, Status: r.Status,
	}
	if r.GRPC != nil {
		out.GRPC = 1 + event.GRPCStatus(*r.GRPC)
	}
	if r.FirstByte != nil {
		out.FirstByte = at(*r.FirstByte)
	}
	return out, firstError(
		id("span", out.SpanID[:], r.Span),
		named("role", &out.Role, r.Role),
		named("reason", &out.Reason, r.Reason),
	)
}

func at(ms float64) time.Time {
	return Epoch.Add(time.Duration(ms * float64(time.Millisecond)))
}

func id(what string, into []byte, text string) error {
	if n, err := hex.Decode(into, []byte(text)); err != nil || n != len(into) {
		return fmt.Errorf("%s id %q: want %d hex digits", what, text, 2*len(into))
	}
	return nil
}

// named finds the value whose String is name; "" is the zero value.
func named[T interface {
	~uint8
	fmt.Stringer
}](what string, into *T, name string) error {
	if name == "" {
		return nil
	}
	for v := range T(32) {
		if v.String() == name {
			*into = v
			return nil
		}
	}
	return fmt.Errorf("unknown %s %q", what, name)
}

func firstError(errs ...error) error {
	for _, err := range errs {
		if err != nil {
			return err
		}
	}
	return nil
}
