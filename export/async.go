package export

import (
	"context"
	"fmt"
	"time"

	"weft/internal/event"
	"weft/internal/selfstats"
)

// printer is what a worker drives, from one goroutine.
type printer interface {
	add(*event.Span)
	// tick is called when the queue is empty and every interval.
	tick(now time.Time)
	// finish writes what is held; no call follows.
	finish() error
}

// worker is the goroutine of an exporter that writes to a file or terminal: a
// reader that is slow to read must not slow down the draining of the ring.
type worker struct {
	name  string
	spans chan *event.Span
	stop  chan struct{} // closed by Close
	err   error         // of finish; read after done
	done  chan struct{}

	length                          selfstats.Gauge
	queueFull, afterClose, shutdown selfstats.Counter
}

func startWorker(name string, size int, interval time.Duration, p printer, stats *selfstats.Stats) *worker {
	w := &worker{
		name:       name,
		spans:      make(chan *event.Span, size),
		stop:       make(chan struct{}),
		done:       make(chan struct{}),
		length:     stats.QueueLength(name),
		queueFull:  stats.Dropped(name, "queue_full"),
		afterClose: stats.Dropped(name, "after_close"),
		shutdown:   stats.Dropped(name, "shutdown"),
	}
	stats.QueueCapacity(name).Set(float64(size))
	go w.run(p, interval)
	return w
}

func (w *worker) run(p printer, interval time.Duration) {
	defer close(w.done)
	ticker := time.NewTicker(interval)
	defer ticker.Stop()
	for {
		select {
		case s := <-w.spans:
			p.add(s)
			if len(w.spans) > 0 {
				continue
			}
			p.tick(time.Now())
		case now := <-ticker.C:
			p.tick(now)
		case <-w.stop:
			for len(w.spans) > 0 {
				p.add(<-w.spans)
			}
			w.err = p.finish()
			w.length.Set(0)
			return
		}
		w.length.Set(float64(len(w.spans)))
	}
}

// Span queues a span; it drops it, counted, when the queue is full.
func (w *worker) Span(s *event.Span) {
	select {
	case <-w.stop:
		w.afterClose.Inc()
		return
	default:
	}
	select {
	case w.spans <- s:
	default:
		w.queueFull.Inc()
	}
}

// Close writes what is queued. When the reader does not read until ctx is
// done, what is left is counted as shutdown and the writer is given up.
func (w *worker) Close(ctx context.Context) error {
	select {
	case <-w.stop:
	default:
		close(w.stop)
	}
	select {
	case <-w.done:
		return w.err
	case <-ctx.Done():
		left := len(w.spans)
		w.shutdown.Add(float64(left))
		return fmt.Errorf("flush %s output: nobody reads it; %d spans were not written: %w", w.name, left, ctx.Err())
	}
}
