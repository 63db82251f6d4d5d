package loader

import (
	"bytes"
	"encoding/binary"
	"errors"
	"net/http"
	"net/netip"
	"reflect"
	"strconv"
	"strings"
	"testing"
	"time"
	"unsafe"

	"weft/internal/event"
)

// bytesOf is a record as the kernel writes it.
func bytesOf[T any](t *T) []byte {
	return bytes.Clone(unsafe.Slice((*byte)(unsafe.Pointer(t)), unsafe.Sizeof(*t)))
}

func headOf(kind WeftWeftEventType, size uintptr) WeftWeftEventHead {
	return WeftWeftEventHead{Type: uint16(kind), Version: abiVersion, Length: uint32(size), KtimeNs: 5000}
}

func requestRecord() []byte {
	r := WeftWeftRequest{
		StartNs: 1000, Socket: 7, ProcessStartNs: 99, Tgid: 41, Tid: 42,
		TraceId: [16]uint8{1: 2}, SpanId: [8]uint8{3: 4}, ParentId: [8]uint8{5: 6},
		LinkTraceId: [16]uint8{7: 8}, LinkSpanId: [8]uint8{1: 9},
		LocalAddr:  netip.MustParseAddr("::ffff:10.0.0.1").As16(),
		RemoteAddr: netip.MustParseAddr("2001:db8::1").As16(),
		LocalPort:  8080, RemotePort: 443,
		Role: uint8(event.RoleClient), TraceFlags: 3, ParentRule: uint8(event.ParentThread),
		Propagation: uint8(event.PropagationInjected), Http: uint8(event.ProtocolHTTP2 | event.ProtocolTLS),
		MethodLen: 3, TargetLen: 2, TargetTotal: 900, HostLen: 4,
	}
	copy(r.Method[:], "GET")
	copy(r.Target[:], "/aleftover")
	copy(r.Host[:], "shop")
	r.Head = headOf(WeftWeftEventTypeWEFT_EVENT_REQUEST, unsafe.Sizeof(r))
	return bytesOf(&r)
}

// briefRecord is the same request as a brief record.
func briefRecord() []byte {
	var r WeftWeftBrief
	whole := requestRecord()
	copy(bytesAt(&r), whole)
	copy(r.Target[:], "/aleftover")
	copy(r.Host[:], "shop")
	raw := bytesOf(&r)
	head := headOf(WeftWeftEventTypeWEFT_EVENT_BRIEF, unsafe.Sizeof(r))
	copy(raw, bytesOf(&head))
	return raw
}

// bytesAt are those of t itself.
func bytesAt[T any](t *T) []byte { return unsafe.Slice((*byte)(unsafe.Pointer(t)), unsafe.Sizeof(*t)) }

// A brief record says what a whole one says, whatever was decoded before it, and no
// more than it has.
func TestDecodeBrief(t *testing.T) {
	d := newDecoder()
	decoded := func(raw []byte) event.Request {
		var out single
		if err := d.decode(raw, Clock{Offset: time.Second}, &out); err != nil {
			t.Fatal(err)
		}
		return out.record.(event.Request)
	}
	whole := decoded(requestRecord())
	if brief := decoded(briefRecord()); !reflect.DeepEqual(brief, whole) {
		t.Errorf("brief %+v\nwhole %+v", brief, whole)
	}
	var long WeftWeftBrief
	copy(bytesAt(&long), briefRecord())
	for i := range long.Target {
		long.Target[i] = 'x'
	}
	at := WeftWeftRequest{}
	lengths := bytesAt(&long)
	binary.NativeEndian.PutUint16(lengths[unsafe.Offsetof(at.TargetLen):], 65535)
	binary.NativeEndian.PutUint16(lengths[unsafe.Offsetof(at.HostLen):], 65535)
	if r := decoded(bytesOf(&long)); r.Target != strings.Repeat("x", len(long.Target)) || len(r.Host) != len(long.Host) {
		t.Errorf("target %q, host %q", r.Target, r.Host)
	}
	if again := decoded(briefRecord()); !reflect.DeepEqual(again, whole) {
		t.Errorf("after a longer one %+v\nwant %+v", again, whole)
	}
}

// carriedRecord is the record of a span that carries these. Its lengths may be
// told to lie.
func carriedRecord(tracestate, baggage string, lie func(*WeftWeftCarried)) []byte {
	r := WeftWeftCarried{SpanId: [8]uint8{3: 4}, Role: uint8(event.RoleServer),
		TracestateLen: uint16(len(tracestate)), BaggageLen: uint16(len(baggage))}
	const size = 32 // as bpf/abi/event.h asserts; Go's mirror is padded
	r.Head = headOf(WeftWeftEventTypeWEFT_EVENT_CARRIED, size+uintptr(len(tracestate)+len(baggage)))
	if lie != nil {
		lie(&r)
	}
	return append(bytesOf(&r)[:size], tracestate+baggage...)
}

// routeRecord is the record of a route, cut as the kernel cuts it.
func routeRecord(route string) []byte {
	r := WeftWeftRoute{SpanId: [8]uint8{3: 4}, Len: uint16(len(route))}
	copy(r.Text[:], route)
	r.Head = headOf(WeftWeftEventTypeWEFT_EVENT_ROUTE, unsafe.Sizeof(r))
	return bytesOf(&r)
}

func responseRecord() []byte {
	r := WeftWeftResponse{EndNs: 3000, RequestBody: 1, ResponseBody: 2, SpanId: [8]uint8{3: 4},
		Status: 503, Role: uint8(event.RoleServer), End: uint8(event.EndReset), Rpc: uint8(event.GRPCUnavailable)}
	r.Head = headOf(WeftWeftEventTypeWEFT_EVENT_RESPONSE, unsafe.Sizeof(r))
	return bytesOf(&r)
}

func processRecord(op ProcessOp) []byte {
	r := WeftWeftProcess{ProcessStartNs: 99, Tgid: 41, ParentTgid: 40, Port: 8080, Op: uint8(op)}
	r.Head = headOf(WeftWeftEventTypeWEFT_EVENT_PROCESS, unsafe.Sizeof(r))
	return bytesOf(&r)
}

func socketRecord() []byte {
	r := WeftWeftSocket{Cookie: 77}
	r.Head = headOf(WeftWeftEventTypeWEFT_EVENT_SOCKET, unsafe.Sizeof(r))
	return bytesOf(&r)
}

func goRecord() []byte {
	r := WeftWeftGo{ProcessStartNs: 1000, Tgid: 41, Use: 1}
	r.Head = headOf(WeftWeftEventTypeWEFT_EVENT_GO, unsafe.Sizeof(r))
	return bytesOf(&r)
}

func TestDecode(t *testing.T) {
	clock := Clock{Offset: time.Second}
	for name, c := range map[string]struct {
		raw  []byte
		want any
	}{
		"request": {requestRecord(), event.Request{
			Start: time.Unix(1, 1000), Clock: time.Second, Socket: 7, PID: 41, TID: 42, PIDStart: 99,
			TraceID: event.TraceID{1: 2}, SpanID: event.SpanID{3: 4}, ParentID: event.SpanID{5: 6},
			Local: netip.MustParseAddrPort("10.0.0.1:8080"), Remote: netip.MustParseAddrPort("[2001:db8::1]:443"),
			Role: event.RoleClient, Flags: 3, Rule: event.ParentThread, Propagation: event.PropagationInjected,
			Link:     event.Link{TraceID: event.TraceID{7: 8}, SpanID: event.SpanID{1: 9}},
			Protocol: event.ProtocolHTTP2 | event.ProtocolTLS, Method: "GET", Target: "/a", TargetTotal: 900, Host: "shop",
		}},
		"carried": {carriedRecord("a=1,b=2", "user=7", nil), event.Carried{SpanID: event.SpanID{3: 4}, Role: event.RoleServer,
			TraceState: "a=1,b=2", Baggage: "user=7"}},
		"tracestate alone": {carriedRecord("a=1", "", nil), event.Carried{SpanID: event.SpanID{3: 4}, Role: event.RoleServer, TraceState: "a=1"}},
		"baggage alone":    {carriedRecord("", "user=7", nil), event.Carried{SpanID: event.SpanID{3: 4}, Role: event.RoleServer, Baggage: "user=7"}},
		"no text":          {carriedRecord("", "", nil), event.Carried{SpanID: event.SpanID{3: 4}, Role: event.RoleServer}},
		"most carried": {carriedRecord(strings.Repeat("t", 2048), strings.Repeat("b", 8192), nil), event.Carried{SpanID: event.SpanID{3: 4},
			Role: event.RoleServer, TraceState: strings.Repeat("t", 2048), Baggage: strings.Repeat("b", 8192)}},
		"carried, padded by the ring": {append(carriedRecord("a=1", "", nil), 0, 0, 0, 0, 0), event.Carried{SpanID: event.SpanID{3: 4},
			Role: event.RoleServer, TraceState: "a=1"}},
		"route": {routeRecord("GET /items/{id}"), event.Route{SpanID: event.SpanID{3: 4}, Text: "GET /items/{id}"}},
		"route, longest": {routeRecord(strings.Repeat("r", 128)), event.Route{SpanID: event.SpanID{3: 4},
			Text: strings.Repeat("r", 128)}},
		"route, cut": {routeRecord(strings.Repeat("r", 129)), event.Route{SpanID: event.SpanID{3: 4},
			Text: strings.Repeat("r", 128), Cut: true}},
		// No first byte came: the zero time, not one in 1970.
		"response": {responseRecord(), event.Response{SpanID: event.SpanID{3: 4}, Role: event.RoleServer,
			End: time.Unix(1, 3000), Clock: time.Second, RequestBody: 1, ResponseBody: 2, Status: 503, Reason: event.EndReset, GRPC: event.GRPCUnavailable}},
		"process": {processRecord(ProcessListen), ProcessRecord{PID: 41, ParentPID: 40, PIDStart: 99, Op: ProcessListen, Port: 8080}},
		"socket":  {socketRecord(), SocketRecord{Cookie: 77}},
		"go":      {goRecord(), GoRecord{PID: 41, PIDStart: 1000, Use: 1}},
		// The ring rounds up to eight bytes; what follows a record is not it.
		"longer buffer": {append(socketRecord(), 1, 2, 3), SocketRecord{Cookie: 77}},
	} {
		t.Run(name, func(t *testing.T) {
			got, err := Decode(c.raw, clock)
			if err != nil || !reflect.DeepEqual(got, c.want) {
				t.Errorf("got  %+v, %v\nwant %+v", got, err, c.want)
			}
		})
	}
}

func TestDecodeMalformed(t *testing.T) {
	patched := func(raw []byte, patch func(head []byte)) []byte {
		patch(raw)
		return raw
	}
	length := func(n uint32) func([]byte) {
		return func(b []byte) { binary.LittleEndian.PutUint32(b[4:], n) }
	}
	version := func(v uint16) func([]byte) {
		return func(b []byte) { binary.LittleEndian.PutUint16(b[2:], v) }
	}
	kind := func(v uint16) func([]byte) {
		return func(b []byte) { binary.LittleEndian.PutUint16(b, v) }
	}
	for name, c := range map[string]struct {
		raw  []byte
		says string
	}{
		"nothing":                 {nil, "0 bytes, want 16"},
		"half a head":             {requestRecord()[:8], "8 bytes, want 16"},
		"only a head":             {requestRecord()[:16], "says 552 bytes, has 16"},
		"one byte short":          {requestRecord()[:551], "says 552 bytes, has 551"},
		"brief, a byte short":     {briefRecord()[:279], "says 280 bytes, has 279"},
		"brief, named otherwise":  {patched(briefRecord(), kind(1)), "280 bytes, want 552"},
		"response short":          {responseRecord()[:63], "says 64 bytes, has 63"},
		"length too long":         {patched(socketRecord(), length(25)), "says 25 bytes, has 24"},
		"length enormous":         {patched(socketRecord(), length(1<<32-1)), "says 4294967295 bytes, has 24"},
		"length zero":             {patched(requestRecord(), length(0)), "0 bytes, want 552"},
		"length of another":       {patched(requestRecord(), length(64)), "64 bytes, want 552"},
		"process length lies":     {patched(processRecord(ProcessExit), length(39)), "39 bytes, want 40"},
		"socket length lies":      {patched(socketRecord(), length(23)), "23 bytes, want 24"},
		"response says socket's":  {patched(responseRecord(), length(24)), "24 bytes, want 64"},
		"never a version":         {patched(requestRecord(), version(0)), "version 0, want 2"},
		"older version":           {patched(requestRecord(), version(1)), "version 1, want 2"},
		"newer version":           {patched(requestRecord(), version(3)), "version 3, want 2"},
		"type never used":         {patched(socketRecord(), kind(0)), "type 0"},
		"type of the future":      {patched(socketRecord(), kind(9)), "type 9"},
		"a socket named go":       {patched(socketRecord(), kind(7)), "24 bytes, want 32"},
		"a socket named request":  {patched(socketRecord(), kind(1)), "24 bytes, want 552"},
		"a socket named route":    {patched(socketRecord(), kind(6)), "24 bytes, want 160"},
		"a socket named process":  {patched(socketRecord(), kind(3)), "24 bytes, want 40"},
		"zeroes, as never filled": {make([]byte, 552), "version 0, want 2"},

		"carried, half a struct":         {patched(carriedRecord("", "", nil), length(31)), "31 bytes, want 32"},
		"carried, text cut off":          {carriedRecord("a=1", "user=7", nil)[:40], "says 41 bytes, has 40"},
		"carried, text not counted":      {patched(carriedRecord("a=1", "user=7", nil), length(32)), "3 + 6 bytes of text, has 0"},
		"carried, text more than told":   {patched(append(carriedRecord("a=1", "", nil), "x"...), length(36)), "3 + 0 bytes of text, has 4"},
		"carried, tracestate too long":   {carriedRecord("a=1", "user=7", func(r *WeftWeftCarried) { r.TracestateLen = 10 }), "10 + 6 bytes of text, has 9"},
		"carried, longest tracestate":    {carriedRecord("a=1", "", func(r *WeftWeftCarried) { r.TracestateLen = 65535 }), "65535 + 0 bytes of text, has 3"},
		"carried, baggage too long":      {carriedRecord("a=1", "user=7", func(r *WeftWeftCarried) { r.BaggageLen = 7 }), "3 + 7 bytes of text, has 9"},
		"carried, lengths beyond 16 bit": {carriedRecord("a=1", "", func(r *WeftWeftCarried) { r.TracestateLen, r.BaggageLen = 65535, 4 }), "65535 + 4 bytes of text, has 3"},
	} {
		t.Run(name, func(t *testing.T) {
			got, err := Decode(c.raw, Clock{})
			if !errors.Is(err, ErrRecord) || got != nil && err == nil {
				t.Fatalf("got %+v, %v; want an error wrapping ErrRecord", got, err)
			}
			if !strings.Contains(err.Error(), c.says) {
				t.Errorf("error %q does not say %q", err, c.says)
			}
		})
	}
}

// The buffer of a record is that of the next one: nothing decoded may lie in it,
// and texts that take each other's place among those kept stay themselves.
func TestDecodeKeepsNothing(t *testing.T) {
	const records = 5000 // more than there are places
	d := newDecoder()
	var got log
	to := receiver(replayed{&got})
	var buffer []byte
	for n := range records {
		r, err := view[WeftWeftRequest](requestRecord())
		if err != nil {
			t.Fatal(err)
		}
		r.TargetLen = uint16(copy(r.Target[:], "/item/"+strconv.Itoa(n/2)))
		buffer = append(buffer[:0], bytesOf(r)...)
		if err := d.decode(buffer, Clock{}, to); err != nil {
			t.Fatal(err)
		}
		buffer = append(buffer[:0], carriedRecord("a="+strconv.Itoa(n), "user="+strconv.Itoa(n), nil)...)
		if err := d.decode(buffer, Clock{}, to); err != nil {
			t.Fatal(err)
		}
	}
	clear(buffer[:cap(buffer)])
	for n := range records {
		r, c := got.calls[2*n].(event.Request), got.calls[2*n+1].(event.Carried)
		if r.Method != http.MethodGet || r.Host != "shop" || r.Target != "/item/"+strconv.Itoa(n/2) ||
			c.TraceState != "a="+strconv.Itoa(n) || c.Baggage != "user="+strconv.Itoa(n) {
			t.Fatalf("record %d became %+v, %+v", n, r, c)
		}
	}
}

// A record costs no allocation once its texts are known.
func TestDecodeAllocations(t *testing.T) {
	d, request, answer := newDecoder(), requestRecord(), responseRecord()
	route := routeRecord("/items/{id}")
	to := receiver(replayed{nowhere{}})
	if n := testing.AllocsPerRun(100, func() {
		if err := errors.Join(d.decode(request, Clock{}, to), d.decode(route, Clock{}, to), d.decode(answer, Clock{}, to)); err != nil {
			t.Fatal(err)
		}
	}); n != 0 {
		t.Errorf("%v allocations", n)
	}
}

// nowhere is a handler of events that are not looked at.
type nowhere struct{}

func (nowhere) Process(*event.Process)     {}
func (nowhere) ProcessExit(uint32, uint64) {}
func (nowhere) Request(event.Request)      {}
func (nowhere) Response(event.Response)    {}
func (nowhere) Carried(event.Carried)      {}
func (nowhere) Route(event.Route)          {}
func (nowhere) Tick(time.Time)             {}

func TestNextWait(t *testing.T) {
	const mib = 1 << 20
	for _, c := range []struct {
		wait time.Duration
		size int // bytes read
		want time.Duration
	}{
		{ringBusy, 0, ringIdle},                             // nothing
		{ringIdle, 1000, ringIdle},                          // little
		{ringBusy, 1000, ringIdle},                          //
		{ringIdle, 2 * mib, ringIdle / 2},                   // half the time for half as much
		{10 * time.Millisecond, mib, 10 * time.Millisecond}, // an eighth of the ring: as it is
		{ringIdle, 16 * mib, ringBusy},                      // more than full
		{ringBusy, 8 * mib, ringBusy},                       //
	} {
		if got := nextWait(c.wait, c.size, 8*mib); got != c.want {
			t.Errorf("after %v and %d bytes: %v, want %v", c.wait, c.size, got, c.want)
		}
	}
}

// A string that says it is longer than its field ends with the field.
func TestDecodeLengthsWithinRecord(t *testing.T) {
	raw := requestRecord()
	r, err := view[WeftWeftRequest](raw)
	if err != nil {
		t.Fatal(err)
	}
	r.MethodLen, r.TargetLen, r.HostLen = 255, 65535, 65535
	got, err := Decode(bytesOf(r), Clock{})
	if err != nil {
		t.Fatal(err)
	}
	req := got.(event.Request)
	if len(req.Method) != len(r.Method) || len(req.Target) != len(r.Target) || len(req.Host) != len(r.Host) {
		t.Errorf("method %d, target %d, host %d bytes", len(req.Method), len(req.Target), len(req.Host))
	}
}

// FuzzDecode: whatever the bytes, an event or ErrRecord, and nothing from beyond
// the length the record claims.
func FuzzDecode(f *testing.F) {
	for _, seed := range [][]byte{nil, requestRecord(), briefRecord(), responseRecord(), processRecord(ProcessExec), socketRecord(),
		routeRecord("GET /items/{id}"), routeRecord(strings.Repeat("r", 300)),
		carriedRecord("a=1,b=2", "user=7", nil), carriedRecord("", "", nil),
		carriedRecord("a=1", "user=7", func(r *WeftWeftCarried) { r.TracestateLen = 9 }),
		requestRecord()[:100], append(responseRecord(), 0xff)} {
		f.Add(seed, int64(time.Second))
	}
	f.Fuzz(func(t *testing.T, raw []byte, offset int64) {
		clock := Clock{Offset: time.Duration(offset)}
		got, err := Decode(raw, clock)
		if err != nil {
			if !errors.Is(err, ErrRecord) {
				t.Fatalf("%v does not wrap ErrRecord", err)
			}
			return
		}
		length := binary.LittleEndian.Uint32(raw[4:])
		switch r := got.(type) {
		case event.Request:
			brief := len(r.Target) <= 64 && len(r.Host) <= 48 && length >= 280
			if len(r.Method) > 16 || len(r.Target) > 256 || len(r.Host) > 128 || (length < 552 && !brief) {
				t.Fatalf("%d bytes became %+v", length, r)
			}
		case event.Carried:
			if uint64(length) != 32+uint64(len(r.TraceState))+uint64(len(r.Baggage)) {
				t.Fatalf("%d bytes became %+v", length, r)
			}
		case event.Route:
			if len(r.Text) > 128 || length < 160 {
				t.Fatalf("%d bytes became %+v", length, r)
			}
		case event.Response:
			if r.Status < 0 || r.Status > 65535 || length < 64 {
				t.Fatalf("%d bytes became %+v", length, r)
			}
		case ProcessRecord:
			if length < 40 {
				t.Fatalf("%d bytes became %+v", length, r)
			}
		case SocketRecord:
			if length < 24 {
				t.Fatalf("%d bytes became %+v", length, r)
			}
		default:
			t.Fatalf("decoded a %T", got)
		}
		again, err := Decode(append(bytes.Clone(raw[:length]), "garbage"...), clock)
		if err != nil || !reflect.DeepEqual(again, got) {
			t.Fatalf("with other bytes behind it: %+v, %v; was %+v", again, err, got)
		}
	})
}
