package sample

import (
	"time"

	"weft/internal/event"
	"weft/internal/selfstats"
)

// reason says why a trace was kept or dropped. Of several policies the lowest
// number is counted.
type reason uint8

const (
	undecided reason = iota
	keptError
	keptSlow
	keptSlowForRoute
	keptRare
	keptShare
	dropped
	reasons
)

var reasonNames = [reasons]string{
	undecided:        "undecided",
	keptError:        "error",
	keptSlow:         "slow",
	keptSlowForRoute: "slow_for_route",
	keptRare:         "rare",
	keptShare:        "ratio",
	dropped:          "ratio",
}

// policy says that the reason does not depend on the trace's randomness.
func (r reason) policy() bool { return r >= keptError && r <= keptRare }

// stronger returns the one of two findings that is counted.
func stronger(a, b reason) reason {
	if a == undecided || b != undecided && b < a {
		return b
	}
	return a
}

// policies judge spans one by one.
type policies struct {
	errors bool
	slower time.Duration
	routes *routes // nil: no policy asks for them
}

func newPolicies(o Options, displaced selfstats.Counter) policies {
	p := policies{errors: o.Errors, slower: o.SlowerThan}
	if o.SlowerQuantile > 0 || o.RarePerMinute > 0 {
		p.routes = newRoutes(maxRoutes, o.SlowerQuantile, o.RarePerMinute, displaced)
	}
	return p
}

// judge returns the policy that keeps the span, or undecided. Every span is
// part of what is known of its route, whatever becomes of it.
func (p *policies) judge(s *event.Span, now time.Duration) reason {
	took := s.Response.End.Sub(s.Start)
	var slow, rare bool
	if p.routes != nil {
		slow, rare = p.routes.see(p.routes.key(s), took, now)
	}
	switch {
	case p.errors && s.ErrorType() != "":
		return keptError
	case p.slower > 0 && took >= p.slower:
		return keptSlow
	case slow:
		return keptSlowForRoute
	case rare:
		return keptRare
	}
	return undecided
}
