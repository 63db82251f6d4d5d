package sample

import (
	"fmt"
	"runtime"
	"testing"
	"time"
	"unsafe"

	"weft/internal/event"
	"weft/internal/selfstats"
)

// traffic makes spans of traces with eight each, on 200 routes, one in 500
// failed.
func traffic(n int, ts string) []*event.Span {
	random := source()
	process := &event.Process{Service: "shop"}
	out := make([]*event.Span, n)
	var trace uint64
	for i := range out {
		if i%8 == 0 {
			trace = random.Uint64N(never)
		}
		s := span(trace, fmt.Sprintf("/shop/%s/%d", word(random.Uint64N(200)<<32), random.Uint64()), state(ts),
			took(time.Duration(random.ExpFloat64()*float64(10*time.Millisecond))))
		s.Process = process
		if random.IntN(500) == 0 {
			s.Response.Status = 500
		}
		out[i] = s
	}
	return out
}

// BenchmarkSpan is the steady state: as many spans are decided as come.
func BenchmarkSpan(b *testing.B) {
	all := Options{Errors: true, SlowerThan: time.Second, SlowerQuantile: 0.99, RarePerMinute: 5, Ratio: 0.1, MaxSpans: 16384, Wait: time.Hour}
	for name, bench := range map[string]struct {
		opts  Options
		state string
	}{
		"all policies":           {all, "ot=th:0"},
		"no routes":              {Options{Errors: true, SlowerThan: time.Second, Ratio: 0.1, MaxSpans: 16384, Wait: time.Hour}, "ot=th:0"},
		"ratio, no tracestate":   {Options{Ratio: 0.1, MaxSpans: 16384, Wait: time.Hour}, ""},
		"all kept and rewritten": {Options{Ratio: 0.9999, MaxSpans: 16384, Wait: time.Hour}, "ot=th:0"},
	} {
		b.Run(name, func(b *testing.B) {
			spans := traffic(1<<17, bench.state)
			tail, err := New(bench.opts, &count{}, selfstats.New())
			if err != nil {
				b.Fatal(err)
			}
			defer closed(b, tail)
			for _, s := range spans[:bench.opts.MaxSpans] {
				tail.Span(s)
			}
			b.ReportAllocs()
			b.ResetTimer()
			for i := range b.N {
				tail.Span(spans[i%len(spans)])
			}
		})
	}
}

// BenchmarkHeld reports what holding a span takes, beside the span itself, in
// traces of one span and of eight.
func BenchmarkHeld(b *testing.B) {
	const n = 1 << 16
	for _, each := range []int{1, 8} {
		b.Run(fmt.Sprint(each), func(b *testing.B) {
			spans := traffic(n, "")
			if each == 1 {
				random := source()
				for _, s := range spans {
					s.TraceID = traceID(random.Uint64N(never))
				}
			}
			var bytes float64
			for range b.N {
				before := heap()
				tail, err := New(Options{MaxSpans: n, Wait: time.Hour}, &count{}, selfstats.New())
				if err != nil {
					b.Fatal(err)
				}
				for _, s := range spans {
					tail.Span(s)
				}
				bytes = float64(heap()-before) / n
				closed(b, tail)
			}
			b.ReportMetric(bytes, "B/span-held")
			b.ReportMetric(float64(unsafe.Sizeof(event.Span{})), "B/span-itself")
			runtime.KeepAlive(spans)
		})
	}
}

func heap() uint64 {
	var m runtime.MemStats
	runtime.GC()
	runtime.ReadMemStats(&m)
	return m.HeapAlloc
}
