package e2e

import (
	"fmt"
	"net/url"

	"weft/test/e2e/truth"
)

// goPattern is a way of calling in test/apps/gomatrix, and what evidence of the
// parent there is.
type goPattern struct {
	name     string
	calls    []string // by name; nil: one, named as the pattern
	expect   truth.Expect
	rules    []string
	optional bool // calls may be given up, or be made for others too
	bare     bool // sent without traceparent
	own      bool // the program sets a traceparent of its own
	forwards bool // the program passes an inbound traceparent on
	shared   int  // so many requests share one call
	creator  bool // the evidence is g.parentGoid, which Go has from 1.21 on
	caller   bool // the evidence is the calling goroutine alone
}

// byContext is the rule where the request's context was handed to the call.
var byContext = []string{"context"}

var (
	aToJ       = []string{"a", "b", "c", "d", "e", "f", "g", "h", "i", "j"}
	goPatterns = []goPattern{
		{name: "none", calls: []string{}},
		{name: "same", rules: byContext},
		{name: "post", rules: byContext},
		{name: "noctx", rules: []string{"goroutine"}, caller: true},
		{name: "go", rules: []string{"creator"}, creator: true},
		{name: "goctx", rules: byContext},
		{name: "nested", rules: []string{"creator"}, creator: true},
		{name: "nested-3", rules: []string{"creator"}, creator: true},
		{name: "nested-errgroup", calls: []string{"a", "b", "c"}, rules: []string{"creator"}, creator: true},
		// Go may have used the g of the goroutine in between for another.
		{name: "nested-ended", expect: truth.Either},
		// The runtime makes that goroutine, and does not know for whom.
		{name: "timer", expect: truth.Root},
		{name: "nested-ctx", rules: byContext},
		{name: "errgroup", calls: []string{"a", "b", "c"}, rules: byContext},
		{name: "pool", rules: byContext},
		{name: "pool-background", expect: truth.Root},
		// Its workers were created by earlier requests of the same connections.
		{name: "pool-lazy", expect: truth.Root},
		{name: "single", rules: byContext, optional: true, shared: 4},
		{name: "single-chan", rules: []string{"creator"}, creator: true, optional: true, shared: 4},
		{name: "retry", calls: []string{"first", "second"}, rules: byContext},
		{name: "redirect", calls: []string{"first", "second"}, rules: byContext},
		{name: "hedge", calls: []string{"first", "second"}, rules: byContext, optional: true},
		{name: "proxy", rules: byContext, forwards: true},
		{name: "own", expect: truth.Own, own: true},
		{name: "sequential", calls: []string{"a", "b"}, rules: byContext},
		{name: "parallel", calls: []string{"a", "b"}, rules: byContext},
		{name: "fan", calls: aToJ, rules: byContext},
		{name: "fan-noctx", calls: aToJ, rules: []string{"creator"}, creator: true},
		{name: "wrapper", rules: byContext},
		{name: "chain", rules: byContext},
		{name: "timeout", rules: byContext},
		{name: "client-timeout", rules: byContext},
		{name: "withoutcancel", rules: byContext},
		{name: "afterfunc", rules: byContext},
		// The request may have ended: a parent, if any, must be the right one.
		{name: "late", expect: truth.Either},
		{name: "forget", expect: truth.Either},
		{name: "forget-ctx", expect: truth.Either},
	}
)

// names are those of its calls.
func (p goPattern) names() []string {
	if p.calls == nil {
		return []string{p.name}
	}
	return p.calls
}

// request is the i-th of a pattern: what is sent, and the truth of it.
func (p goPattern) request(prefix string, i int, v goVersion, protocol string) (truth.Relayed, string) {
	r := truth.Relayed{ID: fmt.Sprintf("%s-%s-%d", prefix, p.name, i)}
	query := url.Values{"id": {r.ID}}
	if !p.bare {
		switch i % 8 {
		case 1, 5:
			r.Traceparents = []string{p.traceparent(prefix, i, 1)}
		case 3:
			r.Traceparents = []string{p.traceparent(prefix, i, 0)}
		}
	}
	if p.own {
		r.Own = p.traceparent(prefix+"own", i, 1)
		query.Set("own", r.Own)
	}
	if p.shared > 0 {
		query.Set("key", fmt.Sprintf("%s-%s-%d", prefix, p.name, i/p.shared))
	}
	expect, rules := p.expect, p.rules
	if p.forwards && r.Traceparents != nil {
		expect = truth.Own
	}
	http2 := protocol != "http1" && protocol != "https"
	switch {
	case p.creator && v.minor < 21:
		// No parentGoid: there is nothing to go by.
		expect = truth.Root
	case p.caller && http2 && v.minor < 21:
		// HTTP/2 requests are written by a goroutine that the caller created.
		expect = truth.Either
		rules = nil
	case p.caller && http2:
		rules = []string{"goroutine", "creator"}
	}
	for _, name := range p.names() {
		r.Calls = append(r.Calls, truth.Call{Name: name, Expect: expect, Rules: rules, Optional: p.optional})
	}
	return r, "/do/" + p.name + "?" + query.Encode()
}

// traceparent is of a trace that no other request has.
func (p goPattern) traceparent(prefix string, i int, flags uint8) string {
	h := fnv(prefix + p.name)
	return fmt.Sprintf("00-%016x%016x-%08x%08x-%02x", h, i+1, uint32(h>>16), i+1, flags)
}

// fnv is FNV-1a.
func fnv(s string) uint64 {
	h := uint64(14695981039346656037)
	for _, b := range []byte(s) {
		h = (h ^ uint64(b)) * 1099511628211
	}
	return h
}
