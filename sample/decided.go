package sample

import (
	"hash/maphash"
	"math/bits"

	"weft/internal/event"
)

// decision is what was decided for a trace: the reason in the high byte, below
// it the threshold, 56 bits, that the trace passed. Zero is none.
type decision uint64

func decide(why reason, threshold uint64) decision {
	return decision(uint64(why)<<56 | threshold)
}

func (d decision) reason() reason    { return reason(d >> 56) }
func (d decision) threshold() uint64 { return uint64(d) & (never - 1) }

// ways is the number of decisions in one set.
const ways = 8

// decisions remembers the last decisions, 24 bytes each and no pointers. A
// trace id belongs to one set; within a set the one unused the longest is
// forgotten.
type decisions struct {
	seed maphash.Seed
	sets [][ways]entry
}

type entry struct {
	id event.TraceID
	decision
}

// newDecisions holds at least n.
func newDecisions(n int) decisions {
	return decisions{maphash.MakeSeed(), make([][ways]entry, max(n+ways-1, ways)/ways)}
}

func (c *decisions) set(id event.TraceID) *[ways]entry {
	i, _ := bits.Mul64(maphash.Bytes(c.seed, id[:]), uint64(len(c.sets)))
	return &c.sets[i]
}

func (c *decisions) get(id event.TraceID) (decision, bool) {
	set := c.set(id)
	for i := range set {
		if e := set[i]; e.id == id && e.decision != 0 {
			copy(set[1:i+1], set[:i])
			set[0] = e
			return e.decision, true
		}
	}
	return 0, false
}

func (c *decisions) put(id event.TraceID, d decision) {
	set := c.set(id)
	last := len(set) - 1
	for i := range set {
		if set[i].id == id {
			last = i
			break
		}
	}
	copy(set[1:last+1], set[:last])
	set[0] = entry{id, d}
}

// copyTo puts what is remembered into another, which forgets the oldest first if it is
// smaller.
func (c *decisions) copyTo(other *decisions) {
	for i := ways - 1; i >= 0; i-- {
		for _, set := range c.sets {
			if e := set[i]; e.decision != 0 {
				other.put(e.id, e.decision)
			}
		}
	}
}
