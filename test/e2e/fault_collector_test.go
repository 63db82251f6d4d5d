package e2e

import (
	"fmt"
	"net"
	"strings"
	"testing"
	"time"

	"weft/test/e2e/footprint"
	"weft/test/e2e/otlpsink"
)

// TestFaultCollectorDown: the receiver of spans is away until many times what
// the queue holds has been made, which is an hour of a small queue, and comes
// back. Memory is bounded, what did not fit is counted, and all else arrives.
func TestFaultCollectorDown(t *testing.T) {
	t.Run("refuses", func(t *testing.T) {
		collectorDown(t, func(*testing.T, string) (closing func()) { return func() {} })
	})
	t.Run("takes connections and never answers", func(t *testing.T) {
		collectorDown(t, func(t *testing.T, addr string) func() {
			l, err := net.Listen("tcp", addr)
			if err != nil {
				t.Fatal(err)
			}
			var open []net.Conn
			ended := make(chan struct{})
			go func() {
				defer close(ended)
				for {
					c, err := l.Accept()
					if err != nil {
						return
					}
					open = append(open, c)
				}
			}()
			return func() {
				_ = l.Close()
				<-ended
				for _, c := range open {
					_ = c.Close()
				}
			}
		})
	})
}

// collectorDown: instead occupies the receiver's address while it is away.
func collectorDown(t *testing.T, instead func(*testing.T, string) (closing func())) {
	const queue, times = 256, 20
	g := newGroup(t)
	addr, _ := startRawServer(t, g)
	sink := startSink(t)
	a := startAgent(t, g, sink, agentOptions{env: []string{fmt.Sprintf("OTEL_BSP_MAX_QUEUE_SIZE=%d", queue),
		"OTEL_BSP_MAX_EXPORT_BATCH_SIZE=64", "OTEL_EXPORTER_OTLP_TIMEOUT=1000"}})
	load := startSteadyLoad(t, g, addr, loadClients, 4*time.Millisecond)
	load.sends(t, 500)
	sink.Wait(100, patience(t, 10*time.Second))
	if got := len(sink.Take()); got < 100 {
		t.Fatalf("%d spans before anything went wrong", got)
	}

	if err := sink.Close(); err != nil {
		t.Fatal(err)
	}
	closing := instead(t, sink.GRPC)
	away := time.Now()
	var samples []footprint.Sample
	for dropped := 0.0; dropped < queue*times; {
		load.sends(t, queue)
		m := a.metrics()
		dropped = sumOf(m, "weft_dropped_total", `stage="otlp"`, `cause="queue_full"`)
		if held := sumOf(m, "weft_export_queue_spans", `exporter="otlp"`); held > queue {
			t.Errorf("%v spans are held, in a queue for %d", held, queue)
		}
		samples = append(samples, a.footprint())
		if time.Since(away) > patience(t, 90*time.Second) {
			t.Fatalf("after %v only %v spans were dropped by a queue for %d", time.Since(away), dropped, queue)
		}
	}
	first, last := samples[0], samples[len(samples)-1]
	if last.RSS > first.RSS+24*mib {
		t.Errorf("RSS rose from %d to %d MiB while the receiver was away", first.RSS/mib, last.RSS/mib)
	}
	closing()

	back, err := otlpsink.StartAt(sink.GRPC, sink.HTTP)
	if err != nil {
		t.Fatal(err)
	}
	defer back.Close()
	// It may pause for 10 s, and a connection attempt of gRPC's for as long.
	back.Wait(4*queue, patience(t, time.Minute))
	if got := len(back.Take()); got < 4*queue {
		t.Errorf("%d spans after the receiver is back", got)
	}
	load.end(t)
	// Every span that was made was delivered or is counted as dropped.
	eventually(t, 20*time.Second, func() error {
		m := a.metrics()
		made, sent, dropped := sumOf(m, "weft_spans_total"), sumOf(m, "weft_exported_spans_total"), sumOf(m, "weft_dropped_total", `stage="otlp"`)
		if made != sent+dropped {
			return fmt.Errorf("%v spans were made, %v delivered and %v dropped: %v are missing", made, sent, dropped, made-sent-dropped)
		}
		return nil
	})
	for name, n := range a.losses() {
		if strings.Contains(name, `cause="queue_full"`) || strings.Contains(name, `cause="open_at_shutdown"`) {
			continue
		}
		t.Errorf("%s is %v", name, n)
	}
	if n := strings.Count(a.out.String(), "\n"); n > 40 {
		t.Errorf("%d lines of log about one receiver:\n%s", n, a.out.tail())
	}
	requests, _ := load.tally.count()
	t.Logf("%d requests, away for %v; RSS %d → %d MiB", requests, last.At.Sub(away).Round(time.Second), first.RSS/mib, last.RSS/mib)
	a.stop()
}
