package loader

import (
	"errors"
	"fmt"
	"log/slog"
	"sync"
	"time"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/link"
	"golang.org/x/sys/unix"
)

// injector owns what may change other programs' bytes: the sk_msg program on the
// sockhash, the sockops program that fills it, and the deadline both check.
type injector struct {
	sockets *ebpf.Map
	control *ebpf.Map
	message *ebpf.Program
	receive *ebpf.Program
	// entry is what sockets are bound to: it jumps to message. behind are the
	// slots that lead there, its own and those of agents before this one.
	entry  *dispatch
	behind []*ebpf.Map
	// receiving: the receive program is attached, because this kernel's FIONREAD
	// needs it (bpf/inject/receive.h). Received bytes then wait in the sockmap,
	// and taking a socket out would lose them: sockets stay until they close.
	receiving bool
	cgroups   *cgroups

	stop     chan struct{} // ends renewing
	stopped  sync.Once
	renewing sync.WaitGroup
}

func newInjector(coll *collection) (*injector, error) {
	groups, err := newCgroups(coll.Programs["weft_sockops"])
	if err != nil {
		return nil, err
	}
	i := &injector{
		sockets: coll.Maps["sockets"],
		control: coll.Maps["control"],
		message: coll.Programs["weft_msg"],
		receive: coll.Programs["weft_receive"],
		cgroups: groups,
		stop:    make(chan struct{}),
	}
	if i.entry, err = newDispatch(coll.specs["weft_msg"], socketSlot, skPass); err != nil {
		return nil, err
	}
	i.behind = []*ebpf.Map{i.entry.slot}
	if err := fill(i.entry.slot, i.message); err != nil {
		return nil, errors.Join(err, i.entry.close())
	}
	// BPF_PROG_ATTACH on the map itself: links for sk_msg came with 6.10 only.
	if err := link.RawAttachProgram(link.RawAttachProgramOptions{
		Target: i.sockets.FD(), Program: i.entry.entry, Attach: ebpf.AttachSkMsgVerdict,
	}); err != nil {
		return nil, errors.Join(fmt.Errorf("attach sk_msg program to the sockhash: %w", err), i.entry.close())
	}
	return i, nil
}

// skPass is SK_PASS: the message goes on as it is.
const skPass = 1

// inherit makes this agent see the sends of sockets that are bound to the entries of
// agents before it, but for those of the slots that the kernel refused to fill.
func (i *injector) inherit(slots map[ebpf.MapID]*ebpf.Map) (refused map[ebpf.MapID]error) {
	refused = map[ebpf.MapID]error{}
	for id, slot := range slots {
		if err := fill(slot, i.message); err != nil {
			refused[id] = err
			continue
		}
		i.behind = append(i.behind, slot)
	}
	return refused
}

// dispatch makes p the program behind every entry, or none if it is nil.
func (i *injector) dispatch(p *ebpf.Program) error {
	var errs []error
	for _, slot := range i.behind {
		if p == nil {
			errs = append(errs, empty(slot))
			continue
		}
		errs = append(errs, fill(slot, p))
	}
	return errors.Join(errs...)
}

// attachReceive makes FIONREAD right again on kernels where the sk_msg program
// alone breaks it. Call it while the sockhash is empty.
func (i *injector) attachReceive() error {
	// Bound to the program, the map outlives a killed agent for as long as a
	// socket is inside: freeing it would drop bytes that wait to be read.
	if err := i.receive.BindMap(i.sockets); err != nil {
		return fmt.Errorf("bind sockhash to the receive program: %w", err)
	}
	if err := link.RawAttachProgram(link.RawAttachProgramOptions{
		Target: i.sockets.FD(), Program: i.receive, Attach: ebpf.AttachSkSKBVerdict,
	}); err != nil {
		return fmt.Errorf("attach receive program to the sockhash: %w", err)
	}
	i.receiving = true
	return nil
}

// monotonic is CLOCK_MONOTONIC, the clock of bpf_ktime_get_ns.
func monotonic() uint64 {
	var ts unix.Timespec
	if err := unix.ClockGettime(unix.CLOCK_MONOTONIC, &ts); err != nil {
		return 0 // cannot happen on Linux; a deadline of zero injects nothing
	}
	return uint64(ts.Nano())
}

// keepRenewing renews the deadline now and until stopRenewing.
func (i *injector) keepRenewing(log *slog.Logger) error {
	if err := i.renew(); err != nil {
		return err
	}
	i.renewing.Go(func() {
		tick := time.NewTicker(livenessRenew)
		defer tick.Stop()
		for {
			select {
			case <-i.stop:
				return
			case <-tick.C:
				if err := i.renew(); err != nil {
					log.Error("injection pauses", "err", err)
				}
			}
		}
	})
	return nil
}

// stopRenewing ends that; it may be called again.
func (i *injector) stopRenewing() {
	i.stopped.Do(func() { close(i.stop) })
	i.renewing.Wait()
}

// discard undoes an injector that is not to be used.
func (i *injector) discard() error { return errors.Join(i.close(), i.entry.close()) }

// renew lets injection go on for another livenessSpan.
func (i *injector) renew() error {
	return i.deadline(monotonic() + uint64(livenessSpan))
}

func (i *injector) deadline(ns uint64) error {
	if err := i.control.Put(uint32(0), WeftWeftControl{DeadlineNs: ns}); err != nil {
		return fmt.Errorf("renew injection deadline: %w", err)
	}
	return nil
}

// add puts an established client socket into the sockhash.
func (i *injector) add(fd int) error {
	cookie, err := unix.GetsockoptUint64(fd, unix.SOL_SOCKET, unix.SO_COOKIE)
	if err != nil {
		return fmt.Errorf("read socket cookie: %w", err)
	}
	err = i.sockets.Update(cookie, uint32(fd), ebpf.UpdateNoExist)
	if errors.Is(err, unix.EBUSY) && i.has(cookie) {
		return nil // the kernel looks at what it is bound to before it looks for the key
	}
	if err != nil && !errors.Is(err, ebpf.ErrKeyExist) {
		return fmt.Errorf("add socket to sockhash: %w", err)
	}
	if !i.receiving {
		return nil
	}
	// Bytes that were waiting already go unnoticed until more arrive. Setting
	// the low-water mark to what it is makes TCP look at its queue again
	// (tcp_set_rcvlowat).
	low, err := unix.GetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_RCVLOWAT)
	if err == nil {
		err = unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_RCVLOWAT, low)
	}
	if err != nil {
		return fmt.Errorf("wake socket: %w", err)
	}
	return nil
}

// has says whether a socket is inside. A value cannot be read back, but of the key
// behind one that is not there the kernel says the first.
func (i *injector) has(cookie uint64) bool {
	var first, next uint64
	if i.sockets.NextKey(nil, &first) != nil {
		return false
	}
	err := i.sockets.NextKey(cookie, &next)
	return errors.Is(err, ebpf.ErrKeyNotExist) || err == nil && next != first
}

// remove takes a socket out; one that closed meanwhile is out already.
func (i *injector) remove(cookie uint64) error {
	if i.receiving {
		return nil
	}
	if err := i.sockets.Delete(cookie); err != nil && !errors.Is(err, ebpf.ErrKeyNotExist) {
		return fmt.Errorf("remove socket from sockhash: %w", err)
	}
	return nil
}

// close ends injection, in this order: the deadline (from now on nothing is
// edited), the slots (nothing is read), the cgroups (nothing is added), the sockets
// (detaching the program alone would leave it running on them). Where received bytes
// wait in the sockmap the sockets stay until they close; the next agent may fill the
// slots.
func (i *injector) close() error {
	i.stopRenewing()
	errs := []error{i.deadline(0), i.dispatch(nil), i.cgroups.close()}
	if i.receiving {
		return errors.Join(errs...)
	}
	// A socket may close while the keys are walked, which ends the walk early:
	// go round until nothing is left, but not for ever.
	for end := time.Now().Add(2 * time.Second); time.Now().Before(end); {
		keys := i.keys()
		if len(keys) == 0 {
			break
		}
		for _, key := range keys {
			errs = append(errs, i.remove(key))
		}
	}
	errs = append(errs, link.RawDetachProgram(link.RawDetachProgramOptions{
		Target: i.sockets.FD(), Program: i.entry.entry, Attach: ebpf.AttachSkMsgVerdict,
	}))
	return errors.Join(errs...)
}

// keys are the cookies of the sockets inside. Values cannot be read back (the
// map would want 8-byte values for that), so the keys are walked alone.
func (i *injector) keys() []uint64 {
	var keys []uint64
	var key uint64
	err := i.sockets.NextKey(nil, &key)
	for err == nil && len(keys) < int(i.sockets.MaxEntries()) {
		keys = append(keys, key)
		previous := key
		err = i.sockets.NextKey(previous, &key)
	}
	return keys
}
