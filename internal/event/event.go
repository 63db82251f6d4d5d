// Package event holds the domain types that pass between loader, correlate and
// export. It is a leaf: it imports nothing of weft.
package event

import (
	"net/netip"
	"time"
)

// TraceID is a W3C trace-id, 16 bytes in network order.
type TraceID [16]byte

// SpanID is a W3C parent-id, 8 bytes in network order; zero means none.
type SpanID [8]byte

// Role says which end of the connection the traced process is.
type Role uint8

// Roles; the values are those of enum weft_role in bpf/abi/event.h.
const (
	RoleUnknown Role = iota
	RoleServer
	RoleClient
)

// ParentRule says how the parent of a span was decided.
type ParentRule uint8

// Parent rules; the values are those of enum weft_parent_rule.
const (
	ParentNone      ParentRule = iota // root: nothing in flight, or no inbound header
	ParentWire                        // server: inbound traceparent
	ParentThread                      // client: same thread, which never held two requests at once
	ParentSole                        // client: one candidate in flight now, on a thread that interleaves
	ParentAdopted                     // client: the program sent its own traceparent
	ParentAmbiguous                   // root: several candidates in flight on this thread
	ParentInvalid                     // root: inbound traceparent malformed or repeated
	ParentUntrusted                   // root: inbound context from a network that is not trusted; see Request.Link
	ParentContext                     // client: the context.Context of the call leads to the request
	ParentGoroutine                   // client: the request that this goroutine serves
	ParentCreator                     // client: this goroutine was created by one that serves the request
)

// Propagation says what became of the outgoing header.
type Propagation uint8

// Propagation outcomes; the values are those of enum weft_propagation.
const (
	PropagationNone     Propagation = iota // not a client request
	PropagationInjected                    // weft wrote traceparent
	PropagationOwn                         // the program wrote its own
	PropagationObserved                    // socket not in the sockhash, or injection is off
	PropagationRefused                     // a guard refused; the kernel counters say which
	PropagationWithheld                    // traceparent may not leave to this network
)

// End says how an exchange ended.
type End uint8

// Ends; the values are those of enum weft_end.
const (
	EndComplete  End = iota // last byte of the response passed
	EndClosed               // connection closed before the response was complete
	EndUpgraded             // 101 or CONNECT: no longer HTTP
	EndLost                 // bytes passed unseen; the end is not exact
	EndReset                // connection reset or timed out mid-exchange
	EndCancelled            // given up by whoever asked; the connection may live on
	EndTimeout              // given up because its deadline passed
	EndUnread               // with an error that could not be read
)

// Protocol says what an exchange is made of. Without ProtocolHTTP2 it is HTTP/1.
type Protocol uint8

// Bits of a Protocol; the values are those of enum weft_http.
const (
	ProtocolMinor Protocol = 1 << iota // HTTP/1.1, else 1.0
	ProtocolHTTP2
	ProtocolTLS  // inside TLS
	ProtocolGRPC // a gRPC call: its method is the request's target
)

// Has says whether all bits of what are set.
func (p Protocol) Has(what Protocol) bool { return p&what == what }

// Version is the version of HTTP, as network.protocol.version has it.
func (p Protocol) Version() string {
	switch {
	case p.Has(ProtocolHTTP2):
		return "2"
	case p.Has(ProtocolMinor):
		return "1.1"
	}
	return "1.0"
}

// Request is the first half of an exchange: its header block is complete.
type Request struct {
	Start    time.Time     // first byte of the request
	Clock    time.Duration // wall clock minus monotonic clock, of Start
	Socket   uint64        // socket identity, opaque
	PID, TID uint32
	PIDStart uint64 // start_boottime of the process, ns
	TraceID  TraceID
	SpanID   SpanID
	ParentID SpanID // zero: root
	Local    netip.AddrPort
	Remote   netip.AddrPort
	Role     Role
	Flags    uint8 // W3C trace-flags as on the wire
	// TraceState is the W3C tracestate that goes with this span's context, as it
	// is on the wire; empty: none.
	TraceState string
	// Link is the context that a peer who is not trusted claimed; zero: none.
	Link Link
	// Baggage holds the members chosen to become attributes, values decoded.
	Baggage     []Member
	Rule        ParentRule
	Propagation Propagation
	Protocol    Protocol
	Method      string
	Target      string // request target, cut at 256 bytes
	TargetTotal int    // its length on the wire
	Host        string // Host header, cut at 128 bytes
}

// Link names a span of another trace.
type Link struct {
	TraceID TraceID
	SpanID  SpanID // zero: no link
	Flags   uint8
}

// Member is one key of baggage and its value, percent-decoded.
type Member struct{ Key, Value string }

// Carried is what travels beside a request's traceparent. It follows the
// Request of the same span, if there is anything to say.
type Carried struct {
	SpanID     SpanID
	Role       Role
	TraceState string // as Request.TraceState
	Baggage    string // members chosen to become attributes, as on the wire
}

// Route is the route of the program's own router that a server's request took.
// It comes between Request and Response of its span.
type Route struct {
	SpanID SpanID
	Text   string // as the router has it: GET /items/{id}, or example.org/items/{id}
	Cut    bool   // Text misses its end
}

// Response is the second half: the exchange has ended.
type Response struct {
	SpanID       SpanID
	Role         Role
	FirstByte    time.Time // zero: no final response came
	End          time.Time
	Clock        time.Duration // wall clock minus monotonic clock, of FirstByte and End
	RequestBody  uint64        // bytes, chunk framing excluded
	ResponseBody uint64
	Status       int        // 0: none came
	GRPC         GRPCStatus // of a gRPC call
	Reason       End
}

// Process describes a selected process; loader makes one per process and
// hands it out before the first Request that names its PID and PIDStart.
type Process struct {
	PID      uint32
	PIDStart uint64 // start_boottime, ns
	Service  string // resolved service.name
	// ServiceInstance is unique per process, for service.instance.id.
	ServiceInstance string
	Exe             string            // path of the executable
	Args            []string          // left out by the loader: they may hold secrets, and 1 MiB
	Cgroup          string            // cgroup v2 path
	Resource        map[string]string // further resource attributes (OTEL_RESOURCE_ATTRIBUTES of the process)
}

// Span is a finished exchange, ready for export.
type Span struct {
	Request
	Response Response
	Route    string   // as Route.Text; "": not known
	Process  *Process // nil: not known
}
