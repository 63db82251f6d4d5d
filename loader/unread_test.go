package loader

import (
	"encoding/binary"
	"errors"
	"os"
	"runtime"
	"testing"
	"unsafe"

	"weft/internal/event"
)

// goErrors are errors in the memory of this process, as a Go program has them: an itab
// that leads to a type, and what the data of the interface points to.
type goErrors struct {
	pin      runtime.Pinner
	sized    *[2]uint64 // of an error of a type with bytes
	unsized  *[2]uint64 // of one without
	dangling *[2]uint64 // its type is nowhere
}

func newGoErrors(t *testing.T) *goErrors {
	e := &goErrors{}
	t.Cleanup(e.pin.Unpin)
	of := func(typ uint64) *[2]uint64 {
		itab := &[2]uint64{0, typ}
		e.pin.Pin(itab)
		return itab
	}
	for _, size := range []uint64{8, 0} {
		typ := &size
		e.pin.Pin(typ)
		itab := of(uint64(uintptr(unsafe.Pointer(typ))))
		if size == 0 {
			e.unsized = itab
		} else {
			e.sized = itab
		}
	}
	e.dangling = of(0)
	return e
}

// text is the words of an errorString.
func (e *goErrors) text(s string) [2]uint64 {
	b := []byte(s)
	e.pin.Pin(unsafe.SliceData(b))
	return [2]uint64{uint64(uintptr(unsafe.Pointer(unsafe.SliceData(b)))), uint64(len(b))}
}

func (e *goErrors) record(itab *[2]uint64, words [2]uint64) *WeftWeftUnread {
	r := &WeftWeftUnread{Itab: uint64(uintptr(unsafe.Pointer(itab))), Word: words, SpanId: [8]uint8{1},
		Tgid: uint32(os.Getpid()), ProcessStartNs: 7, Stream: 5, Kind: uint8(WeftWeftUnreadKindWEFT_UNREAD_ERROR)}
	r.Head = headOf(WeftWeftEventTypeWEFT_EVENT_UNREAD, unsafe.Sizeof(*r))
	return r
}

func newOwnUnread() *unread {
	u := newUnread(&finder{tracked: map[uint32]*tracked{uint32(os.Getpid()): {start: 7}}})
	return u
}

func wholeOf[T any](r *T) []byte {
	return unsafe.Slice((*byte)(unsafe.Pointer(r)), unsafe.Sizeof(*r))
}

// endOf has the record settled, and then the response that waits for it.
func endOf(t *testing.T, u *unread, r *WeftWeftUnread) event.End {
	t.Helper()
	if rest := u.settle(wholeOf(r)); rest != nil {
		t.Errorf("a record of an error is handed on: % x", rest)
	}
	answer := WeftWeftResponse{SpanId: r.SpanId, End: uint8(event.EndUnread)}
	answer.Head = headOf(WeftWeftEventTypeWEFT_EVENT_RESPONSE, unsafe.Sizeof(answer))
	raw := u.settle(wholeOf(&answer))
	got, err := Decode(raw, Clock{})
	if err != nil {
		t.Fatal(err)
	}
	if n := len(u.ends); n != 0 {
		t.Errorf("%d ends are kept behind their responses", n)
	}
	return got.(event.Response).Reason
}

func TestUnreadError(t *testing.T) {
	e := newGoErrors(t)
	for name, c := range map[string]struct {
		itab  *[2]uint64
		words [2]uint64
		want  event.End
	}{
		"context.DeadlineExceeded":        {e.unsized, [2]uint64{}, event.EndTimeout},
		"context.Canceled":                {e.sized, e.text("context canceled"), event.EndCancelled},
		"net/http cancelled":              {e.sized, e.text("net/http: request canceled"), event.EndCancelled},
		"net/http timeout":                {e.sized, e.text("net/http: timeout awaiting response headers"), event.EndTimeout},
		"http2 timeout":                   {e.sized, e.text("http2: timeout awaiting response headers"), event.EndTimeout},
		"body closed":                     {e.sized, e.text("http2: response body closed"), event.EndComplete},
		"handler is done":                 {e.sized, e.text("http2: request body closed due to handler exiting"), event.EndComplete},
		"handler panicked":                {e.sized, e.text("http2: handler panicked"), event.EndReset},
		"another text":                    {e.sized, e.text("http2: client connection lost"), event.EndClosed},
		"a short text":                    {e.sized, e.text("EOF"), event.EndClosed},
		"stream error NO_ERROR":           {e.sized, [2]uint64{5, 0}, event.EndComplete},
		"stream error CANCEL":             {e.sized, [2]uint64{8<<32 | 5, 1 << 20}, event.EndCancelled},
		"stream error REFUSED_STREAM":     {e.sized, [2]uint64{7<<32 | 5, 0}, event.EndReset},
		"words that could not be read":    {e.sized, [2]uint64{}, event.EndUnread},
		"text at an address of nothing":   {e.sized, [2]uint64{8, 20}, event.EndUnread},
		"a type at an address of nothing": {e.dangling, e.text("context canceled"), event.EndUnread},
	} {
		t.Run(name, func(t *testing.T) {
			if got := endOf(t, newOwnUnread(), e.record(c.itab, c.words)); got != c.want {
				t.Errorf("ended %s, want %s", got, c.want)
			}
		})
	}
}

// TestUnreadOfOthers does not look at a process that is not the one of the record, and
// lives with one that may not be looked at.
func TestUnreadOfOthers(t *testing.T) {
	e := newGoErrors(t)
	other := e.record(e.sized, e.text("context canceled"))
	other.ProcessStartNs = 8
	if got := endOf(t, newOwnUnread(), other); got != event.EndUnread {
		t.Errorf("another process of the same number: %s", got)
	}
	u := newOwnUnread()
	u.open = func(uint32) (memory, error) { return nil, os.ErrPermission }
	if got := endOf(t, u, e.record(e.sized, e.text("context canceled"))); got != event.EndUnread {
		t.Errorf("without a look: %s", got)
	}
}

func TestUnreadRoute(t *testing.T) {
	e, u := newGoErrors(t), newOwnUnread()
	r := e.record(nil, e.text("GET /books/{id}"))
	r.Kind, r.Router = uint8(WeftWeftUnreadKindWEFT_UNREAD_ROUTE), uint8(WeftWeftRouterWEFT_ROUTER_NET_HTTP)
	got, err := Decode(u.settle(wholeOf(r)), Clock{})
	if err != nil {
		t.Fatal(err)
	}
	want := event.Route{SpanID: r.SpanId, Text: routed("GET /books/{id}", r.Router)}
	if got != want {
		t.Errorf("%+v, want %+v", got, want)
	}
	r.Word[0] = 8
	if rest := u.settle(wholeOf(r)); rest != nil {
		t.Errorf("a route that cannot be read: % x", rest)
	}
	r.Kind = uint8(WeftWeftUnreadKindWEFT_UNREAD_TEXT)
	if rest := u.settle(wholeOf(r)); rest != nil {
		t.Errorf("a text that nobody waits for: % x", rest)
	}
}

// TestUnreadTarget reads the target of a request where its record says it is.
func TestUnreadTarget(t *testing.T) {
	e := newGoErrors(t)
	const method = "/weft.test.Matrix/Unary"
	words := e.text(method)
	for name, c := range map[string]struct {
		at    uint64
		start uint64
		http  uint8
		want  string
	}{
		"read":             {words[0], 7, 16 | 8 | 2, method},
		"nothing is there": {8, 7, 16 | 8 | 2, ""},
		"another process":  {words[0], 8, 16 | 8 | 2, ""},
		"known":            {words[0], 7, 8 | 2, ""},
	} {
		t.Run(name, func(t *testing.T) {
			r := WeftWeftRequest{Tgid: uint32(os.Getpid()), ProcessStartNs: c.start, Http: c.http, TargetTotal: uint16(words[1])}
			binary.NativeEndian.PutUint64(r.Target[:], c.at)
			r.Head = headOf(WeftWeftEventTypeWEFT_EVENT_REQUEST, unsafe.Sizeof(r))
			got, err := Decode(newOwnUnread().settle(wholeOf(&r)), Clock{})
			if err != nil {
				t.Fatal(err)
			}
			if q := got.(event.Request); q.Target != c.want || q.TargetTotal != len(method) || q.Protocol != 8|2 {
				t.Errorf("%q of %d bytes, protocol %d; want %q", q.Target, q.TargetTotal, q.Protocol, c.want)
			}
		})
	}
}

// TestUnreadBounded holds the ends that wait for responses which the ring had no room
// for to a number.
func TestUnreadBounded(t *testing.T) {
	e, u := newGoErrors(t), newOwnUnread()
	r := e.record(e.sized, e.text("context canceled"))
	for i := range 3 * unreadEnds {
		r.SpanId = [8]uint8{2, uint8(i >> 8), uint8(i)}
		u.settle(wholeOf(r))
	}
	if n := len(u.ends); n > unreadEnds {
		t.Errorf("%d ends wait, want at most %d", n, unreadEnds)
	}
	if _, err := Decode(u.settle([]byte("short")), Clock{}); !errors.Is(err, ErrRecord) {
		t.Errorf("a record that is none: %v", err)
	}
}
