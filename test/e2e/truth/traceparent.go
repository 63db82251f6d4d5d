package truth

import (
	"encoding/hex"
	"fmt"
	"strings"
)

// Traceparent is a parsed W3C traceparent value.
type Traceparent struct {
	TraceID string // 32 lower-case hex digits
	SpanID  string // 16 lower-case hex digits
	Flags   uint8
}

// ParseTraceparent is a reading of W3C Trace Context of its own, so that a
// mistake in weft's parser is not repeated by what judges it.
func ParseTraceparent(value string) (Traceparent, error) {
	var tp Traceparent
	if len(value) < 55 {
		return tp, fmt.Errorf("traceparent %q: shorter than 55 characters", value)
	}
	parts := strings.SplitN(value, "-", 5)
	if len(parts) < 4 || len(parts[0]) != 2 || len(parts[1]) != 32 || len(parts[2]) != 16 || len(parts[3]) != 2 {
		return tp, fmt.Errorf("traceparent %q: not 2-32-16-2 digits", value)
	}
	if len(parts) == 5 && parts[0] == "00" {
		return tp, fmt.Errorf("traceparent %q: version 00 with a tail", value)
	}
	for _, p := range parts[:4] {
		if strings.Trim(p, "0123456789abcdef") != "" {
			return tp, fmt.Errorf("traceparent %q: not lower-case hex", value)
		}
	}
	if parts[0] == "ff" {
		return tp, fmt.Errorf("traceparent %q: version ff", value)
	}
	if strings.Trim(parts[1], "0") == "" || strings.Trim(parts[2], "0") == "" {
		return tp, fmt.Errorf("traceparent %q: id of zeros", value)
	}
	flags, err := hex.DecodeString(parts[3])
	if err != nil {
		return tp, fmt.Errorf("traceparent %q: flags: %w", value, err)
	}
	return Traceparent{TraceID: parts[1], SpanID: parts[2], Flags: flags[0]}, nil
}

// Single parses the one traceparent among values; none or several are errors.
func Single(values []string) (Traceparent, error) {
	if len(values) != 1 {
		return Traceparent{}, fmt.Errorf("%d traceparent lines: %q", len(values), values)
	}
	return ParseTraceparent(values[0])
}

// Sampled reports the sampled flag.
func (t Traceparent) Sampled() bool { return t.Flags&1 != 0 }
