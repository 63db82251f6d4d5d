package loader

import (
	"errors"
	"fmt"
	"hash/maphash"
	"net/netip"
	"time"
	"unsafe"

	"weft/internal/event"
)

// abiVersion is WEFT_ABI_VERSION of bpf/abi/event.h.
const abiVersion = 2

// ErrRecord marks a ring record that cannot be decoded.
var ErrRecord = errors.New("malformed ring record")

// view reads a record as its generated struct, in place, after a length check.
// The structs hold no pointers, so any address will do.
func view[T any](b []byte) (*T, error) {
	if size := unsafe.Sizeof(*new(T)); uintptr(len(b)) < size {
		return nil, fmt.Errorf("%w: %d bytes, want %d", ErrRecord, len(b), size)
	}
	return (*T)(unsafe.Pointer(unsafe.SliceData(b))), nil
}

// Clock turns CLOCK_MONOTONIC nanoseconds of the kernel into wall time.
type Clock struct {
	Offset time.Duration // wall time at monotonic zero, since the Unix epoch
}

// Wall returns the wall time of a kernel timestamp; zero stays zero.
func (c Clock) Wall(ktime uint64) time.Time {
	if ktime == 0 {
		return time.Time{}
	}
	return time.Unix(0, int64(ktime)+int64(c.Offset))
}

// ProcessOp says what happened to a process.
type ProcessOp uint8

// Process records; the values are those of enum weft_process_op.
const (
	ProcessExec ProcessOp = iota + 1
	ProcessExit
	ProcessListen
	ProcessFork
)

// ProcessRecord is a decoded struct weft_process.
type ProcessRecord struct {
	PID, ParentPID uint32
	PIDStart       uint64
	Op             ProcessOp
	Port           uint16 // ProcessListen
}

// SocketRecord is a decoded struct weft_socket: take this socket out of the
// sockhash.
type SocketRecord struct{ Cookie uint64 }

// GoRecord is a decoded struct weft_go: a Go process does what is watched on demand.
type GoRecord struct {
	PID      uint32
	PIDStart uint64
	Use      uint32 // enum weft_go_use
}

// receiver takes decoded records. Each kind has a method of its own, because a
// value of any of them would cost an allocation.
type receiver interface {
	Request(event.Request)
	Carried(event.Carried)
	Route(event.Route)
	Response(event.Response)
	process(ProcessRecord)
	socket(SocketRecord)
	goProgram(GoRecord)
}

// Decode turns one ring record into event.Request, event.Carried, event.Route,
// event.Response, ProcessRecord, SocketRecord or GoRecord. It returns an error wrapping ErrRecord for
// anything else.
func Decode(raw []byte, clock Clock) (any, error) {
	var out single
	if err := newDecoder().decode(raw, clock, &out); err != nil {
		return nil, err
	}
	return out.record, nil
}

// single keeps the record it receives.
type single struct{ record any }

func (d *single) Request(r event.Request)   { d.record = r }
func (d *single) Carried(r event.Carried)   { d.record = r }
func (d *single) Route(r event.Route)       { d.record = r }
func (d *single) Response(r event.Response) { d.record = r }
func (d *single) process(r ProcessRecord)   { d.record = r }
func (d *single) socket(r SocketRecord)     { d.record = r }
func (d *single) goProgram(r GoRecord)      { d.record = r }

// decoder decodes records, one after the other.
type decoder struct {
	seed  maphash.Seed
	texts [1024]string
	last  WeftWeftRequest // a brief one, made whole
}

func newDecoder() *decoder { return &decoder{seed: maphash.MakeSeed()} }

// decode hands one ring record to the receiver, or returns an error wrapping
// ErrRecord. It keeps nothing of raw.
func (d *decoder) decode(raw []byte, clock Clock, to receiver) error {
	head, err := view[WeftWeftEventHead](raw)
	if err != nil {
		return err
	}
	if head.Version != abiVersion {
		return fmt.Errorf("%w: version %d, want %d", ErrRecord, head.Version, abiVersion)
	}
	if int(head.Length) > len(raw) {
		return fmt.Errorf("%w: says %d bytes, has %d", ErrRecord, head.Length, len(raw))
	}
	raw = raw[:head.Length]
	switch head.Type {
	case uint16(WeftWeftEventTypeWEFT_EVENT_REQUEST):
		r, err := view[WeftWeftRequest](raw)
		if err != nil {
			return err
		}
		to.Request(d.request(r, clock))
	case uint16(WeftWeftEventTypeWEFT_EVENT_BRIEF):
		r, err := view[WeftWeftBrief](raw)
		if err != nil {
			return err
		}
		to.Request(d.request(d.whole(r), clock))
	case uint16(WeftWeftEventTypeWEFT_EVENT_CARRIED):
		r, err := decodeCarried(raw)
		if err != nil {
			return err
		}
		to.Carried(r)
	case uint16(WeftWeftEventTypeWEFT_EVENT_ROUTE):
		r, err := view[WeftWeftRoute](raw)
		if err != nil {
			return err
		}
		to.Route(event.Route{SpanID: r.SpanId,
			Text: routed(d.text(cut(r.Text[:], int(r.Len))), r.Router), Cut: int(r.Len) > len(r.Text)})
	case uint16(WeftWeftEventTypeWEFT_EVENT_RESPONSE):
		r, err := view[WeftWeftResponse](raw)
		if err != nil {
			return err
		}
		to.Response(response(r, clock))
	case uint16(WeftWeftEventTypeWEFT_EVENT_PROCESS):
		r, err := view[WeftWeftProcess](raw)
		if err != nil {
			return err
		}
		to.process(ProcessRecord{PID: r.Tgid, ParentPID: r.ParentTgid, PIDStart: r.ProcessStartNs,
			Op: ProcessOp(r.Op), Port: r.Port})
	case uint16(WeftWeftEventTypeWEFT_EVENT_SOCKET):
		r, err := view[WeftWeftSocket](raw)
		if err != nil {
			return err
		}
		to.socket(SocketRecord{Cookie: r.Cookie})
	case uint16(WeftWeftEventTypeWEFT_EVENT_GO):
		r, err := view[WeftWeftGo](raw)
		if err != nil {
			return err
		}
		to.goProgram(GoRecord{PID: r.Tgid, PIDStart: r.ProcessStartNs, Use: r.Use})
	default:
		return fmt.Errorf("%w: type %d", ErrRecord, head.Type)
	}
	return nil
}

// whole is a brief record as the other kind, until the next one.
func (d *decoder) whole(r *WeftWeftBrief) *WeftWeftRequest {
	*(*[len(r.Same)]byte)(unsafe.Pointer(&d.last)) = r.Same
	copy(d.last.Target[:], r.Target[:])
	copy(d.last.Host[:], r.Host[:])
	// What is behind them is of another record.
	d.last.TargetLen = min(d.last.TargetLen, uint16(len(r.Target)))
	d.last.HostLen = min(d.last.HostLen, uint16(len(r.Host)))
	return &d.last
}

func (d *decoder) request(r *WeftWeftRequest, clock Clock) event.Request {
	return event.Request{
		Start:       clock.Wall(r.StartNs),
		Clock:       clock.Offset,
		Socket:      r.Socket,
		PID:         r.Tgid,
		TID:         r.Tid,
		PIDStart:    r.ProcessStartNs,
		TraceID:     r.TraceId,
		SpanID:      r.SpanId,
		ParentID:    r.ParentId,
		Local:       addrPort(r.LocalAddr, r.LocalPort),
		Remote:      addrPort(r.RemoteAddr, r.RemotePort),
		Role:        event.Role(r.Role),
		Flags:       r.TraceFlags,
		Rule:        event.ParentRule(r.ParentRule),
		Propagation: event.Propagation(r.Propagation),
		Link:        event.Link{TraceID: r.LinkTraceId, SpanID: r.LinkSpanId},
		Protocol:    event.Protocol(r.Http),
		Method:      d.text(cut(r.Method[:], int(r.MethodLen))),
		Target:      d.text(cut(r.Target[:], int(r.TargetLen))),
		TargetTotal: int(r.TargetTotal),
		Host:        d.text(cut(r.Host[:], int(r.HostLen))),
	}
}

func response(r *WeftWeftResponse, clock Clock) event.Response {
	return event.Response{
		SpanID:       r.SpanId,
		Role:         event.Role(r.Role),
		FirstByte:    clock.Wall(r.FirstByteNs),
		End:          clock.Wall(r.EndNs),
		Clock:        clock.Offset,
		RequestBody:  r.RequestBody,
		ResponseBody: r.ResponseBody,
		Status:       int(r.Status),
		GRPC:         event.GRPCStatus(r.Rpc),
		Reason:       event.End(r.End),
	}
}

// text makes one string of equal bytes that come again soon: methods and hosts
// are few, and most paths are asked for more than once. Each text has one place
// among the texts; another with that place takes it.
func (d *decoder) text(b []byte) string {
	at := &d.texts[maphash.Bytes(d.seed, b)%uint64(len(d.texts))]
	if *at != string(b) {
		*at = string(b)
	}
	return *at
}

// carriedSize is sizeof(struct weft_carried): Go pads the mirror of a struct that
// ends in an empty array, and C does not.
const carriedSize = int(unsafe.Offsetof(WeftWeftCarried{}.Text))

func decodeCarried(raw []byte) (event.Carried, error) {
	if len(raw) < carriedSize {
		return event.Carried{}, fmt.Errorf("%w: %d bytes, want %d", ErrRecord, len(raw), carriedSize)
	}
	var r WeftWeftCarried
	copy(unsafe.Slice((*byte)(unsafe.Pointer(&r)), carriedSize), raw)
	text := raw[carriedSize:]
	if int(r.TracestateLen)+int(r.BaggageLen) != len(text) {
		return event.Carried{}, fmt.Errorf("%w: %d + %d bytes of text, has %d", ErrRecord, r.TracestateLen, r.BaggageLen, len(text))
	}
	return event.Carried{SpanID: r.SpanId, Role: event.Role(r.Role),
		TraceState: string(text[:r.TracestateLen]), Baggage: string(text[r.TracestateLen:])}, nil
}

func cut(b []byte, n int) []byte {
	return b[:min(n, len(b))]
}

func addrPort(a [16]uint8, port uint16) netip.AddrPort {
	return netip.AddrPortFrom(netip.AddrFrom16(a).Unmap(), port)
}
