package sample

import (
	"math/bits"
	"time"
)

const (
	// minSamples of a route are needed before anything is slow for it.
	minSamples = 100
	// halfLife is how long a sample counts in full.
	halfLife = 5 * time.Minute
	// maxWeight bounds the sum, so that single precision counts exactly.
	maxWeight = 1 << 20

	// Buckets are an eighth of a power of two wide: a duration is known to 1/8.
	// They reach from 8 µs to 18 minutes.
	bucketBits = 3
	shortest   = 13 // log2 of the ns where the second bucket begins
	longest    = 40
	buckets    = (longest-shortest)<<bucketBits + 2
)

// histogram estimates one quantile of a stream whose old samples fade. Adding
// costs O(1): the bucket of the quantile moves as samples come.
type histogram struct {
	above float64 // share of samples that may lie above the quantile
	count [buckets]float32
	sum   float64 // of all counts
	upper float64 // of the counts beyond cut
	cut   int     // the bucket that the quantile lies in
	aged  time.Duration
}

func newHistogram(quantile float64) *histogram { return &histogram{above: 1 - quantile} }

func (h *histogram) reset(now time.Duration) { *h = histogram{above: h.above, aged: now} }

// bucket of a duration; the first takes everything short, the last the long.
func bucket(d time.Duration) int {
	if d < 1<<shortest {
		return 0
	}
	log := bits.Len64(uint64(d)) - 1
	if log >= longest {
		return buckets - 1
	}
	part := int(d>>(log-bucketBits)) & (1<<bucketBits - 1)
	return (log-shortest)<<bucketBits + part + 1
}

// add takes a duration and says whether it lies beyond the quantile of those
// before it: clearly, in another bucket, so that a route that always takes as
// long has nothing slow.
func (h *histogram) add(d, now time.Duration) (slow bool) {
	if h.sum >= maxWeight || h.sum >= 2*minSamples && now-h.aged > halfLife {
		h.fade(now)
	}
	b := bucket(d)
	slow = h.sum >= minSamples && b > h.cut
	h.count[b]++
	h.sum++
	if b > h.cut {
		h.upper++
	}
	for h.upper > h.above*h.sum && h.cut < buckets-1 {
		h.cut++
		h.upper -= float64(h.count[h.cut])
	}
	for h.cut > 0 && h.upper+float64(h.count[h.cut]) <= h.above*h.sum {
		h.upper += float64(h.count[h.cut])
		h.cut--
	}
	return slow
}

// fade halves the weight of all samples so far. A route with few samples keeps
// them, however old: better than none.
func (h *histogram) fade(now time.Duration) {
	h.aged = now
	h.sum, h.upper = 0, 0
	for i := range h.count {
		h.count[i] /= 2
		h.sum += float64(h.count[i])
		if i > h.cut {
			h.upper += float64(h.count[i])
		}
	}
}
