package e2e

import (
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
)

// parents makes traceparent values that differ.
type parents struct{ n int }

// value is the next one, of that version and with these flags.
func (p *parents) value(version, flags string) string {
	p.n++
	return fmt.Sprintf("%s-%032x-%016x-%s", version, 0xa11ce<<64>>64+p.n, 0xb0b000+p.n, flags)
}

func (p *parents) line(flags string) string { return "traceparent: " + p.value("00", flags) }

// members is n members, each of so many bytes.
func members(n, size int) string {
	var out []string
	for i := range n {
		m := fmt.Sprintf("k%d=", i)
		out = append(out, m+strings.Repeat("v", size-len(m)))
	}
	return strings.Join(out, ",")
}

func contextRows() []row {
	p := &parents{}
	return slices.Concat(traceparentRows(p), tracestateRows(p), baggageRows(p), mixedRows(p))
}

func traceparentRows(p *parents) []row {
	one := func(name, line string) row { return row{name: "traceparent " + name, lines: []string{line}} }
	rows := []row{
		{name: "nothing"},
		one("version 01, no longer", "traceparent: "+p.value("01", "01")),
		one("version 01, longer", "traceparent: "+p.value("01", "01")+"-what-comes-later"),
		one("version cc, longer", "traceparent: "+p.value("cc", "03")+"-"),
		one("version 01, longer without a dash", "traceparent: "+p.value("01", "01")+".later"),
		one("version 00, longer", "traceparent: "+p.value("00", "01")+"-x"),
		one("version 00, a dash longer", "traceparent: "+p.value("00", "01")+"-"),
		one("version ff", "traceparent: "+p.value("ff", "01")),
		one("version in upper case", "traceparent: "+p.value("CC", "01")),
		one("version not hexadecimal", "traceparent: "+p.value("0g", "01")),
		one("ids in upper case", "traceparent: 00-4BF92F3577B34DA6A3CE929D0E0E4736-00F067AA0BA902B7-01"),
		one("trace-id of zeros", "traceparent: 00-00000000000000000000000000000000-00f067aa0ba902b7-01"),
		one("parent-id of zeros", "traceparent: 00-4bf92f3577b34da6a3ce929d0e0e4736-0000000000000000-01"),
		one("trace-id too short", "traceparent: 00-4bf92f3577b34da6a3ce929d0e0e473-00f067aa0ba902b7-011"),
		one("underscores", "traceparent: "+strings.ReplaceAll(p.value("00", "01"), "-", "_")),
		one("empty", "traceparent:"),
		one("a digit missing", "traceparent: "+p.value("00", "0")),
		one("a blank inside", "traceparent: "+p.value("00", " 01")),
		one("two in one line", "traceparent: "+p.value("00", "01")+","+p.value("00", "01")),
		one("name in upper case", "TRACEPARENT: "+p.value("00", "01")),
		one("name in any case", "tRaCePaReNt: "+p.value("00", "01")),
		one("no blank behind the colon", "traceparent:"+p.value("00", "01")),
		one("tabs and blanks around", "traceparent:\t \t"+p.value("00", "01")+" \t \t"),
		one("another name", "traceparent2: "+p.value("00", "01")),
		one("longer name", "x-traceparent: "+p.value("00", "01")),
	}
	for _, flags := range []string{"00", "01", "02", "03", "04", "0a", "fe", "ff"} {
		rows = append(rows, one("flags "+flags, p.line(flags)))
	}
	same := p.line("01")
	return append(rows,
		row{name: "traceparent twice", lines: []string{same, same}},
		row{name: "traceparent twice, another case", lines: []string{p.line("01"), "TraceParent: " + p.value("00", "01")}},
		row{name: "traceparent twice, the second invalid", lines: []string{p.line("01"), "traceparent: 00"}},
		row{name: "traceparent twice, with all else", lines: []string{same, "tracestate: a=1", "baggage: b=2", same}},
	)
}

func tracestateRows(p *parents) []row {
	with := func(name string, states ...string) row {
		r := row{name: "tracestate " + name, lines: []string{p.line("01")}}
		for _, s := range states {
			r.lines = append(r.lines, "tracestate:"+s)
		}
		return r
	}
	long := strings.Repeat("k", 256) + "=" + strings.Repeat("v", 256)
	return []row{
		with("of one", " congo=t61rcWkgMzE"),
		with("of other vendors", " dd=s:2;o:rum;t.dm:-4;t.usr.id:baz64~~,hny=abc!$%^:123 ~x,rojo=00f067aa0ba902b7,nr@1=0-0-1-2,es=s:1.0"),
		with("with a tenant", " fw529a3039@dt=FfUw529a3039;9b2f,a/b*c-d_e@f@g=1"),
		with("of several lines", " a=1,b=2", " c=3", "\td=4 , e=5\t"),
		with("of several lines, some empty", "", " a=1,", "\t", ",b=2", ""),
		with("of empty members", ",, \t,a=1,\t,b=2 ,"),
		with("of nothing", " , ,\t"),
		with("with leading spaces in a value", " a=  1  2 ,b=2"),
		with("of 32", " "+members(32, 20)),
		with("of 32 in 32 lines", strings.Split(members(32, 8), ",")...),
		with("of 32 and empty ones", " "+strings.ReplaceAll(members(32, 20), ",", " ,, ")+",,,"),
		with("of 33", " "+members(33, 8)),
		with("of 33 in two lines", members(32, 8), " a=1"),
		with("of 512 bytes", " "+members(4, 127)+",e"),
		with("of one of 513", " "+long),
		with("of two of 513", " "+long+","+long),
		with("with a key of 257", " k"+long),
		with("with a value of 257", " "+long+"v"),
		with("of 1024", " "+members(8, 127)+"x"),
		with("of 1025", " "+members(8, 127)+"xx"),
		with("cut from the end", " "+members(32, 60)),
		with("cut over several lines", " "+members(10, 60), members(10, 60), " last=1"),
		with("cut, those over 128 first", " first="+strings.Repeat("x", 200)+","+members(15, 60)+",last=1"),
		with("cut, several over 128", " "+members(4, 200)+","+members(8, 60)),
		with("of two with one key", " a=1,b=2,a=3"),
		with("with a key in upper case", " a=1,Bad=2"),
		with("without an equals sign", " a=1,b"),
		with("with two equals signs", " a=1=2"),
		with("without a value", " a=1,b="),
		with("without a key", " =1,b=2"),
		with("with a blank behind a key", " a =1"),
		with("with a tab in a value", " a=1\t2"),
		with("with an eight-bit byte", " a=1\xe9"),
		with("with eight-bit bytes in a key", " \xc3\xa9=1"),
		with("malformed in the last line", " a=1", " b=2", " c c=3"),
		with("of ot", " dd=s:1,ot=th:8;rv:9b8233f7e3a151,a=1"),
		with("of ot that the flag contradicts", " dd=s:1,ot=th:8;rv:1b8233f7e3a151;x:1,a=1"),
		with("of ot that says never sampled", " dd=s:1,ot=th:8;rv:00000000000000", " ot=th:1"),
		with("of malformed ot", " ot=th:xyz;rv:1;x:2,a=1"),
		{name: "tracestate before traceparent", lines: []string{"tracestate: a=1", "TraceState: b=2", p.line("01"), "TRACESTATE: c=3"}},
		{name: "tracestate without traceparent", lines: []string{"tracestate: a=1"}},
		{name: "tracestate, malformed, without traceparent", lines: []string{"tracestate: A"}},
		{name: "tracestate with an invalid traceparent", lines: []string{"traceparent: 00", "tracestate: a=1", "baggage: b=2"}},
		{name: "tracestate of ot, not sampled", lines: []string{p.line("02"), "tracestate: a=1,ot=rv:1b8233f7e3a151;th:8"}},
		{name: "tracestate of ot that should be sampled", lines: []string{p.line("00"), "tracestate: a=1,ot=rv:fb8233f7e3a151;th:8"}},
		{name: "tracestate, not sampled", lines: []string{p.line("02"), "tracestate: a=1,b=2"}},
		{name: "tracestate, malformed, not sampled", lines: []string{p.line("00"), "tracestate: a=1,b"}},
	}
}

func baggageRows(p *parents) []row {
	with := func(name string, lines ...string) row {
		r := row{name: "baggage " + name, lines: []string{p.line("01")}}
		for _, l := range lines {
			r.lines = append(r.lines, "baggage:"+l)
		}
		return r
	}
	return []row{
		with("of one", " user_id=42"),
		with("with properties", " a=1;ttl=30;secret, b=2 ; p = 3 ;q ,c=;x"),
		with("of several lines", " a=1,b=2", "\tc=3\t", " d=4 , e=5"),
		with("of empty members", ",,a=1, ,\t,b=2,", "", ",c=3"),
		with("percent-encoded", " name=Zo%C3%AB%20%2C%3B%22%5C,raw=%,half=%4"),
		with("of two with one key", " a=1,b=2,a=3"),
		with("with a malformed member", " a=1,no equals,b=2"),
		with("with malformed members everywhere", " =1,a b=2,\"c\"=3,d=\"4\",e=5,f=6;=7,g=8;,h=9\\,i=1 2,j=1"),
		with("of malformed members alone", " a,b,c"),
		with("with an eight-bit byte in a value", " a=1,b=Zo\xc3\xab,c=3"),
		with("with an eight-bit byte in a key", " \xff=1,c=3"),
		with("with a tab inside", " a=1\t2,b=2"),
		with("of 64", " "+members(64, 12)),
		with("of 65", " "+members(65, 12)),
		with("of 64 and malformed ones", " bad,"+members(64, 12)+",bad"),
		with("of 65 in several lines", members(30, 10), members(30, 10), members(5, 10)),
		with("of 249 bytes", " "+members(1, 249)), // the class of 248 bytes ends
		with("of 2041 bytes", " "+members(10, 203)+"x"),
		with("of 8192 bytes", " "+members(1, 8192)),
		with("of 8193 bytes", " "+members(1, 8193)),
		with("of 8192 bytes in 64", " "+members(63, 127)+",k63="+strings.Repeat("v", 124)),
		with("of 8193 bytes in 64", " "+members(63, 127)+",k63="+strings.Repeat("v", 125)),
		with("with one that does not fit", " a=1,"+members(1, 8190)+",c=3"),
		with("with a key that does not fit", " a=1,"+strings.Repeat("k", 9000)),
		{name: "baggage in any case", lines: []string{"BAGGAGE: a=1", p.line("01"), "bAgGaGe: b=2"}},
		{name: "baggage without traceparent", lines: []string{"baggage: a=1"}},
		{name: "baggage with an invalid traceparent", lines: []string{"traceparent: x", "baggage: a=1;p=2"}},
		{name: "baggage, not sampled", lines: []string{p.line("00"), "baggage: a=1"}},
		{name: "baggage with a malformed tracestate", lines: []string{p.line("01"), "tracestate: A=1", "baggage: a=1"}},
	}
}

// mixedRows fill every size class with both, and each is followed by a request
// with little: nothing may be left of the one before.
func mixedRows(p *parents) []row {
	var rows []row
	for _, sizes := range [][2]int{{100, 148}, {100, 149}, {1000, 1040}, {1000, 1041}, {1024, 8192}} {
		rows = append(rows,
			row{name: fmt.Sprintf("both, of %d and %d bytes", sizes[0], sizes[1]), lines: []string{
				p.line("01"), "tracestate: " + members(sizes[0]/100, 99) + strings.Repeat("x", sizes[0]-100*(sizes[0]/100)+1),
				"baggage: " + members(1, sizes[1])}},
			row{name: "neither", lines: []string{p.line("01")}},
			row{name: "nothing again"},
			row{name: "a little of both", lines: []string{p.line("01"), "tracestate: a=1", "baggage: b=2"}},
		)
	}
	return rows
}

// randomRows are made of pieces that are good and pieces that are not. No
// control bytes: what those do to a header block is for other tests.
func randomRows(rng *rand.Rand, n int) []row {
	p := &parents{n: 1 << 20}
	pick := func(from ...string) string { return from[rng.IntN(len(from))] }
	junk := func() string {
		const bytes = "ab019-_*/@=;,  \t%\"\\\x80\xffAZ.~!"
		var b strings.Builder
		for range rng.IntN(12) {
			b.WriteByte(bytes[rng.IntN(len(bytes))])
		}
		return b.String()
	}
	member := func() string {
		if rng.IntN(25) == 0 {
			return junk()
		}
		key := pick("a", "dd", "ot", "1x", "k@v") + fmt.Sprint(rng.IntN(50))
		return key + "=" + strings.Repeat(pick("v", "x y", "th:8;", "~"), rng.IntN(60)) + "z"
	}
	list := func() string {
		var out []string
		for range rng.IntN(14) {
			out = append(out, pick("", " ", "\t")+member()+pick("", "", " ", "\t "))
		}
		return strings.Join(out, ",")
	}
	var rows []row
	for i := range n {
		var lines []string
		for range 1 + rng.IntN(6) {
			switch rng.IntN(8) {
			case 0, 1, 2:
				lines = append(lines, pick("tracestate", "Tracestate", "TRACESTATE")+":"+list())
			case 3, 4:
				lines = append(lines, pick("baggage", "Baggage", "BAGGAGE")+":"+list())
			default:
				lines = append(lines, fmt.Sprintf("x-%d: %s", rng.IntN(99), strings.TrimSpace(junk())))
			}
		}
		if rng.IntN(8) > 0 {
			lines = append(lines, pick("traceparent", "Traceparent", "TRACEPARENT")+":"+pick("", " ", "\t")+
				p.value(pick("00", "00", "00", "00", "00", "01", "ff"), pick("00", "01", "02", "03", "09")))
		}
		rng.Shuffle(len(lines), func(i, j int) { lines[i], lines[j] = lines[j], lines[i] })
		rows = append(rows, row{name: fmt.Sprintf("random %d", i), lines: lines})
	}
	return rows
}
