package loader

import (
	"errors"
	"fmt"
	"log/slog"
	"time"

	"github.com/cilium/ebpf"
)

// Bounds of the sweep of virtual connections: a look at a key takes a microsecond, at
// a virtual connection three.
const virtualMost = 1024 // keys per tick

// slotDenied is SLOT_DENIED of bpf/maps/slots.h.
const slotDenied = 0xffff

// virtuals frees the virtual connections of processes that have ended, with the
// exchanges on them. A connection of a socket ends with it; nothing in the kernel
// leads from a socket, or a process, to the streams of HTTP/2 that were on it.
type virtuals struct {
	log   *slog.Logger
	maps  map[string]*ebpf.Map
	began time.Time
	key   *uint64 // looked at last; nil: not on its way
	left  uint32  // keys until the round ends whatever the map says
}

// virtualMaps are what is freed there, and what says who still runs.
var virtualMaps = []string{"conns", "exchanges", "threads", "go_contexts", "carried_small", "carried_medium", "carried_large", "idle", "targets"}

func newVirtuals(log *slog.Logger, maps map[string]*ebpf.Map) *virtuals {
	return &virtuals{log: log, maps: maps}
}

// sweepSome looks at some of the connections, all of them once in sweepInterval.
func (v *virtuals) sweepSome(now time.Time) {
	if v == nil {
		return
	}
	conns := v.maps["conns"]
	if v.left == 0 {
		if now.Sub(v.began) < sweepInterval {
			return
		}
		v.began, v.key, v.left = now, nil, conns.MaxEntries()
	}
	for range min(virtualMost, v.left) {
		v.left--
		var at any
		if v.key != nil {
			at = v.key
		}
		var next uint64
		if err := conns.NextKey(at, &next); err != nil {
			v.left = 0 // that was the last
			return
		}
		// One that is deleted is no place to go on from: the kernel begins anew there.
		if next>>63 != 0 || !v.ended(next) {
			v.key = &next
		}
	}
}

// ended frees the connection with this key if its process has ended.
func (v *virtuals) ended(key uint64) bool {
	var c WeftConn
	if err := v.maps["conns"].Lookup(key, &c); err != nil {
		return false
	}
	var t WeftWeftTarget
	err := v.maps["targets"].Lookup(c.Tgid, &t)
	if err == nil && t.StartNs == c.ProcessStartNs || err != nil && !errors.Is(err, ebpf.ErrKeyNotExist) {
		return false
	}
	if err := v.free(key, &c); err != nil {
		v.log.Debug("a virtual connection stays", "pid", c.Tgid, "err", err)
		return false
	}
	return true
}

// free is what weft_go_conn_end does in the kernel, but for the records: the correlator
// ends what was under way when it is told that the process has ended.
func (v *virtuals) free(key uint64, c *WeftConn) error {
	for i := c.First; i != c.Last && c.Last-i <= uint8(len(c.Pending)); i++ {
		v.endExchange(c.Pending[int(i)%len(c.Pending)].SpanId)
	}
	if c.Slot != 0 && c.Slot != slotDenied {
		if err := v.maps["idle"].Put(nil, uint32(c.Slot-1)); err != nil {
			return fmt.Errorf("give back slot %d: %w", c.Slot-1, err)
		}
	}
	if err := v.maps["conns"].Delete(key); err != nil {
		return fmt.Errorf("delete connection: %w", err)
	}
	return nil
}

// endExchange is exchange_end. What is not there needs no end.
func (v *virtuals) endExchange(span uint64) {
	var x WeftExchange
	if v.maps["exchanges"].Lookup(span, &x) != nil {
		return
	}
	drop := func(m string, key any) {
		if err := v.maps[m].Delete(key); err != nil && !errors.Is(err, ebpf.ErrKeyNotExist) {
			v.log.Debug("what was kept for a request stays", "map", m, "err", err)
		}
	}
	drop("exchanges", span)
	drop("threads", x.Owner)
	if x.Context != 0 {
		drop("go_contexts", WeftGoContext{StartNs: x.Owner.StartNs, Data: x.Context, Tgid: uint64(x.Owner.Tgid)})
	}
	if classes := []string{"", "carried_small", "carried_medium", "carried_large"}; x.Carry > 0 && int(x.Carry) < len(classes) {
		drop(classes[x.Carry], span)
	}
}
