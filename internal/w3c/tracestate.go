package w3c

import (
	"errors"
	"fmt"
	"strings"
)

// Limits of a tracestate, Level 2 section 3.3 and what weft makes of it.
const (
	TraceStateMembers = 32   // over that the whole is discarded
	TraceStateMax     = 1024 // bytes carried on; at least 512 are asked for

	longMember = 128 // bytes; members over that go first when it is cut
	keyMax     = 256 // bytes of a key
	valueMax   = 256 // bytes of a value
)

// Why a tracestate is discarded, all members of it; the traceparent beside it
// stays. It is the first rule broken, reading from the left.
var (
	ErrStateKey   = errors.New("a key is empty, too long, or has a byte that no key may have")
	ErrStateValue = errors.New("a value is empty, too long, or has a byte that no value may have")
	ErrStateForm  = errors.New("a member has no '='")
	ErrStateMany  = errors.New("more than 32 members")
)

// TraceState is the members of a tracestate in order. The zero value has none.
// A modification returns a new one.
type TraceState struct {
	members []string // key=value, without white space around
	seen    int      // members that came, those included that can never be carried
}

// ParseTraceState reads the tracestate fields of one message, in order of
// appearance: they are combined as if a comma stood between them. Empty members
// vanish. Two members of one key stay both, as they came.
func ParseTraceState(fields ...string) (TraceState, error) {
	var t TraceState
	longs, full := 0, false
	for _, field := range fields {
		for part := range strings.SplitSeq(field, ",") {
			member := strings.TrimLeft(part, " \t")
			if member == "" {
				continue
			}
			if lower(member[0]) && t.seen == TraceStateMembers {
				return TraceState{}, stateError(field, ErrStateMany)
			}
			if err := checkMember(member); err != nil {
				return TraceState{}, stateError(field, err)
			}
			t.seen++
			member = trim(member)
			if len(member) > longMember {
				// Cut drops the longer ones from the last on. One that has no
				// room beside those before it never stays, nor any later one.
				full = full || longs+len(member) > TraceStateMax
				if full {
					continue
				}
				longs += len(member) + 1
			}
			t.members = append(t.members, member)
		}
	}
	return t, nil
}

func stateError(field string, err error) error {
	return fmt.Errorf("parse tracestate %q: %w", clip(field), err)
}

// checkMember applies the grammar of Level 2 section 3.3.2.2; the older limits on
// both sides of an '@' are gone from it.
func checkMember(member string) error {
	key := run(member, 0, func(c byte) bool { return lower(c) || strings.IndexByte("_-*/@", c) >= 0 })
	switch {
	case key == 0 || !lower(member[0]) || key > keyMax:
		return ErrStateKey
	case key == len(member):
		return ErrStateForm
	case member[key] != '=':
		return ErrStateKey
	}
	value := strings.TrimRight(member[key+1:], " \t")
	n := run(value, 0, func(c byte) bool { return c == ' ' || visible(c) && c != '=' })
	if n != len(value) || n == 0 || n > valueMax {
		return ErrStateValue
	}
	return nil
}

// Len is the number of members.
func (t TraceState) Len() int { return len(t.members) }

// String writes the members with a comma between, whatever that takes; Cut first
// what is to be sent.
func (t TraceState) String() string { return strings.Join(t.members, ",") }

// Get returns the value of the first member with this key.
func (t TraceState) Get(key string) (string, bool) {
	for _, member := range t.members {
		if k, value, _ := strings.Cut(member, "="); k == key {
			return value, true
		}
	}
	return "", false
}

// Cut returns what is carried on, at most TraceStateMax bytes: members over 128
// bytes are dropped from the last on, then any from the last on. dropped counts
// them, with those that ParseTraceState knew to be beyond the limit.
func (t TraceState) Cut() (kept TraceState, dropped int) {
	kept = t.fit(TraceStateMax, TraceStateMembers)
	return kept, max(t.seen, len(t.members)) - len(kept.members)
}

// fit drops members until there are at most `most`, of `room` bytes together.
func (t TraceState) fit(room, most int) TraceState {
	members := append([]string(nil), t.members...)
	total := -1
	for _, member := range members {
		total += len(member) + 1
	}
	drop := func(i int) {
		total -= len(members[i]) + 1
		members = append(members[:i], members[i+1:]...)
	}
	for i := len(members) - 1; i >= 0 && total > room; i-- {
		if len(members[i]) > longMember {
			drop(i)
		}
	}
	for len(members) > 0 && (total > room || len(members) > most) {
		drop(len(members) - 1)
	}
	return TraceState{members: members, seen: len(members)}
}
