package w3ctest

import (
	"encoding/binary"
	"errors"
	"fmt"
	"slices"
	"strings"

	"weft/internal/w3c"
)

// What baggage_escape of bpf/lib makes at most, and the longest key it appends.
const (
	escapedMax = 256
	appendKey  = 64
)

// TraceState says what weft makes of the vector's lines, set to its threshold.
func (v Vector) TraceState() string {
	var out strings.Builder
	t, err := w3c.ParseTraceState(v.Lines...)
	verdicts := map[error]string{
		w3c.ErrStateKey: "key", w3c.ErrStateValue: "value", w3c.ErrStateForm: "form", w3c.ErrStateMany: "too-many",
	}
	for sentinel, name := range verdicts {
		if errors.Is(err, sentinel) {
			fmt.Fprintln(&out, name)
		}
	}
	kept, cut := t.Cut()
	if err == nil {
		if t.Len() == 0 {
			fmt.Fprintln(&out, "empty")
		} else {
			fmt.Fprintf(&out, "ok cut=%d\n", cut)
		}
	}
	if ot := t.OT(); ot.HasThreshold || ot.HasRandom {
		out.WriteString("ot")
		if ot.HasThreshold {
			fmt.Fprintf(&out, " th=%014x", ot.Threshold)
		}
		if ot.HasRandom {
			fmt.Fprintf(&out, " rv=%014x", ot.Random)
		}
		out.WriteByte('\n')
	}
	fmt.Fprintf(&out, "keep %s\n", Quote(kept.String()))
	fmt.Fprintf(&out, "set %s\n", Quote(t.WithThreshold(v.Threshold).String()))
	if erased := t.WithoutThreshold().String(); erased != kept.String() {
		fmt.Fprintf(&out, "erase %s\n", Quote(erased))
	}
	return out.String()
}

// Baggage says what weft makes of the vector's lines and of the member to append.
// The members follow only where they are asked for: the kernel does not decode.
func (v Vector) Baggage(members bool) string {
	var out strings.Builder
	keep := func(key string) bool {
		return (v.Only == nil || slices.Contains(v.Only, key)) && !slices.Contains(v.Without, key)
	}
	b := w3c.ParseBaggage(keep, v.Lines...)
	fmt.Fprintf(&out, "baggage %s\n", Quote(b.String()))
	fmt.Fprintf(&out, "members=%d malformed=%d dropped=%d filtered=%d\n", len(b.Members), b.Malformed, b.Dropped, b.Filtered)
	if v.Key != "" {
		value := w3c.Escape(strings.Trim(v.Raw, " \t"))
		text := b.String()
		if text != "" {
			text += ","
		}
		text += v.Key + "=" + value
		switch {
		case len(value) > escapedMax:
			fmt.Fprintln(&out, "over")
		case b.Dropped > 0 || len(v.Key) > appendKey || len(b.Members) == w3c.BaggageMembers || len(text) > w3c.BaggageMax:
			fmt.Fprintln(&out, "refused")
		default:
			fmt.Fprintf(&out, "appended %s\n", Quote(text))
		}
	}
	if members {
		for _, m := range b.Members {
			fmt.Fprintf(&out, "member %s=%s properties=%s\n", Quote(m.Key), Quote(m.Value), Quote(m.Properties))
		}
	}
	return out.String()
}

// TraceStateFrame is the vector as the host program of bpf/tests takes it on stdin:
// the threshold, then the lines.
func (v Vector) TraceStateFrame() []byte {
	frame := binary.NativeEndian.AppendUint64(nil, v.Threshold)
	return append(frame, strings.Join(v.Lines, "\n")...)
}

// BaggageFrame likewise: four lines for the keys that pass ("*" is all), those that
// do not, the key and the raw value of the member to append; then the header lines.
func (v Vector) BaggageFrame() []byte {
	only := "*"
	if v.Only != nil {
		only = strings.Join(v.Only, " ")
	}
	options := []string{only, strings.Join(v.Without, " "), v.Key, v.Raw}
	return []byte(strings.Join(append(options, v.Lines...), "\n"))
}
