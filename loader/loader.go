package loader

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"maps"
	"os"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/cilium/ebpf/ringbuf"
	"golang.org/x/sys/unix"

	"weft/internal/event"
	"weft/internal/privilege"
)

// Loader is weft's presence in the kernel.
type Loader struct {
	log      *slog.Logger
	handler  Handler
	coll     *collection
	ring     *ringbuf.Reader
	bell     *bell     // of the ring
	inject   *injector // nil: observing only
	finder   *finder
	golang   *golang
	counters []string
	clock    Clock
	recorder *recorder // nil: not recording
	decoder  *decoder
	unread   *unread
	again    again
	failed   *attachFailures
	runTime  io.Closer // nil: the kernel counts no run time for weft
	legacy   legacy
	standby  bool // nothing is attached until Run
	alone    bool // Options.Alone
	options  Options
	changes  chan func()

	ready     atomic.Pointer[string] // nil: ready; else why not
	observing atomic.Pointer[string] // why nothing is injected; nil when it is
	receiving atomic.Bool            // as injector has it
	malformed atomic.Uint64          // records that could not be decoded
}

// New loads and attaches everything, tests the injection path, and begins to
// renew the liveness deadline. Run must follow; Close undoes it all.
func New(o Options) (*Loader, error) {
	o.failed = &attachFailures{}
	coll, observing, err := loadInjecting(&o)
	if err != nil {
		return nil, err
	}
	l := &Loader{log: o.Log, handler: o.Handler, decoder: newDecoder(), coll: coll, failed: o.failed}
	l.observe(observing)
	l.setReady("starting")
	if l.counters, err = counterNames(); err != nil {
		return nil, errors.Join(err, coll.close())
	}
	if l.recorder, err = newRecorder(o.Record); err != nil {
		return nil, errors.Join(err, coll.close())
	}
	if l.ring, err = ringbuf.NewReader(coll.Maps["events"]); err != nil {
		return nil, errors.Join(fmt.Errorf("open event ring: %w", err), coll.close())
	}
	if l.bell, err = newBell(coll.Maps["events"].FD()); err != nil {
		return nil, errors.Join(err, l.ring.Close(), coll.close())
	}
	l.setClock()
	if o.RunTime {
		if l.runTime, err = countRunTime(); err != nil {
			l.failed.add(attachRunTime, err)
			o.Log.Warn("weft_bpf_program_run_seconds_total stays as it is; give weft CAP_SYS_ADMIN, or set telemetry.bpf_stats to false", "why", err)
		}
	}
	if o.injects() {
		if err := l.startInjecting(); err != nil {
			l.cannotInject(err)
		}
	}
	l.finder = newFinder(o, coll.Maps["targets"], l.inject)
	l.unread = newUnread(l.finder)
	l.finder.threads = coll.Maps["threads"]
	l.finder.virtuals = newVirtuals(o.Log, coll.Maps)
	l.golang = newGolang(o, coll.Maps)
	l.finder.golang = l.golang
	l.alone = o.Alone
	l.options, l.changes = o, make(chan func())
	if o.Standby {
		l.standby = true
		// Attached it would cost every program of the host a little, for nothing.
		if err := coll.letGo(); err != nil {
			return nil, errors.Join(fmt.Errorf("detach for standby: %w", err), l.Close())
		}
	}
	return l, nil
}

// loadInjecting loads with the injecting programs, and without them where the
// kernel refuses those.
func loadInjecting(o *Options) (*collection, string, error) {
	if !o.injects() {
		coll, err := loadAny(*o)
		return coll, "propagation.inject is empty", err
	}
	if err := mayInject(); err != nil {
		o.failed.add(attachSkMsg, err)
		o.Policy.Inject = 0
		coll, lerr := loadAny(*o)
		if lerr == nil {
			o.Log.Warn(observedOnly, "why", err)
		}
		return coll, err.Error(), lerr
	}
	coll, err := loadAny(*o)
	if err == nil {
		return coll, "", nil
	}
	o.failed.forget() // what fails for want of the injecting programs fails again
	o.Policy.Inject = 0
	coll, plain := loadAny(*o)
	if plain != nil {
		return nil, "", err
	}
	o.failed.add(attachSkMsg, err)
	o.Log.Warn(observedOnly, "why", err)
	return coll, err.Error(), nil
}

// observedOnly is what the log says where propagation.inject cannot be done.
const observedOnly = "requests are observed but not edited"

// cannotInject tells, counts and remembers why nothing is injected.
func (l *Loader) cannotInject(err error) {
	l.failed.add(attachSkMsg, err)
	l.observe(err.Error())
	l.log.Warn(observedOnly, "why", err)
}

// errNoNetAdmin is EPERM to who counts failures.
var errNoNetAdmin = fmt.Errorf("CAP_NET_ADMIN is missing, which editing requests takes: %w", unix.EPERM)

// mayInject tells of what forbids it without a look at the kernel.
func mayInject() error {
	held, err := privilege.Effective()
	if err != nil {
		return err
	}
	for _, use := range privilege.Lacking(held) {
		if use.Capability == privilege.NetAdmin {
			return errNoNetAdmin
		}
	}
	_, err = Cgroup2Mount()
	return err
}

// startInjecting attaches the sk_msg program and puts it through the self-test;
// on failure nothing of it is left.
func (l *Loader) startInjecting() error {
	i, err := l.tryInjecting()
	if err != nil {
		return err
	}
	l.useInjector(i)
	return nil
}

// tryInjecting makes an injector that has passed the self-test.
func (l *Loader) tryInjecting() (*injector, error) {
	i, err := newInjector(l.coll)
	if err != nil {
		return nil, err
	}
	// From here on: on a slow host the self-test outlives a deadline.
	if err := i.keepRenewing(l.log); err != nil {
		return nil, errors.Join(err, i.discard())
	}
	err = selfTest(i, l.coll.Maps["targets"])
	if errors.Is(err, errFIONREAD) {
		l.log.Debug("FIONREAD is wrong in a sockmap on this kernel; receiving through it as well")
		if err = i.attachReceive(); err == nil {
			err = selfTest(i, l.coll.Maps["targets"])
		}
	}
	if err != nil {
		return nil, errors.Join(fmt.Errorf("%w: %w", errSelfTest, err), i.discard())
	}
	return i, nil
}

// useInjector makes i the one of this loader.
func (l *Loader) useInjector(i *injector) {
	l.coll.mu.Lock()
	l.coll.entries["weft_msg"] = i.entry
	l.coll.mu.Unlock()
	l.inject = i
	l.receiving.Store(i.receiving)
	l.observe("")
}

// Capture is the way of capture in use.
func (l *Loader) Capture() Capture { return l.coll.capture }

// Observing says why nothing is injected, "" when requests are edited.
func (l *Loader) Observing() string {
	if why := l.observing.Load(); why != nil {
		return *why
	}
	return ""
}

func (l *Loader) observe(why string) {
	if why == "" {
		l.observing.Store(nil)
		return
	}
	l.observing.Store(&why)
}

// Ready reports whether every selected running process is attached, and if not
// why.
func (l *Loader) Ready() (bool, string) {
	if why := l.ready.Load(); why != nil {
		return false, *why
	}
	if why := l.finder.hidden.unready(); why != "" {
		return false, why
	}
	if why := l.golang.unready(); why != "" {
		return false, why
	}
	return true, ""
}

// Receiving says whether client sockets receive through the sockmap, because
// this kernel's FIONREAD needs it (docs/adr/0001-receive-program.md).
func (l *Loader) Receiving() bool { return l.receiving.Load() }

// WritesGo says whether context may be written into the memory of Go programs: without,
// what they send inside TLS carries none.
func (l *Loader) WritesGo() bool { return l.golang.writes() }

func (l *Loader) setReady(why string) {
	if why == "" {
		l.ready.Store(nil)
		return
	}
	l.ready.Store(&why)
}

// Counts are the kernel counters now, plus the loader's own.
func (l *Loader) Counts() ([]Count, error) {
	counts, err := readCounters(l.coll.Maps["counters"], l.counters)
	if err != nil {
		return nil, err
	}
	return append(counts, Count{Metric: "lost", Cause: "record_malformed", Value: l.malformed.Load()}), nil
}

// Selected is the number of processes traced now.
func (l *Loader) Selected() int { return l.finder.selected() }

// FollowChildren makes the children of this very process targets from the moment
// they are forked, and their descendants after them; `weft exec` starts its
// command, in the cgroup of that path, between FollowChildren and the returned
// function. Call it before Run.
func (l *Loader) FollowChildren(cgroup string) (stop func() error, err error) {
	return l.finder.followChildren(cgroup)
}

// Relook asks the selector and Options.Attributes again about processes of which
// they may now know more, or something else. Run does it within moments, those of
// an idle ring. It is safe for concurrent use, and also before Run.
func (l *Loader) Relook(pids []uint32) { l.again.add(pids) }

// again are processes to look at again.
type again struct {
	mu   sync.Mutex
	pids map[uint32]bool
}

func (a *again) add(pids []uint32) {
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.pids == nil {
		a.pids = map[uint32]bool{}
	}
	for _, pid := range pids {
		a.pids[pid] = true
	}
}

func (a *again) take() []uint32 {
	a.mu.Lock()
	defer a.mu.Unlock()
	pids := slices.Sorted(maps.Keys(a.pids))
	a.pids = nil
	return pids
}

// setClock measures the distance between wall clock and CLOCK_MONOTONIC. It is
// measured again every so often: the wall clock may be stepped or slewed.
func (l *Loader) setClock() {
	best := time.Duration(1<<63 - 1)
	for range 5 {
		var wall unix.Timespec
		before := monotonic()
		if err := unix.ClockGettime(unix.CLOCK_REALTIME, &wall); err != nil {
			return
		}
		after := monotonic()
		if width := time.Duration(after - before); width < best {
			best = width
			l.clock.Offset = time.Duration(wall.Nano() - int64(before+(after-before)/2))
		}
	}
}

// Run finds the processes to trace, then reads the ring until ctx is done, then
// what is left in it. It calls the handler from this goroutine only.
func (l *Loader) Run(ctx context.Context) error {
	if err := l.takeOver(); err != nil {
		return err
	}
	if err := l.finder.scan(l.handler); err != nil {
		return err
	}
	l.takeOrphans()
	l.setReady("")
	var record ringbuf.Record
	wait := ringIdle
	lastTick, lastClock := time.Now(), time.Now()
	for ctx.Err() == nil {
		now := time.Now()
		if now.Sub(lastTick) >= time.Second {
			lastTick = now
			l.handler.Tick(now)
			l.finder.tick(l.handler, now)
		}
		if now.Sub(lastClock) >= 10*time.Second {
			lastClock = now
			l.setClock()
			l.coll.spareAfterMisses(l.log)
		}
		if pids := l.again.take(); len(pids) > 0 {
			l.finder.relook(l.handler, pids)
		}
		l.finder.adoptAgain(now)
		l.finder.goAttached(l.golang.take())
		select {
		case change := <-l.changes:
			change()
		default:
		}
		if l.ring.AvailableBytes() < l.ring.BufferSize()/ringShare {
			if err := l.bell.wait(wait); err != nil {
				return err
			}
		}
		size, err := l.drain(&record)
		if err != nil {
			return err
		}
		wait = nextWait(wait, size, l.ring.BufferSize())
	}
	return l.finish(&record)
}

// nextWait is how long to sleep on a ring that filled by size bytes in a sleep of
// this length: until an eighth of it is full, between ringBusy and ringIdle. A
// wake-up costs as much as several records.
func nextWait(wait time.Duration, size, capacity int) time.Duration {
	if size == 0 {
		return ringIdle
	}
	return min(max(time.Duration(float64(wait)*float64(capacity/ringShare)/float64(size)), ringBusy), ringIdle)
}

// drain reads until the ring is empty, and returns how many bytes.
func (l *Loader) drain(record *ringbuf.Record) (size int, err error) {
	l.ring.SetDeadline(time.Now()) // what is there, without waiting
	for range 4096 {               // then let the clock and the ticks have their turn
		switch err := l.ring.ReadInto(record); {
		case err == nil:
			l.dispatch(record.RawSample)
			size += len(record.RawSample)
		case isDeadline(err):
			return size, nil
		case errors.Is(err, ringbuf.ErrClosed):
			return size, nil
		default:
			return size, fmt.Errorf("read event ring: %w", err)
		}
	}
	return size, nil
}

// finish stops editing and capturing, then drains.
func (l *Loader) finish(record *ringbuf.Record) error {
	err := l.detach()
	for l.ring.AvailableBytes() > 0 {
		size, derr := l.drain(record)
		if derr != nil || size == 0 {
			return errors.Join(err, derr, l.recorder.finish())
		}
	}
	return errors.Join(err, l.recorder.finish())
}

// detach takes weft out of the programs' way; the maps stay readable.
func (l *Loader) detach() error {
	var errs []error
	if l.inject != nil {
		errs = append(errs, l.inject.close())
		l.inject = nil
	}
	errs = append(errs, l.golang.close())
	return errors.Join(append(errs, l.coll.letGo())...)
}

// Close detaches whatever still is and frees the maps. It must not run at the
// same time as Run.
func (l *Loader) Close() error {
	err := l.detach()
	err = errors.Join(err, l.ring.Close(), l.bell.close())
	if l.runTime != nil {
		err = errors.Join(err, l.runTime.Close())
	}
	return errors.Join(err, l.coll.close(), l.legacy.close())
}

func (l *Loader) dispatch(raw []byte) {
	if raw = l.unread.settle(raw); raw == nil {
		return
	}
	l.recorder.record(raw, l.clock)
	if err := l.decoder.decode(raw, l.clock, (*live)(l)); err != nil {
		l.malformed.Add(1)
		l.log.Debug("record not decoded", "err", err)
	}
}

// live is the Loader as the receiver of its own records.
type live Loader

func (l *live) Request(r event.Request)   { l.handler.Request(r) }
func (l *live) Carried(r event.Carried)   { l.handler.Carried(r) }
func (l *live) Route(r event.Route)       { l.handler.Route(r) }
func (l *live) Response(r event.Response) { l.handler.Response(r) }
func (l *live) process(r ProcessRecord)   { l.finder.process(l.handler, r) }
func (l *live) goProgram(r GoRecord)      { l.golang.demand(r) }

func (l *live) socket(r SocketRecord) {
	if l.inject == nil {
		return
	}
	if err := l.inject.remove(r.Cookie); err != nil {
		l.log.Debug("socket stays in the sockhash", "err", err)
	}
}

func isDeadline(err error) bool { return errors.Is(err, os.ErrDeadlineExceeded) }
