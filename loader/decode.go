package loader

import (
	"errors"
	"fmt"
	"net/netip"
	"time"
	"unsafe"

	"weft/internal/event"
)

// abiVersion is WEFT_ABI_VERSION of bpf/abi/event.h.
const abiVersion = 2

// ErrRecord marks a ring record that cannot be decoded.
var ErrRecord = errors.New("malformed ring record")

// view copies a record into its generated struct after a length check.
func view[T any](b []byte) (t T, err error) {
	if uintptr(len(b)) < unsafe.Sizeof(t) {
		return t, fmt.Errorf("%w: %d bytes, want %d", ErrRecord, len(b), unsafe.Sizeof(t))
	}
	copy(unsafe.Slice((*byte)(unsafe.Pointer(&t)), unsafe.Sizeof(t)), b)
	return t, nil
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

// Decode turns one ring record into event.Request, event.Carried, event.Response,
// ProcessRecord or SocketRecord. It returns an error wrapping ErrRecord for
// anything else.
func Decode(raw []byte, clock Clock) (any, error) {
	head, err := view[WeftWeftEventHead](raw)
	if err != nil {
		return nil, err
	}
	if head.Version != abiVersion {
		return nil, fmt.Errorf("%w: version %d, want %d", ErrRecord, head.Version, abiVersion)
	}
	if int(head.Length) > len(raw) {
		return nil, fmt.Errorf("%w: says %d bytes, has %d", ErrRecord, head.Length, len(raw))
	}
	raw = raw[:head.Length]
	switch head.Type {
	case uint16(WeftWeftEventTypeWEFT_EVENT_REQUEST):
		return decodeRequest(raw, clock)
	case uint16(WeftWeftEventTypeWEFT_EVENT_CARRIED):
		return decodeCarried(raw)
	case uint16(WeftWeftEventTypeWEFT_EVENT_RESPONSE):
		return decodeResponse(raw, clock)
	case uint16(WeftWeftEventTypeWEFT_EVENT_PROCESS):
		r, err := view[WeftWeftProcess](raw)
		if err != nil {
			return nil, err
		}
		return ProcessRecord{PID: r.Tgid, ParentPID: r.ParentTgid, PIDStart: r.ProcessStartNs,
			Op: ProcessOp(r.Op), Port: r.Port}, nil
	case uint16(WeftWeftEventTypeWEFT_EVENT_SOCKET):
		r, err := view[WeftWeftSocket](raw)
		if err != nil {
			return nil, err
		}
		return SocketRecord{Cookie: r.Cookie}, nil
	}
	return nil, fmt.Errorf("%w: type %d", ErrRecord, head.Type)
}

func decodeRequest(raw []byte, clock Clock) (event.Request, error) {
	r, err := view[WeftWeftRequest](raw)
	if err != nil {
		return event.Request{}, err
	}
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
		HTTPMinor:   r.HttpMinor,
		Method:      string(cut(r.Method[:], int(r.MethodLen))),
		Target:      string(cut(r.Target[:], int(r.TargetLen))),
		TargetTotal: int(r.TargetTotal),
		Host:        string(cut(r.Host[:], int(r.HostLen))),
	}, nil
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

func decodeResponse(raw []byte, clock Clock) (event.Response, error) {
	r, err := view[WeftWeftResponse](raw)
	if err != nil {
		return event.Response{}, err
	}
	return event.Response{
		SpanID:       r.SpanId,
		Role:         event.Role(r.Role),
		FirstByte:    clock.Wall(r.FirstByteNs),
		End:          clock.Wall(r.EndNs),
		Clock:        clock.Offset,
		RequestBody:  r.RequestBody,
		ResponseBody: r.ResponseBody,
		Status:       int(r.Status),
		Reason:       event.End(r.End),
	}, nil
}

func cut(b []byte, n int) []byte {
	return b[:min(n, len(b))]
}

func addrPort(a [16]uint8, port uint16) netip.AddrPort {
	return netip.AddrPortFrom(netip.AddrFrom16(a).Unmap(), port)
}
