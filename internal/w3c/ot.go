package w3c

import (
	"fmt"
	"math"
	"strconv"
	"strings"
)

// MaxThreshold is 2^56: one more than the largest threshold, and as one itself
// "nothing is sampled", for which th has no text.
const MaxThreshold = 1 << 56

// otOthers bounds ot's sub-keys besides th and rv when it is rewritten, in bytes:
// with both of those it is a value of 256.
const otOthers = 220

// OT is what the ot member says: OpenTelemetry's consistent probability sampling.
// Malformed counts as absent; of two th or rv the first counts.
type OT struct {
	Threshold    uint64 // th, 56 bits: sampled if the randomness is not below it
	Random       uint64 // rv, 56 bits: replaces the last 7 bytes of the trace-id
	HasThreshold bool
	HasRandom    bool
}

// OT reads the first ot member.
func (t TraceState) OT() OT {
	ot, _, _ := t.readOT()
	return ot
}

// readOT also returns the sub-keys that a rewritten ot keeps, and whether th came
// at all.
func (t TraceState) readOT() (ot OT, others []string, erasable bool) {
	value, ok := t.Get("ot")
	if !ok {
		return OT{}, nil, false
	}
	sawRandom, size, full := false, -1, false
	for sub := range strings.SplitSeq(value, ";") {
		text, isThreshold := strings.CutPrefix(sub, "th:")
		if isThreshold {
			if !erasable {
				ot.Threshold, ot.HasThreshold = hex56(text)
			}
			erasable = true
			continue
		}
		text, isRandom := strings.CutPrefix(sub, "rv:")
		if isRandom {
			if !sawRandom && len(text) == 14 {
				ot.Random, ot.HasRandom = hex56(text)
			}
			sawRandom = true
			continue
		}
		sub = strings.TrimRight(sub, " ") // at the end they would be none of the value's
		if sub == "" || full {
			continue
		}
		size += len(sub) + 1
		if full = size > otOthers; !full {
			others = append(others, sub)
		}
	}
	return ot, others, erasable
}

// hex56 reads 1 to 14 lower-case digits, the first of them the most significant of
// 14.
func hex56(text string) (uint64, bool) {
	if len(text) < 1 || len(text) > 14 {
		return 0, false
	}
	var n uint64
	for i := range len(text) {
		d := digit(text[i])
		if d > 15 {
			return 0, false
		}
		n = n<<4 | uint64(d)
	}
	return n << (4 * (14 - len(text))), true
}

// WithThreshold returns the tracestate, cut, with th set in front of the list. What
// else ot said stays as far as a value has room for it.
func (t TraceState) WithThreshold(threshold uint64) TraceState {
	ot, others, _ := t.readOT()
	return t.withOT("th:"+ThresholdText(threshold), ot, others)
}

// WithoutThreshold returns the tracestate, cut, without th. If that changes ot, what
// is left of it moves to the front.
func (t TraceState) WithoutThreshold() TraceState {
	ot, others, erasable := t.readOT()
	if !erasable && t.count("ot") < 2 {
		kept, _ := t.Cut()
		return kept
	}
	return t.withOT("", ot, others)
}

func (t TraceState) count(key string) int {
	n := 0
	for _, member := range t.members {
		if strings.HasPrefix(member, key+"=") {
			n++
		}
	}
	return n
}

func (t TraceState) withOT(threshold string, ot OT, others []string) TraceState {
	var subs, rest []string
	if threshold != "" {
		subs = append(subs, threshold)
	}
	if ot.HasRandom {
		subs = append(subs, fmt.Sprintf("rv:%014x", ot.Random))
	}
	subs = append(subs, others...)
	for _, member := range t.members {
		if !strings.HasPrefix(member, "ot=") {
			rest = append(rest, member)
		}
	}
	if len(subs) == 0 {
		return TraceState{members: rest}.fit(TraceStateMax, TraceStateMembers)
	}
	first := "ot=" + strings.Join(subs, ";")
	kept := TraceState{members: rest}.fit(TraceStateMax-len(first)-1, TraceStateMembers-1)
	members := append([]string{first}, kept.members...)
	return TraceState{members: members, seen: len(members)}
}

// ThresholdText writes a threshold as th does: 14 hexadecimal digits without the
// zeros at their end, "0" for none left.
func ThresholdText(threshold uint64) string {
	text := strings.TrimRight(fmt.Sprintf("%014x", threshold&(MaxThreshold-1)), "0")
	if text == "" {
		return "0"
	}
	return text
}

// ThresholdOf returns the threshold that samples this share of all traces, 0 to 1:
// (1 - ratio) * 2^56, rounded. A share under 2^-57 gives MaxThreshold.
func ThresholdOf(ratio float64) (uint64, error) {
	if math.IsNaN(ratio) || ratio < 0 || ratio > 1 {
		return 0, fmt.Errorf("sampling ratio %s: want 0 to 1", strconv.FormatFloat(ratio, 'g', -1, 64))
	}
	return MaxThreshold - uint64(math.Round(ratio*MaxThreshold)), nil
}

// Randomness is the last 7 bytes of a trace-id, what is compared with a threshold.
func Randomness(traceID [16]byte) uint64 {
	var n uint64
	for _, b := range traceID[9:] {
		n = n<<8 | uint64(b)
	}
	return n
}
