package e2e

import (
	"bytes"
	"fmt"
	"slices"
	"strings"
	"testing"
)

// TestContextAbuse sends what no well-meaning program sends, in pieces that
// none would choose. Every byte must arrive, nothing may be invented, and the
// counters must say what happened.
func TestContextAbuse(t *testing.T) {
	g := newGroup(t)
	r := relayRig{relay: &relay{target: startReceiver(t, "127.0.0.1:0")}, sink: startSink(t)}
	r.addr = prefork(t, g, "relay", "")
	r.server, _ = startRawServer(t, g)
	r.agent = startAgent(t, g, r.sink, agentOptions{extra: edgeConfig})

	for _, tt := range []struct {
		name string
		run  func(*testing.T, relayRig)
	}{
		{"head received in two pieces", receivedSplit},
		{"head sent in two pieces", sentSplit},
		{"any pieces", anyPieces},
		{"header that becomes baggage", edgeValues},
		{"too long", tooLong},
		{"control and eight-bit bytes", strangeBytes},
		{"program's own", strangeOwn},
		{"no room", noRoom},
		{"bodies", bodies},
		{"pipelined", pipelined},
		{"half-sent heads", halfSent},
	} {
		t.Run(tt.name, func(t *testing.T) {
			defer r.hangUp()
			tt.run(t, r)
		})
	}
	lost := r.agent.losses()
	delete(lost, `weft_kernel_lost_total{cause="slots_full"}`) // half-sent heads
	if len(lost) > 0 {
		t.Errorf("lost: %v", lost)
	}
	r.agent.stop()
}

// busyLines have something in every header that is read in pieces of 64 bytes.
func busyLines(p *parents) []string {
	return []string{
		"tracestate: " + members(2, 50), p.line("01"), "X-User-Id: Zo\xc3\xab, " + strings.Repeat("z", 70),
		"Tracestate:\tdd=s:2 ,", "baggage: user_id=forged," + members(2, 50) + ";p=1", "baggage: bad,good=1",
	}
}

// stride is how far apart heads are cut: one byte, more where the machine is
// emulated.
func stride(t *testing.T) int {
	t.Helper()
	if scale(t) < 0.5 {
		return 3
	}
	return 1
}

// receivedSplit has the relay read its request in two pieces, cut at every
// position of the header block; and byte by byte.
func receivedSplit(t *testing.T, r relayRig) {
	p := &parents{n: 1 << 8}
	length := r.length(busyLines(p))
	r.pass(t, nil, nil, nil, []int{1})
	var all []passage
	for at := 1; at < length; at += stride(t) {
		all = append(all, r.pass(t, busyLines(p), nil, nil, []int{at + stride(t)}))
	}
	all = append(all, r.pass(t, busyLines(p), nil, nil, ones(length)))
	all = append(all, r.pass(t, busyLines(p), nil, nil, nil))
	exported := r.settle(t, 2*len(all)+2)
	for _, x := range all {
		x.judge(t, linked, nil, exported)
	}
}

// sentSplit has the relay send its request in two pieces, cut at every position
// of the header block; and byte by byte. Only a blank line that leaves in
// pieces keeps weft from writing.
func sentSplit(t *testing.T, r relayRig) {
	before := r.agent.kernelCounts()
	p := &parents{n: 1 << 12}
	own := []string{"X-First: 1", "tracestate: " + members(2, 50), "X-Last: \xff"}
	var all []passage
	out := len(headOf("GET /leaf?id=relay-00000.0", append([]string{"Connection: close"}, own...)...))
	for at := 1; at < out-3; at += stride(t) {
		all = append(all, r.pass(t, busyLines(p), own, cutAt(at), nil))
	}
	for at := out - 3; at < out; at++ {
		all = append(all, r.pass(t, busyLines(p), own, cutAt(at), nil))
	}
	split := len(all) - 1
	all = append(all, r.pass(t, busyLines(p), own, func(head []byte) []int { return ones(len(head)) }, nil))
	exported := r.settle(t, 2*len(all))
	for i, x := range all {
		o := linked
		if i >= split {
			o = refused
		}
		x.judge(t, o, own, exported)
	}
	r.agent.counted(before, map[string]float64{"refused/split": 2, "injected/socket": float64(split), "written/tracestate": 0,
		"written/baggage": float64(split)})
}

// anyPieces sends random contexts in random pieces, both ways.
func anyPieces(t *testing.T, r relayRig) {
	rng := seeded(t)
	rows := randomRows(rng, max(30, int(300*scale(t))))
	var all []passage
	spans := 0
	for i, row := range rows {
		next := rows[(i+1)%len(rows)]
		plan := pieces(rng, r.length(next.lines), 1+rng.IntN(200), 1)
		all = append(all, r.pass(t, row.lines, nil, randomly(rng), plan))
		if v := judgeLines(row.lines); v.rule != "wire" || v.parent.Sampled() {
			spans += 2
		}
	}
	r.hangUp()
	exported := r.settle(t, spans)
	for i, x := range all {
		t.Run(rows[i].name, func(t *testing.T) { x.judge(t, linked, nil, exported) })
	}
}

// edgeValues sends every kind of value in a header that is to become baggage.
func edgeValues(t *testing.T, r relayRig) {
	p := &parents{n: 1 << 16}
	every := make([]byte, 0, 256)
	for c := 0x20; c < 0x100; c++ {
		if c != 0x7f {
			every = append(every, byte(c))
		}
	}
	tests := [][]string{
		{"X-User-Id: 42"},
		{"x-user-ID:\t42 \t"},
		{"X-User-Id: a b\tc,d;e=f%20\"\\"},
		{"X-User-Id: Zo\xc3\xab \xff"},
		{"X-User-Id: " + string(every[:90])},
		{"X-User-Id: " + string(every[90:170])},
		{"X-User-Id: " + string(every[140:])},
		{"X-User-Id:"},
		{"X-User-Id: \t"},
		{"X-User-Id: " + strings.Repeat("x", 256)},
		{"X-User-Id: " + strings.Repeat("x", 257)},
		{"X-User-Id: " + strings.Repeat("%", 85) + "x"},
		{"X-User-Id: " + strings.Repeat("%", 86)},
		{"X-User-Id: 1", "X-User-Id: 2"},
		{"X-User-Id:", "X-User-Id: 2"},
		{"X-User-Id: 1", "baggage: user_id=2"},
		{"baggage: a=1,user_id=2;p,b=3,user_id=4", "X-User-Id: 1"},
		{"X-User-Id:", "baggage: a=1,user_id=2"},
		{"X-User-Id: " + strings.Repeat("x", 257), "baggage: user_id=2"},
		{"X-User-Id: 1", "baggage: " + members(63, 12)},
		{"X-User-Id: 1", "baggage: " + members(64, 12)},
		{"X-User-Id: 1", "baggage: " + members(63, 12) + ",user_id=2"},
		{"X-User-Id: 1", "baggage: " + members(1, w3c8192-len(",user_id=1"))},
		{"X-User-Id: 1", "baggage: " + members(1, w3c8192-len(",user_id="))},
		{"X-User-Ids: 1"},
		{"user_id: 1"},
		{},
	}
	var all []passage
	for i, lines := range tests {
		if i%2 == 0 {
			lines = append([]string{p.line("01"), "tracestate: a=1"}, lines...)
		}
		all = append(all, r.pass(t, lines, nil, nil, nil))
	}
	exported := r.settle(t, 2*len(all))
	for i, x := range all {
		t.Run(fmt.Sprintf("%d", i), func(t *testing.T) { x.judge(t, linked, nil, exported) })
	}
}

// w3c8192 is the most baggage.
const w3c8192 = 8192

// tooLong sends more than anybody reads.
func tooLong(t *testing.T, r relayRig) {
	p := &parents{n: 1 << 20}
	const size = 100 << 10
	before := r.agent.kernelCounts()
	heads := []struct {
		name  string
		lines []string
		o     outcome
	}{
		{"value", []string{p.line("01"), "X-Big: " + strings.Repeat("x", size)}, lone},
		{"value of traceparent", []string{p.line("01") + strings.Repeat("0", size)}, lone},
		{"value of tracestate", []string{p.line("01"), "tracestate: a=" + strings.Repeat("x", size)}, lone},
		{"value of baggage", []string{p.line("01"), "baggage: a=" + strings.Repeat("x", size)}, lone},
		{"value that becomes baggage", []string{p.line("01"), "X-User-Id: " + strings.Repeat("x", size)}, lone},
		{"blanks", []string{p.line("01"), "baggage:" + strings.Repeat(" \t", size/2) + "a=1"}, lone},
		{"name", []string{p.line("01"), strings.Repeat("x", size) + ": 1"}, lone},
		{"lines", append(slices.Repeat([]string{"baggage: a=1"}, size/14), p.line("01")), lone},
		{"1000 members of tracestate", []string{p.line("01"), "tracestate: " + strings.Repeat("a=1,", 1000)}, linked},
		{"1000 members of baggage", []string{p.line("01"), "baggage: " + strings.Repeat("a=1,", 1000)}, linked},
		{"1000 members in 10 lines", append(slices.Repeat([]string{"tracestate: " + strings.Repeat("a=1,", 100), "baggage: " + strings.Repeat("a=1,", 100)}, 10), p.line("01")), linked},
		{"1000 empty members", []string{p.line("01"), "tracestate: " + strings.Repeat(", ", 1000) + "a=1", "baggage: " + strings.Repeat(",\t", 1000) + "a=1"}, linked},
		{"1000 malformed members", []string{p.line("01"), "baggage: " + strings.Repeat("a,", 1000) + "b=2"}, linked},
		{"15 KiB of both", []string{p.line("01"), "tracestate: " + members(32, 210), "baggage: " + members(40, 200)}, linked},
	}
	spans := 0
	var all []passage
	for _, h := range heads {
		r.hangUp() // a connection with too long a head is left alone for good
		all = append(all, r.pass(t, h.lines, nil, nil, nil))
		spans++
		if h.o == linked {
			spans++
		}
	}
	r.hangUp()
	exported := r.settle(t, spans)
	gone := 0.0
	for i, h := range heads {
		t.Run(h.name, func(t *testing.T) { all[i].judge(t, h.o, nil, exported) })
		if h.o == lone {
			gone++
		}
	}
	r.agent.counted(before, map[string]float64{"handsoff/raw": gone, "tracestate/invalid": 2, "baggage/malformed": 1000,
		"baggage/cut": 2 * (1000 - 64)})
}

// strangeBytes puts bytes where none belong. A control byte ends what weft reads
// of the connection; an eight-bit one breaks at most the member it stands in.
func strangeBytes(t *testing.T, r relayRig) {
	p := &parents{n: 1 << 24}
	lines := []string{p.line("01"), "tracestate: a=12,b=34", "baggage: c=56,d=78", "X-User-Id: 9abc", "X-Other: defgh"}
	type strange struct {
		lines []string
		o     outcome
	}
	var all []strange
	for _, c := range "\x00\x01\x08\n\x0b\r\x1b\x1f\x7f\u0080\u00e9\u00ff" {
		for which := range lines {
			start := strings.Index(lines[which], ":") + 2
			for _, at := range []int{0, 3, start, start + 2, len(lines[which])} {
				s := strange{lines: slices.Clone(lines), o: linked}
				s.lines[which] = lines[which][:at] + string([]byte{byte(c)}) + lines[which][at:]
				if c < 0x80 || at < start {
					s.o = lone // no byte of a name either
				}
				all = append(all, s)
			}
		}
	}
	before := r.agent.kernelCounts()
	var passed []passage
	spans, gone := 0, 0.0
	for _, s := range all {
		passed = append(passed, r.pass(t, s.lines, nil, nil, nil))
		spans += 2
		if s.o == lone {
			r.hangUp()
			gone++
			spans--
		}
	}
	exported := r.settle(t, spans)
	for i, s := range all {
		passed[i].judge(t, s.o, nil, exported)
	}
	r.agent.counted(before, map[string]float64{"handsoff/raw": gone})
}

// strangeOwn has the program send such things.
func strangeOwn(t *testing.T, r relayRig) {
	p := &parents{n: 1 << 26}
	own := p.line("01")
	tests := []struct {
		name string
		own  []string
		o    outcome
	}{
		{"100 KiB", []string{"X-Big: " + strings.Repeat("x", 100<<10)}, unread},
		{"100 KiB of baggage", []string{"baggage: a=" + strings.Repeat("x", 100<<10)}, unread},
		{"NUL", []string{"X-Other: a\x00b"}, unread},
		{"NUL in baggage", []string{"baggage: a=\x00"}, unread},
		{"a bare line feed", []string{"X-Other: a\nb: c"}, unread},
		{"a folded line", []string{"X-Other: a", " b"}, unread},
		{"eight-bit bytes", []string{"X-Other: \xe9\xff"}, linked},
		{"eight-bit bytes in its tracestate", []string{"tracestate: a=\xe9"}, linked},
		{"eight-bit bytes in its baggage", []string{"baggage: a=\xe9"}, linked},
		{"1000 members of its own", []string{"baggage: " + strings.Repeat("a=1,", 1000), "tracestate: " + strings.Repeat("a=1,", 1000)}, linked},
	}
	lines := []string{p.line("01"), "tracestate: a=1", "baggage: b=2"}
	spans := 0
	var all []passage
	for _, tt := range tests {
		all = append(all, r.pass(t, lines, tt.own, nil, nil))
		spans += 2
		if tt.o == unread {
			spans--
		}
	}
	twice := r.pass(t, lines, []string{own, "TraceParent" + strings.TrimPrefix(own, "traceparent")}, nil, nil)
	exported := r.settle(t, spans+2)
	for i, tt := range tests {
		t.Run(tt.name, func(t *testing.T) { all[i].judge(t, tt.o, tt.own, exported) })
	}
	if !bytes.Equal(twice.got, twice.out) {
		t.Errorf("two traceparent lines of its own: sent %q, arrived %q", twice.out, twice.got)
	}
}

// noRoom has the program send heads that are followed, but would grow beyond what
// the next hop reads.
func noRoom(t *testing.T, r relayRig) {
	p := &parents{n: 1 << 27}
	before := r.agent.kernelCounts()
	x := r.pass(t, []string{p.line("01"), "tracestate: a=1", "baggage: " + members(1, 8000)}, []string{"X-Long: " + strings.Repeat("x", 8300)}, nil, nil)
	if got := contextOf(t, x.got); got.parent.TraceID == "" || got.tracestate != "a=1" || got.baggage != "" {
		t.Errorf("%q, want traceparent and tracestate alone", got.lines())
	}
	x = r.pass(t, []string{p.line("01"), "tracestate: " + members(3, 200)}, []string{"X-Long: " + strings.Repeat("x", 15800)}, nil, nil)
	if got := contextOf(t, x.got); got.parent.TraceID == "" || got.tracestate != "" {
		t.Errorf("%q, want traceparent alone", got.lines())
	}
	r.agent.counted(before, map[string]float64{"withheld/space": 2, "written/tracestate": 1, "written/baggage": 0, "injected/socket": 2})
	r.settle(t, 4)
}

// bodies sends a body in the same system call as the head, into which up to 9 KiB
// are written: whatever becomes of that, all other bytes stay.
func bodies(t *testing.T, r relayRig) {
	rng := seeded(t)
	p := &parents{n: 1 << 29}
	before := r.agent.kernelCounts()
	var all []passage
	for _, size := range []int{1, 1000, 20 << 10, 60 << 10, 150 << 10, 700 << 10} {
		for _, baggage := range []int{10, 1000, 8000} {
			r.body = make([]byte, size)
			for i := range r.body {
				r.body[i] = byte(rng.Uint32())
			}
			copy(r.body, lookalike)
			lines := []string{p.line("01"), "tracestate: a=1", "baggage: " + members(1, baggage)}
			all = append(all, r.pass(t, lines, nil, nil, nil))
		}
	}
	r.body = nil
	exported := r.settle(t, 2*len(all))
	written := len(all)
	for i, x := range all {
		o := linked
		if len(x.body) > 60<<10 && x.injected(t).parent.TraceID == "" {
			o = refused // there was no memory to make it one piece
			written--
		}
		t.Run(fmt.Sprint(i), func(t *testing.T) { x.judge(t, o, nil, exported) })
	}
	r.agent.counted(before, map[string]float64{"injected/socket": float64(written)})
}
