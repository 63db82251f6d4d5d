package sample

import (
	"math"
	"slices"
	"testing"
	"time"
)

func TestBuckets(t *testing.T) {
	last := 0
	for d := time.Duration(1); d < 1<<42; d += d/16 + 1 {
		b := bucket(d)
		if b < last || b > last+1 || b >= buckets {
			t.Fatalf("%v is in bucket %d, the one before in %d", d, b, last)
		}
		last = b
	}
	if last != buckets-1 || bucket(0) != 0 || bucket(-1) != 0 || bucket(math.MaxInt64) != buckets-1 {
		t.Errorf("ends: %d %d %d %d", last, bucket(0), bucket(-1), bucket(math.MaxInt64))
	}
}

// The estimate lies within a bucket of the exact quantile, and no more than the
// share beyond it is called slow.
func TestQuantileOfLogNormal(t *testing.T) {
	for _, q := range []float64{0.5, 0.9, 0.99, 0.999} {
		h := newHistogram(q)
		random := source()
		var all []time.Duration
		slow := 0
		const n = 100_000
		for range n {
			d := time.Duration(math.Exp(random.NormFloat64()) * float64(10*time.Millisecond))
			all = append(all, d)
			if h.add(d, 0) {
				slow++
			}
		}
		slices.Sort(all)
		exact := all[int(q*n)]
		if b := bucket(exact); b < h.cut-1 || b > h.cut+1 {
			t.Errorf("quantile %v is %v, bucket %d; estimated bucket %d", q, exact, b, h.cut)
		}
		if most := (1 - q) * n; float64(slow) > 1.2*most+10 || float64(slow) < most/3 {
			t.Errorf("quantile %v: %d of %d called slow", q, slow, n)
		}
	}
}

func TestNothingSlowBeforeEnoughSamples(t *testing.T) {
	h := newHistogram(0.9)
	for i := range minSamples {
		d := time.Millisecond
		if i == minSamples-1 {
			d = time.Hour
		}
		if h.add(d, 0) {
			t.Fatalf("sample %d called slow", i+1)
		}
	}
	if !h.add(time.Hour, 0) {
		t.Error("an hour where all took a millisecond is not slow")
	}
}

func TestSteadyRouteHasNothingSlow(t *testing.T) {
	h := newHistogram(0.5)
	for i := range 1000 {
		if h.add(5*time.Millisecond+time.Duration(i), 0) {
			t.Fatal("a route that always takes as long has something slow")
		}
	}
}

// When a route becomes slower for good, that is soon normal; when it becomes
// faster, the old times fade.
func TestQuantileFollows(t *testing.T) {
	h := newHistogram(0.9)
	feed := func(n int, d time.Duration, now time.Duration) (slow int) {
		for range n {
			if h.add(d, now) {
				slow++
			}
		}
		return slow
	}
	feed(10_000, 10*time.Millisecond, 0)
	if slow := feed(10_000, 100*time.Millisecond, 0); slow < 500 || slow > 1200 {
		t.Errorf("%d called slow until the new times were normal", slow)
	}
	now := time.Duration(0)
	for range 14 {
		now += halfLife + 1
		feed(100, time.Millisecond, now)
	}
	if h.cut != bucket(time.Millisecond) {
		t.Errorf("after 14 half-lives the quantile is in bucket %d, want %d", h.cut, bucket(time.Millisecond))
	}
	if h.sum < minSamples {
		t.Errorf("faded to a weight of %v", h.sum)
	}
}

// A route that is seldom used keeps its samples, however old.
func TestSeldomUsedRouteKeepsSamples(t *testing.T) {
	h := newHistogram(0.9)
	for i := range 1000 {
		h.add(time.Millisecond, time.Duration(i)*halfLife/10)
	}
	if h.sum < minSamples || h.sum > 3*minSamples {
		t.Errorf("a weight of %v is left", h.sum)
	}
	if !h.add(time.Second, 1000*halfLife) {
		t.Error("a second where all took a millisecond is not slow")
	}
}

// However long it runs, the bookkeeping agrees with the counts.
func TestHistogramStaysTrue(t *testing.T) {
	h := newHistogram(0.99)
	random := source()
	now := time.Duration(0)
	for i := range 500_000 {
		now += time.Duration(random.Int64N(int64(20 * time.Millisecond)))
		h.add(time.Duration(math.Exp(2*random.NormFloat64())*float64(time.Millisecond)), now)
		if i%50_000 != 0 {
			continue
		}
		var sum, upper float64
		for b, c := range h.count {
			sum += float64(c)
			if b > h.cut {
				upper += float64(c)
			}
		}
		if math.Abs(sum-h.sum) > 0.01 || math.Abs(upper-h.upper) > 0.01 || h.upper > h.above*h.sum {
			t.Fatalf("after %d: sum %v is %v, upper %v is %v", i, h.sum, sum, h.upper, upper)
		}
	}
	if now < 10*halfLife {
		t.Fatal("too short to fade")
	}
}
