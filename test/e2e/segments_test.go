package e2e

import (
	"fmt"
	"math/rand/v2"
	"strings"
	"testing"
	"time"

	"weft/test/apps/rawhttp/script"
)

// pieces cuts n into random lengths; the last is at least tail.
func pieces(rng *rand.Rand, n, most, tail int) []int {
	var out []int
	for n > tail {
		p := 1 + rng.IntN(min(most, n-tail))
		out = append(out, p)
		n -= p
	}
	return append(out, n)
}

func seeded(t *testing.T) *rand.Rand {
	t.Helper()
	seed := uint64(time.Now().UnixNano())
	t.Logf("seed %d", seed)
	return rand.New(rand.NewPCG(seed, 0))
}

// TestSegments covers messages in any segmentation, by any call.
func TestSegments(t *testing.T) {
	r := newRig(t)
	hows := []string{script.Write, script.Writev, script.Sendmsg, script.Sendto, script.Sendfile}

	// What leaves with the last send decides: the line goes before the blank
	// line, which must still be there.
	t.Run("head split at every byte", func(t *testing.T) {
		var xs []exchange
		var all []script.Got
		for at := 1; ; at++ {
			x := r.ask("POST", "/leaf", "body")
			if at >= len(x.head) {
				break
			}
			s := script.Step{Send: x.bytes(), Pieces: []int{at, len(x.head) - at, len(x.body)}, Reads: make([]script.Read, 1)}
			if at == 1 {
				s.Connect = r.addr
			}
			got := r.client.do(t, s).Got
			if len(got[0].Report.Traceparents) == 0 && len(x.head)-at < 4 {
				r.refused(t, x, got[0])
				continue
			}
			xs, all = append(xs, x), append(all, got...)
		}
		r.traced(t, xs, all)
	})
	t.Run("every byte a send", func(t *testing.T) {
		x := r.ask("POST", "/leaf", "some body")
		ones := make([]int, len(x.bytes()))
		for i := range ones {
			ones[i] = 1
		}
		got := r.client.do(t, script.Step{Connect: r.addr, Send: x.bytes(), Pieces: ones, Reads: make([]script.Read, 1)}).Got
		r.refused(t, x, got[0])
		r.simple(t, "", r.ask("GET", "/leaf", ""))
	})
	t.Run("head of 15 KiB", func(t *testing.T) {
		rng := seeded(t)
		var xs []exchange
		var all []script.Got
		for range max(5, int(40*scale(t))) {
			var lines []string
			for size := 0; size < 15<<10-200; {
				l := fmt.Sprintf("X-%d: %s", size, strings.Repeat("v", rng.IntN(400)))
				lines, size = append(lines, l), size+len(l)+2
			}
			x := r.ask("POST", "/leaf", lookalike, lines...)
			got := r.client.do(t, script.Step{Connect: r.addr, Send: x.bytes(), How: hows[rng.IntN(4)],
				Pieces: pieces(rng, len(x.bytes()), 4000, len(x.body)+4), Reads: make([]script.Read, 1)}).Got
			xs, all = append(xs, x), append(all, got...)
		}
		r.traced(t, xs, all)
	})
	t.Run("head over 16 KiB", func(t *testing.T) {
		x := r.ask("GET", "/leaf", "", "X-Long: "+strings.Repeat("v", 20<<10))
		got := r.client.do(t, script.Step{Connect: r.addr, Send: x.bytes(), Reads: make([]script.Read, 1)}).Got
		if lines := x.exact(t, got[0]); len(lines) > 1 {
			t.Errorf("%d traceparent lines", len(lines))
		}
	})
	for _, how := range hows {
		t.Run("by "+how, func(t *testing.T) {
			rng := seeded(t)
			body := strings.Repeat(lookalike, 50)
			whole := r.ask("POST", "/leaf", body)
			apart := r.ask("POST", "/leaf", body)
			many := r.ask("POST", "/leaf", chunked(body, "x", body), te)
			steps := []script.Step{
				{Send: whole.bytes(), How: how, Connect: r.addr},
				{Send: apart.bytes(), BodyHow: how, Pieces: []int{len(apart.head), len(apart.body)}},
				{Send: many.bytes(), How: how, Pieces: pieces(rng, len(many.bytes()), 700, len(many.body)+4)},
			}
			var got []script.Got
			for _, s := range steps {
				s.Reads = make([]script.Read, 1)
				got = append(got, r.client.do(t, s).Got...)
			}
			r.traced(t, []exchange{whole, apart, many}, got)
		})
	}
	t.Run("body of 8 MiB", func(t *testing.T) {
		var xs []exchange
		var all []script.Got
		for _, how := range hows {
			x := r.ask("POST", "/leaf", strings.Repeat(lookalike, 8<<20/len(lookalike)))
			got := r.client.do(t, script.Step{Connect: r.addr, Send: x.bytes(), BodyHow: how,
				Pieces: []int{len(x.head), len(x.body)}, Reads: make([]script.Read, 1)}).Got
			xs, all = append(xs, x), append(all, got...)
		}
		r.traced(t, xs, all)
	})
	// Three segments where the program sent one would wait for a delayed
	// acknowledgement: 40 ms each.
	t.Run("Nagle", func(t *testing.T) {
		var xs []exchange
		var got []script.Got
		var took []time.Duration
		for i := range 30 {
			x := r.ask("POST", "/leaf", "body")
			s := script.Step{Send: x.bytes(), Nagle: true, Reads: make([]script.Read, 1)}
			if i == 0 {
				s.Connect = r.addr
			}
			start := time.Now()
			got = append(got, r.client.do(t, s).Got...)
			took = append(took, time.Since(start))
			xs = append(xs, x)
		}
		r.traced(t, xs, got)
		stalled := 0
		for _, d := range took {
			if d > 38*time.Millisecond {
				stalled++
			}
		}
		if stalled > len(took)/2 && scale(t) == 1 {
			t.Errorf("%d of %d requests took over 38 ms with Nagle on: %v", stalled, len(took), took)
		}
	})
	if lost := r.agent.losses(); len(lost) > 0 {
		t.Errorf("lost: %v", lost)
	}
}
