package loader

import (
	"log/slog"
	"testing"
	"time"
)

// TestVirtualsOfTheDead: streams of HTTP/2 whose process was killed would fill the map
// for good, and their requests those of exchanges.
func TestVirtualsOfTheDead(t *testing.T) {
	maps := mapsOf(t, virtualMaps...)
	put := func(m string, key, value any) {
		t.Helper()
		if err := maps[m].Put(key, value); err != nil {
			t.Fatalf("%s: %v", m, err)
		}
	}
	there := func(m string, key any) bool { return maps[m].Lookup(key, new(anything)) == nil }
	const pid, socket = 41, 1<<63 | 5
	put("targets", uint32(pid), WeftWeftTarget{StartNs: 7})
	type stream struct {
		key, span uint64
		start     uint64
		kept      bool
	}
	streams := []stream{
		{key: 1, span: 101, start: 7, kept: true},
		{key: 2, span: 102, start: 6}, // of one that had this number before
		{key: socket, span: 103, start: 6, kept: true},
	}
	for i := range uint64(3000) { // more than a tick looks at
		streams = append(streams, stream{key: 10 + i, span: 1000 + i, start: 6})
	}
	for _, s := range streams {
		c := WeftConn{Tgid: pid, ProcessStartNs: s.start, First: 255, Last: 0}
		if s.key == 2 {
			c.Slot = 9
		}
		c.Pending[7].SpanId = s.span
		put("conns", s.key, c)
		owner := WeftExecKey{StartNs: s.start, Id: s.span, Tgid: pid, Kind: 3}
		put("exchanges", s.span, WeftExchange{Owner: owner, Context: s.span, Carry: 1})
		put("threads", owner, WeftExecState{InFlight: 1, Sum: s.span})
		put("go_contexts", WeftGoContext{StartNs: s.start, Data: s.span, Tgid: pid}, s.span)
		put("carried_small", s.span, WeftCarriedSmall{})
	}
	f := newFinder(Options{Log: slog.New(slog.DiscardHandler)}, maps["targets"], nil)
	v := newVirtuals(slog.New(slog.DiscardHandler), maps)
	f.virtuals = v
	now := time.Now()
	f.tick(&told{}, now)
	if v.left == 0 {
		t.Errorf("3,003 connections were looked at in one tick")
	}
	for range 3 {
		v.sweepSome(now)
	}
	for _, s := range streams {
		owner := WeftExecKey{StartNs: s.start, Id: s.span, Tgid: pid, Kind: 3}
		context := WeftGoContext{StartNs: s.start, Data: s.span, Tgid: pid}
		for m, key := range map[string]any{"conns": s.key, "exchanges": s.span, "threads": owner, "go_contexts": context, "carried_small": s.span} {
			if there(m, key) != s.kept {
				t.Fatalf("stream %d: kept in %s: %t, want %t", s.key, m, !s.kept, s.kept)
			}
		}
	}
	var slot uint32
	if err := maps["idle"].LookupAndDelete(nil, &slot); err != nil || slot != 8 {
		t.Errorf("slot %d given back (%v), want 8", slot, err)
	}

	// The next round is for whoever ended since.
	if err := maps["targets"].Delete(uint32(pid)); err != nil {
		t.Fatal(err)
	}
	v.sweepSome(now.Add(sweepInterval / 2))
	if !there("conns", uint64(1)) {
		t.Error("swept before its time")
	}
	v.sweepSome(now.Add(sweepInterval))
	if there("conns", uint64(1)) || !there("conns", uint64(socket)) {
		t.Error("after its process: the stream is there, or the socket is not")
	}
}

// anything is a value that does not matter.
type anything struct{}

func (*anything) UnmarshalBinary([]byte) error { return nil }
