package loader

import (
	"encoding/binary"
	"fmt"
	"os"
	"strings"
	"unsafe"

	"weft/internal/event"
)

// unreadEnds is how many ends may wait for their response. It follows in the ring, so
// few do; what the ring had no room for must not be kept for ever.
const unreadEnds = 1024

// unread settles what programs could not read of a process, before anything else sees
// their records. Looking at it makes the kernel fetch the page, so that the programs
// can read it themselves the next time.
type unread struct {
	follows func(pid uint32, start uint64) bool // is it that process still?
	open    func(pid uint32) (memory, error)
	ends    map[event.SpanID]event.End
	route   WeftWeftRoute // what settle returned last
}

// memory is the memory of a process, by its addresses.
type memory interface {
	ReadAt(b []byte, address int64) (int, error)
	Close() error
}

func newUnread(f *finder) *unread {
	return &unread{
		follows: func(pid uint32, start uint64) bool {
			t := f.tracked[pid]
			return t != nil && t.start == start
		},
		open: func(pid uint32) (memory, error) { return os.Open(fmt.Sprintf("/proc/%d/mem", pid)) },
		ends: map[event.SpanID]event.End{},
	}
}

// settle takes a record of the ring, and returns what is to be done with it, until the
// next one: nil if it is of no further use.
func (u *unread) settle(raw []byte) []byte {
	head, err := view[WeftWeftEventHead](raw)
	if err != nil || head.Version != abiVersion {
		return raw
	}
	switch head.Type {
	case uint16(WeftWeftEventTypeWEFT_EVENT_REQUEST):
		if r, err := view[WeftWeftRequest](raw); err == nil {
			u.target(r)
		}
	case uint16(WeftWeftEventTypeWEFT_EVENT_RESPONSE):
		r, err := view[WeftWeftResponse](raw)
		if err != nil || event.End(r.End) != event.EndUnread {
			return raw
		}
		if end, ok := u.ends[r.SpanId]; ok {
			delete(u.ends, r.SpanId)
			r.End = uint8(end)
		}
	case uint16(WeftWeftEventTypeWEFT_EVENT_UNREAD):
		r, err := view[WeftWeftUnread](raw)
		if err != nil {
			return raw
		}
		return u.look(r)
	}
	return raw
}

// targetUnread is a bit of enum weft_http that no span has: settle takes it away.
const targetUnread = event.Protocol(WeftWeftHttpWEFT_HTTP_UNREAD)

// target reads the target of a request where the program could not: it is where its
// first bytes say.
func (u *unread) target(r *WeftWeftRequest) {
	if r.Http&uint8(targetUnread) == 0 {
		return
	}
	r.Http &^= uint8(targetUnread)
	at := binary.NativeEndian.Uint64(r.Target[:])
	if r.TargetLen != 0 || !u.follows(r.Tgid, r.ProcessStartNs) {
		return
	}
	m, err := u.open(r.Tgid)
	if err != nil {
		return
	}
	defer m.Close() //nolint:errcheck // read only
	n := min(int(r.TargetTotal), len(r.Target))
	if _, err := m.ReadAt(r.Target[:n], int64(at)); err == nil {
		r.TargetLen = uint16(n)
	}
}

// look reads what a record is about, and returns the record that the program would
// have written, if that is not the response.
func (u *unread) look(r *WeftWeftUnread) []byte {
	if !u.follows(r.Tgid, r.ProcessStartNs) {
		return nil
	}
	m, err := u.open(r.Tgid)
	if err != nil {
		return nil // it has ended, or may not be looked at
	}
	defer m.Close() //nolint:errcheck // read only
	switch r.Kind {
	case uint8(WeftWeftUnreadKindWEFT_UNREAD_ERROR):
		if len(u.ends) >= unreadEnds {
			clear(u.ends)
		}
		u.ends[r.SpanId] = goEnd(m, r)
		return nil
	case uint8(WeftWeftUnreadKindWEFT_UNREAD_ROUTE):
		u.route = WeftWeftRoute{Head: r.Head, SpanId: r.SpanId, Router: r.Router, Len: uint16(min(r.Word[1], 2*uint64(len(u.route.Text))))}
		u.route.Head.Type = uint16(WeftWeftEventTypeWEFT_EVENT_ROUTE)
		u.route.Head.Length = uint32(unsafe.Sizeof(u.route))
		text := u.route.Text[:min(r.Word[1], uint64(len(u.route.Text)))]
		if _, err := m.ReadAt(text, int64(r.Word[0])); err != nil {
			return nil
		}
		return unsafe.Slice((*byte)(unsafe.Pointer(&u.route)), unsafe.Sizeof(u.route))
	}
	var first [1]byte
	_, _ = m.ReadAt(first[:], int64(r.Word[0])) // it is the page that is wanted
	return nil
}

// Error codes of RST_STREAM, RFC 9113 section 7.
const (
	http2NoError = 0
	http2Cancel  = 8
	http2Codes   = 64 // above the last there is
)

// goEnd says how the error ended its stream, as weft_go_end_of in bpf/go/stream.h does
// where it can read it all.
func goEnd(m memory, r *WeftWeftUnread) event.End {
	word := func(at uint64) (uint64, bool) {
		var b [8]byte
		if _, err := m.ReadAt(b[:], int64(at)); err != nil {
			return 0, false
		}
		return binary.LittleEndian.Uint64(b[:]), true
	}
	kind, ok := word(r.Itab + 8)
	if !ok {
		return event.EndUnread
	}
	size, ok := word(kind) // Size_, the first member of internal/abi.Type
	switch {
	case !ok:
		return event.EndUnread
	case size == 0:
		return event.EndTimeout // context.DeadlineExceeded
	case r.Word[0] == 0:
		return event.EndUnread
	}
	if code := r.Word[0] >> 32; uint32(r.Word[0]) == r.Stream && code < http2Codes && (r.Word[1] == 0 || r.Word[1] > 0xffff) {
		switch code {
		case http2NoError:
			return event.EndComplete
		case http2Cancel:
			return event.EndCancelled
		}
		return event.EndReset
	}
	var text [16]byte
	if r.Word[1] < uint64(len(text)) || r.Word[1] > 0xffff {
		return event.EndClosed
	}
	if _, err := m.ReadAt(text[:], int64(r.Word[0])); err != nil {
		return event.EndUnread
	}
	return goErrorEnd(string(text[:]))
}

// goErrorEnd says what an error means of whose text this is the beginning.
func goErrorEnd(text string) event.End {
	for _, e := range [...]struct {
		begins string
		end    event.End
	}{
		{"context canceled", event.EndCancelled},
		{"net/http: reques", event.EndCancelled}, // request canceled
		{"net/http: timeou", event.EndTimeout},   // timeout awaiting …
		{"http2: timeout a", event.EndTimeout},
		{"http2: response ", event.EndComplete}, // response body closed
		{"http2: request b", event.EndComplete}, // request body closed due to handler exiting
		{"http2: h", event.EndReset},            // handler panicked
	} {
		if strings.HasPrefix(text, e.begins) {
			return e.end
		}
	}
	return event.EndClosed
}
