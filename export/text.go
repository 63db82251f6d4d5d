package export

import (
	"fmt"
	"strings"
	"time"
	"unicode"

	"golang.org/x/text/width"
)

// printable makes text from the wire safe for a terminal: control characters,
// escape sequences and broken UTF-8 come out as \xNN.
func printable(s string) string {
	clean := true
	for i := range len(s) {
		if s[i] < 0x20 || s[i] >= 0x7f {
			clean = false
			break
		}
	}
	if clean {
		return s
	}
	var b strings.Builder
	for i, r := range s {
		switch {
		case r == unicode.ReplacementChar && s[i] != "\uFFFD"[0]:
			fmt.Fprintf(&b, `\x%02x`, s[i])
		case !unicode.IsGraphic(r):
			fmt.Fprintf(&b, `\x%02x`, r)
		default:
			b.WriteRune(r)
		}
	}
	return b.String()
}

// columns is the number of terminal cells a rune takes.
func columns(r rune) int {
	if r < 0x300 {
		return 1
	}
	if unicode.In(r, unicode.Mn, unicode.Me) {
		return 0
	}
	switch width.LookupRune(r).Kind() {
	case width.EastAsianWide, width.EastAsianFullwidth:
		return 2
	}
	return 1
}

func textWidth(s string) int {
	n := 0
	for _, r := range s {
		n += columns(r)
	}
	return n
}

// fit cuts s to limit columns, with an ellipsis when it was cut.
func fit(s string, limit int) string {
	if textWidth(s) <= limit {
		return s
	}
	if limit <= 0 {
		return ""
	}
	n := 0
	for i, r := range s {
		if n += columns(r); n > limit-1 {
			return s[:i] + "…"
		}
	}
	return s
}

// humanTime writes a duration with three significant digits or so.
func humanTime(d time.Duration) string {
	switch {
	case d < time.Millisecond:
		return fmt.Sprintf("%d µs", d.Microseconds())
	case d < 100*time.Millisecond:
		return fmt.Sprintf("%.1f ms", float64(d)/float64(time.Millisecond))
	case d < time.Second:
		return fmt.Sprintf("%d ms", d.Milliseconds())
	case d < 100*time.Second:
		return fmt.Sprintf("%.2f s", d.Seconds())
	}
	return fmt.Sprintf("%d s", int(d.Seconds()))
}

// bar draws [start, end) of a total on cells columns, in half cells; it is
// never empty. It returns the blanks before it and the bar itself.
func bar(start, end, total time.Duration, cells int) (blank, line string) {
	halves := 2 * cells
	from, to := 0, halves
	if total > 0 {
		from = min(int(int64(halves)*int64(start)/int64(total)), halves-1)
		to = int((int64(halves)*int64(end) + int64(total) - 1) / int64(total))
		to = min(max(to, from+1), halves)
	}
	var b strings.Builder
	for cell := from / 2; 2*cell < to; cell++ {
		left, right := 2*cell >= from, 2*cell+1 < to
		switch {
		case left && right:
			b.WriteRune('━')
		case left:
			b.WriteRune('╸')
		default:
			b.WriteRune('╺')
		}
	}
	return strings.Repeat(" ", from/2), b.String()
}
