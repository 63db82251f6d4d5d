package export

import (
	"context"
	"fmt"
	"log/slog"
	"sync"
	"time"

	"github.com/cenkalti/backoff/v5"
	"go.opentelemetry.io/otel/exporters/otlp/otlptrace"
	tracepb "go.opentelemetry.io/proto/otlp/trace/v1"

	"weft/internal/event"
	"weft/internal/selfstats"
)

// Bounds of the pause between attempts while the receiver is away.
const (
	minBackoff = 500 * time.Millisecond
	maxBackoff = 10 * time.Second
)

// maxRequest bounds the bytes of one export request, if it has more than one
// span: gRPC receivers refuse more than 4 MiB unless told otherwise.
const maxRequest = 3 << 20

// OTLP sends spans to an OpenTelemetry receiver. Spans wait in a bounded queue
// for one sender; while the receiver is away they are kept and retried without
// end, and new ones are dropped and counted once the queue is full.
type OTLP struct {
	settings *OTLPSettings
	encode   *Encoder // used by the sender alone
	client   otlptrace.Client
	judge    func(error) verdict
	log      *slog.Logger
	count    otlpCounters

	mu      sync.Mutex
	queue   ring
	sending int  // spans taken from the queue and not delivered yet
	closed  bool // no more spans are taken

	wake    chan struct{} // a batch is full, or closing
	closing chan struct{} // Close was called
	sendCtx context.Context
	abort   context.CancelFunc // ends the sender: the flush deadline passed
	done    chan struct{}      // the sender has ended

	outage outage
}

type otlpCounters struct {
	length, capacity                      selfstats.Gauge
	sent, ok, retried, refused            selfstats.Counter
	queueFull, rejected, shutdown, closed selfstats.Counter
}

// outage is what is remembered between the first failure and the recovery, to
// log each once. Only the sender uses it.
type outage struct {
	since    time.Time // zero: all is well
	attempts int
	refusing bool // a refusal was logged and no batch was taken since
}

// NewOTLP starts an exporter. It does not wait for the receiver: one that is
// away is logged once and retried. settings.Off must be "".
func NewOTLP(settings *OTLPSettings, convert *Converter, stats *selfstats.Stats, log *slog.Logger) (*OTLP, error) {
	if settings.Off != "" {
		return nil, fmt.Errorf("start OTLP exporter: it is off: %s", settings.Off)
	}
	client, judge := newClient(settings)
	if err := client.Start(context.Background()); err != nil {
		return nil, fmt.Errorf("start OTLP exporter %s: %w", settings, err)
	}
	const name = "otlp"
	ctx, cancel := context.WithCancel(context.Background())
	o := &OTLP{
		settings: settings,
		encode:   NewEncoder(convert),
		client:   client,
		judge:    judge,
		log:      log.With("exporter", settings.String()),
		count: otlpCounters{
			length:    stats.QueueLength(name),
			capacity:  stats.QueueCapacity(name),
			sent:      stats.Exported(name),
			ok:        stats.ExportRequests(name, "ok"),
			retried:   stats.ExportRequests(name, "retried"),
			refused:   stats.ExportRequests(name, "refused"),
			queueFull: stats.Dropped(name, "queue_full"),
			rejected:  stats.Dropped(name, "rejected"),
			shutdown:  stats.Dropped(name, "shutdown"),
			closed:    stats.Dropped(name, "after_close"),
		},
		wake:    make(chan struct{}, 1),
		closing: make(chan struct{}),
		sendCtx: ctx,
		abort:   cancel,
		done:    make(chan struct{}),
	}
	o.count.capacity.Set(float64(settings.QueueSize))
	go o.send()
	return o, nil
}

// Span queues a span; it drops it, counted, when the queue is full.
func (o *OTLP) Span(s *event.Span) {
	o.mu.Lock()
	held := o.queue.len() + o.sending
	switch {
	case o.closed:
		o.mu.Unlock()
		o.count.closed.Inc()
		return
	case held >= o.settings.QueueSize:
		o.mu.Unlock()
		o.count.queueFull.Inc()
		return
	}
	o.queue.push(s)
	full := o.queue.len() >= o.settings.BatchSize
	o.mu.Unlock()
	o.count.length.Set(float64(held + 1))
	if full {
		o.signal()
	}
}

func (o *OTLP) signal() {
	select {
	case o.wake <- struct{}{}:
	default:
	}
}

// Close sends what is queued until ctx is done, at most DefaultFlush when ctx
// has no deadline. What could not be sent is counted as shutdown.
func (o *OTLP) Close(ctx context.Context) error {
	if _, ok := ctx.Deadline(); !ok {
		var cancel context.CancelFunc
		ctx, cancel = context.WithTimeout(ctx, DefaultFlush)
		defer cancel()
	}
	o.mu.Lock()
	if o.closed {
		o.mu.Unlock()
		<-o.done
		return nil
	}
	o.closed = true
	o.mu.Unlock()
	close(o.closing)

	select {
	case <-o.done:
	case <-ctx.Done():
		o.abort()
		<-o.done
	}
	o.abort()

	o.mu.Lock()
	left := o.queue.len() + o.sending
	o.queue, o.sending = ring{}, 0
	o.mu.Unlock()
	o.count.length.Set(0)
	o.count.shutdown.Add(float64(left))
	// The sender has ended, so Stop has nothing to wait for.
	if err := o.client.Stop(context.Background()); err != nil {
		return fmt.Errorf("stop OTLP exporter: %w", err)
	}
	if left > 0 {
		return fmt.Errorf("flush OTLP exporter %s: %d spans could not be sent in time", o.settings, left)
	}
	return nil
}

// send is the only goroutine that talks to the receiver.
func (o *OTLP) send() {
	defer close(o.done)
	timer := time.NewTimer(o.settings.Delay)
	defer timer.Stop()
	for {
		least := 1
		closing := false
		select {
		case <-o.wake:
			least = o.settings.BatchSize
		case <-timer.C:
		case <-o.closing:
			closing = true
		}
		for batch := o.take(least); len(batch) > 0; batch = o.take(least) {
			if !o.deliver(batch) {
				return
			}
			o.settle()
		}
		if closing {
			return
		}
		timer.Reset(o.settings.Delay)
	}
}

// take moves up to one batch out of the queue, or nothing when there are fewer
// than least; its spans count as held until settle.
func (o *OTLP) take(least int) []*event.Span {
	o.mu.Lock()
	defer o.mu.Unlock()
	if o.queue.len() < least {
		return nil
	}
	batch := o.queue.pop(o.settings.BatchSize)
	o.sending = len(batch)
	return batch
}

func (o *OTLP) settle() {
	o.mu.Lock()
	o.sending = 0
	held := o.queue.len()
	o.mu.Unlock()
	o.count.length.Set(float64(held))
}

// deliver tries until the receiver took or refused the batch, in parts if it is
// large. It returns false when Close ran out of time; what was not sent is then
// still held.
func (o *OTLP) deliver(batch []*event.Span) bool {
	resourceSpans := o.encode.ResourceSpans(batch)
	if half := len(batch) / 2; half > 0 && o.encode.Size() > maxRequest {
		return o.deliver(batch[:half]) && o.deliver(batch[half:])
	}
	if !o.upload(batch, resourceSpans) {
		return false
	}
	o.mu.Lock()
	o.sending -= len(batch)
	o.mu.Unlock()
	return true
}

// upload is deliver for what fits into one request.
func (o *OTLP) upload(batch []*event.Span, resourceSpans []*tracepb.ResourceSpans) bool {
	pause := &backoff.ExponentialBackOff{
		InitialInterval:     minBackoff,
		RandomizationFactor: 0.3,
		Multiplier:          2,
		MaxInterval:         maxBackoff,
	}
	pause.Reset()
	closing := o.closing
	for {
		err := o.client.UploadTraces(o.sendCtx, resourceSpans)
		if err == nil {
			o.delivered(len(batch), 0, nil)
			return true
		}
		if rejected, ok := partialSuccess(err); ok {
			rejected = min(rejected, len(batch))
			o.delivered(len(batch)-rejected, rejected, err)
			return true
		}
		if o.sendCtx.Err() != nil {
			return false
		}
		v := o.judge(err)
		if !v.retry {
			o.refused(len(batch), err)
			return true
		}
		o.failed(err)
		select {
		case <-time.After(max(pause.NextBackOff(), v.wait)):
		case <-closing:
			// Not much time is left: try at once, then often.
			closing = nil
			pause.Reset()
		case <-o.sendCtx.Done():
			return false
		}
	}
}

// delivered counts a batch the receiver took, less the spans it rejected with
// partial as its reason.
func (o *OTLP) delivered(sent, rejected int, partial error) {
	o.count.ok.Inc()
	o.count.sent.Add(float64(sent))
	o.count.rejected.Add(float64(rejected))
	if !o.outage.since.IsZero() {
		o.log.Info("receiver is back; kept spans are being sent",
			"away", time.Since(o.outage.since).Round(time.Millisecond), "attempts", o.outage.attempts)
		o.outage.since, o.outage.attempts = time.Time{}, 0
	}
	switch {
	case rejected > 0 && !o.outage.refusing:
		o.outage.refusing = true
		o.log.Error("receiver rejects spans; they are counted as rejected", "spans", rejected, "error", partial)
	case partial != nil && rejected == 0:
		o.log.Debug("receiver took all spans with a warning", "error", partial)
	case rejected == 0:
		o.outage.refusing = false
	}
}

// failed notes an attempt that will be repeated.
func (o *OTLP) failed(err error) {
	o.count.retried.Inc()
	o.outage.attempts++
	if o.outage.since.IsZero() {
		o.outage.since = time.Now()
		o.log.Warn("receiver does not take spans; they are kept and retried, and dropped once the queue is full",
			"error", err, "queue", o.settings.QueueSize)
	}
}

// refused drops a batch that the receiver will never take.
func (o *OTLP) refused(spans int, err error) {
	o.count.refused.Inc()
	o.count.rejected.Add(float64(spans))
	if !o.outage.refusing {
		o.outage.refusing = true
		o.log.Error("receiver refuses spans for good; they are dropped and counted as rejected",
			"spans", spans, "error", err)
	}
}
