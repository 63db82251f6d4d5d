// Package w3c reads and writes what the W3C says travels with a request:
// traceparent and tracestate (Trace Context Level 2) and baggage. It is the Go twin
// of bpf/lib/traceparent.h, tracestate.h and baggage.h, and a leaf. docs/w3c.md lists
// every rule, and the test that holds it.
package w3c

import (
	"encoding/hex"
	"errors"
	"fmt"
)

// Length of a version 00 value, in bytes; later versions have at least that.
const Length = 55

// Flags that are known; Parse clears all others.
const (
	FlagSampled = 0x01
	FlagRandom  = 0x02 // the trace-id is random, Level 2 section 3.2.2.4.2

	knownFlags = FlagSampled | FlagRandom
)

// Why a value is no traceparent. Of several broken rules Parse names the first
// in this order: length below 55, form, version, length by version, form by
// version, trace-id, span-id; the kernel's parser does the same.
var (
	ErrLength    = errors.New("length is not that of a traceparent")
	ErrForm      = errors.New("form is not version-traceid-parentid-flags in lower-case hexadecimal")
	ErrVersion   = errors.New("version ff is forbidden")
	ErrTraceID   = errors.New("trace-id is all zero")
	ErrSpanID    = errors.New("parent-id is all zero")
	ErrDuplicate = errors.New("more than one traceparent field")
	ErrMissing   = errors.New("no traceparent field")
)

// TraceParent is what one traceparent value says.
type TraceParent struct {
	TraceID [16]byte
	SpanID  [8]byte
	Flags   uint8 // FlagSampled and FlagRandom
	Version uint8 // as it came; String always writes 00
}

// Sampled reports whether the caller may have recorded this trace.
func (t TraceParent) Sampled() bool { return t.Flags&FlagSampled != 0 }

// String writes the value as version 00.
func (t TraceParent) String() string {
	b := make([]byte, 0, Length)
	b = append(b, "00-"...)
	b = hex.AppendEncode(b, t.TraceID[:])
	b = append(b, '-')
	b = hex.AppendEncode(b, t.SpanID[:])
	b = append(b, '-')
	b = hex.AppendEncode(b, []byte{t.Flags})
	return string(b)
}

// Parse reads a field value whose surrounding white space is already trimmed.
// A later version is read as far as version 00 goes, as the specification asks.
func Parse(value string) (TraceParent, error) {
	t, err := parse(value)
	if err != nil {
		return TraceParent{}, fmt.Errorf("parse traceparent %q: %w", clip(value), err)
	}
	return t, nil
}

func parse(v string) (TraceParent, error) {
	var t TraceParent
	if len(v) < Length {
		return t, ErrLength
	}
	var version, flags [1]byte
	if v[2] != '-' || v[35] != '-' || v[52] != '-' ||
		!unhex(version[:], v[0:2]) || !unhex(t.TraceID[:], v[3:35]) ||
		!unhex(t.SpanID[:], v[36:52]) || !unhex(flags[:], v[53:55]) {
		return t, ErrForm
	}
	t.Version, t.Flags = version[0], flags[0]&knownFlags
	switch {
	case t.Version == 0xff:
		return t, ErrVersion
	case len(v) > Length && t.Version == 0:
		return t, ErrLength
	case len(v) > Length && v[Length] != '-':
		return t, ErrForm
	case t.TraceID == [16]byte{}:
		return t, ErrTraceID
	case t.SpanID == [8]byte{}:
		return t, ErrSpanID
	}
	return t, nil
}

// FromFields applies the extraction rules to all traceparent fields of one
// message, in order of appearance and untrimmed:
//
//   - the name is matched whatever its case (the caller has done that);
//   - spaces and tabs around the value do not belong to it;
//   - more than one field is ErrDuplicate, even if they agree, because two
//     recipients may choose differently;
//   - no field is ErrMissing; anything Parse refuses is an error.
//
// On any error the message has no parent: a new trace begins.
func FromFields(values []string) (TraceParent, error) {
	switch len(values) {
	case 0:
		return TraceParent{}, ErrMissing
	case 1:
		return Parse(trim(values[0]))
	default:
		return TraceParent{}, ErrDuplicate
	}
}

// unhex decodes lower-case digits only; encoding/hex takes both cases.
func unhex(dst []byte, src string) bool {
	for i := range dst {
		high, low := digit(src[2*i]), digit(src[2*i+1])
		if high > 15 || low > 15 {
			return false
		}
		dst[i] = high<<4 | low
	}
	return true
}
