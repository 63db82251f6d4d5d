package export

import (
	"bytes"
	"cmp"
	"encoding/hex"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"time"

	"weft/internal/event"
)

// Widths of the columns right of the label.
const (
	durationWidth = 7
	barShare      = 4 // of the width, one part at least is the bar's
	maxBar        = 40
	columnGap     = 2
)

// node is one line of the tree: a span, or a parent that was not seen.
type node struct {
	span     *event.Span // nil: a parent that was not seen
	missing  event.SpanID
	up       *node
	children []*node
}

// row is a node laid out.
type row struct {
	*node
	prefix string // box drawing before the label
	under  string // box drawing before a further line of the same node
}

// grow arranges the spans of a trace. Every span comes out exactly once,
// whatever its parent id claims: repeated ids and cycles do not lose any.
func grow(spans []*event.Span) []*node {
	spans = slices.Clone(spans)
	slices.SortStableFunc(spans, func(a, b *event.Span) int {
		return cmp.Or(a.Start.Compare(b.Start), -a.Response.End.Compare(b.Response.End),
			bytes.Compare(a.SpanID[:], b.SpanID[:]))
	})
	nodes := make([]*node, len(spans))
	byID := make(map[event.SpanID]*node, len(spans))
	for i, s := range spans {
		nodes[i] = &node{span: s}
		if byID[s.SpanID] == nil {
			byID[s.SpanID] = nodes[i]
		}
	}
	var roots []*node
	missing := make(map[event.SpanID]*node)
	for _, n := range nodes {
		id := n.span.ParentID
		up := byID[id]
		switch {
		case id == (event.SpanID{}):
			roots = append(roots, n)
			continue
		case up == nil:
			if up = missing[id]; up == nil {
				up = &node{missing: id}
				missing[id] = up
				roots = append(roots, up)
			}
		case leadsTo(up, n):
			roots = append(roots, n) // the claim would close a circle
			continue
		}
		n.up = up
		up.children = append(up.children, n)
	}
	return roots
}

// leadsTo says whether n is from or above it.
func leadsTo(from, n *node) bool {
	for ; from != nil; from = from.up {
		if from == n {
			return true
		}
	}
	return false
}

// flatten lists the tree depth first with its box drawing.
func flatten(roots []*node) []row {
	var rows []row
	var walk func(n *node, prefix, under string)
	walk = func(n *node, prefix, under string) {
		if len(rows) >= maxTreeRows {
			prefix, under = "", "" // counted, not drawn
		}
		stem := "   "
		if len(n.children) > 0 {
			stem = "│  "
		}
		rows = append(rows, row{n, prefix, under + stem})
		for i, c := range n.children {
			if i == len(n.children)-1 {
				walk(c, under+"└─ ", under+"   ")
			} else {
				walk(c, under+"├─ ", under+"│  ")
			}
		}
	}
	for _, n := range roots {
		walk(n, "", "")
	}
	return rows
}

// render draws one trace, with an empty line after it.
func (p *treePrinter) render(t *trace, continued bool) []byte {
	start, end, errs := extent(t.spans)
	total := end.Sub(start)
	rows := flatten(grow(t.spans))

	var out bytes.Buffer
	st := p.style
	out.WriteString(st.bold("trace " + hex.EncodeToString(t.id[:])))
	fmt.Fprintf(&out, " · %s · %s", plural(len(t.spans), "span"), humanTime(total))
	if errs > 0 {
		out.WriteString(" · " + st.red(plural(errs, "error")))
	}
	if continued {
		out.WriteString(" · continued")
	}
	out.WriteByte('\n')

	hidden := rows[min(len(rows), maxTreeRows):]
	rows = rows[:len(rows)-len(hidden)]
	cols := p.measure(rows)
	for _, r := range rows {
		if r.span == nil {
			line := r.prefix + hex.EncodeToString(r.missing[:]) + " " + whyMissing(r.node, continued)
			out.WriteString(st.dim(fit(line, p.opts.Width)) + "\n")
			continue
		}
		p.spanLine(&out, r, cols, start, total)
		if p.opts.Verbose {
			out.WriteString(st.dim(fit(r.under+decided(r.span), p.opts.Width)) + "\n")
		}
	}
	if len(hidden) > 0 {
		out.WriteString(st.dim(summarize(hidden)) + "\n")
	}
	out.WriteByte('\n')
	return out.Bytes()
}

// layout holds the widths of the columns of one trace.
type layout struct{ label, status, bar int }

func (p *treePrinter) measure(rows []row) layout {
	l := layout{status: 3}
	for _, r := range rows {
		if r.span != nil {
			l.label = max(l.label, textWidth(r.prefix+serviceText(r.span)+callText(r.node)))
			l.status = max(l.status, len(statusText(r.span)))
		}
	}
	rest := p.opts.Width - l.status - durationWidth - 3*columnGap
	l.label = min(l.label, max(rest-p.opts.Width/barShare, 20))
	l.bar = max(min(rest-l.label, maxBar), 1)
	return l
}

func (p *treePrinter) spanLine(out *bytes.Buffer, r row, l layout, start time.Time, total time.Duration) {
	st := p.style
	failed := r.span.ErrorType() != ""
	prefix := r.prefix
	if textWidth(prefix) > l.label/2 {
		// Too deep to draw: keep the room for what the line says.
		prefix = "⋯" + strconv.Itoa(textWidth(prefix)/3) + " "
	}
	service, call := serviceText(r.span), callText(r.node)
	service = fit(service, l.label-textWidth(prefix))
	call = fit(call, l.label-textWidth(prefix)-textWidth(service))
	pad := l.label - textWidth(prefix) - textWidth(service) - textWidth(call)

	status := fmt.Sprintf("%-*s", l.status, statusText(r.span))
	took := humanTime(duration(r.span))
	from := r.span.Start.Sub(start)
	blank, line := bar(from, from+duration(r.span), total, l.bar)

	color := st.service(serviceName(r.span.Process))
	paint := st.green
	if failed {
		paint, color = st.red, st.red
	}
	gap := strings.Repeat(" ", columnGap)
	out.WriteString(st.dim(prefix) + st.service(serviceName(r.span.Process))(service) + call +
		strings.Repeat(" ", pad) + gap + paint(status) + gap +
		strings.Repeat(" ", max(0, durationWidth-textWidth(took))) + took + gap +
		blank + color(line) + "\n")
}

func serviceText(s *event.Span) string { return printable(serviceName(s.Process)) }

// callText is what the line says after the service: which way the request
// went, and what it asked for. A call whose receiver is not in the trace names
// the host instead.
func callText(n *node) string {
	s := n.span
	arrow := " ← "
	if s.Role == event.RoleClient {
		arrow = " → "
	}
	if isRPC(s) {
		return arrow + printable(rpcText(n))
	}
	t := targetOf(&s.Request)
	what := t.pathAndQuery()
	if s.TargetTotal > len(s.Target) {
		what += "…"
	}
	if host, port := serverOf(&s.Request, t); s.Role == event.RoleClient && len(n.children) == 0 && host != "" {
		if port != 0 && port != defaultPort(t.scheme) {
			host += ":" + strconv.Itoa(port)
		}
		if t.path == "*" || t.path == "" {
			what = host
		} else {
			what = host + what
		}
	} else if t.path == "" {
		what = s.Target
	}
	return arrow + printable(s.Method) + " " + printable(what)
}

// rpcText is callText for a remote procedure call: its system, and the method's
// full name.
func rpcText(n *node) string {
	s := n.span
	what := strings.TrimPrefix(s.Target, "/")
	if s.TargetTotal > len(s.Target) {
		what += "…"
	}
	if host, port := rpcServer(&s.Request, nil); s.Role == event.RoleClient && len(n.children) == 0 && host != "" {
		if port != 0 {
			host += ":" + strconv.Itoa(port)
		}
		what = host + "/" + what
	}
	return "grpc " + what
}

func statusText(s *event.Span) string {
	code, how := "", ""
	if status := s.Response.GRPC; isRPC(s) && status != event.GRPCNone {
		return status.String()
	}
	if s.Response.Status != 0 && !isRPC(s) {
		code = strconv.Itoa(s.Response.Status)
	}
	switch s.Response.Reason {
	case event.EndClosed, event.EndReset, event.EndCancelled, event.EndTimeout, event.EndUnread:
		how = s.Response.Reason.String()
	case event.EndLost:
		if code == "" {
			how = "lost"
		}
	}
	return strings.TrimSpace(code + " " + how)
}

// decided says in words how the parent was found and what became of the header.
func decided(s *event.Span) string {
	var why string
	switch s.Rule {
	case event.ParentNone:
		why = "root: no traceparent came in"
		if s.Role == event.RoleClient {
			why = "root: no request in flight led to it"
		}
	case event.ParentWire:
		why = "parent: traceparent on the wire"
	case event.ParentThread:
		why = "parent: same thread"
	case event.ParentSole:
		why = "parent: only request in flight on this thread"
	case event.ParentAdopted:
		why = "parent: the program's own traceparent"
	case event.ParentAmbiguous:
		why = "root: several requests in flight on this thread, not guessed"
	case event.ParentInvalid:
		why = "root: traceparent malformed or repeated"
	case event.ParentUntrusted:
		why = "root: context from a network that is not trusted"
	case event.ParentContext:
		why = "parent: by context, the call's context.Context"
	case event.ParentGoroutine:
		why = "parent: by goroutine, the one that serves it"
	case event.ParentCreator:
		why = "parent: by creator, a goroutine that this one descends from"
	default:
		why = "parent: decided by an unknown rule"
	}
	if hasLink(s) {
		why += fmt.Sprintf(" · linked to %x-%x", s.Link.TraceID, s.Link.SpanID)
	}
	switch s.Propagation {
	case event.PropagationInjected:
		why += " · traceparent written"
	case event.PropagationOwn:
		why += " · the program's own header kept"
	case event.PropagationObserved:
		why += " · header not written, only observed"
	case event.PropagationWithheld:
		why += " · header not written, propagation.egress keeps it from this network"
	case event.PropagationRefused:
		why += " · header not written, a guard refused (weft_* counters say which)"
	}
	return why + fmt.Sprintf(" · pid %d tid %d", s.PID, s.TID)
}

// whyMissing explains a parent id that no span of the trace has.
func whyMissing(n *node, continued bool) string {
	for _, c := range n.children {
		if continued && c.span.Rule.Outlives() {
			return "(printed before, or lost)"
		}
		if c.span.Rule.Local() {
			return "(request not finished or lost)"
		}
	}
	return "(caller not traced here)"
}

// summarize counts what an abbreviated tree leaves out.
func summarize(rows []row) string {
	spans, errs := 0, 0
	for _, r := range rows {
		if r.span != nil {
			spans++
			if r.span.ErrorType() != "" {
				errs++
			}
		}
	}
	text := "… " + plural(spans, "more span")
	if errs > 0 {
		text += ", " + plural(errs, "error") + " among them"
	}
	return text
}

func plural(n int, what string) string {
	if n == 1 {
		return "1 " + what
	}
	return strconv.Itoa(n) + " " + what + "s"
}

func extent(spans []*event.Span) (start, end time.Time, errs int) {
	start, end = spans[0].Start, spans[0].Response.End
	for _, s := range spans {
		if s.Start.Before(start) {
			start = s.Start
		}
		if s.Response.End.After(end) {
			end = s.Response.End
		}
		if s.ErrorType() != "" {
			errs++
		}
	}
	return start, end, errs
}
