package main

import (
	"weft/internal/config"
	"weft/loader"
	"weft/sample"
)

// The packages take their own slice of the configuration; here it is cut.

func samplingOptions(c config.Sampling) loader.Sampling {
	s := loader.Sampling{ParentBased: c.Head.ParentBased(), Ratio: c.Head.RootRatio(c.Ratio),
		MaxPerSecond: c.MaxPerSecond, Marks: c.Tail.Enabled}
	for _, r := range c.Rules {
		rule := loader.SamplingRule{Method: r.Method, Path: r.Path, Ratio: r.Ratio}
		if r.Service.IsSet() {
			rule.Service = r.Service.Match
		}
		s.Rules = append(s.Rules, rule)
	}
	if c.HealthChecks {
		for _, path := range config.HealthCheckPaths() {
			s.Rules = append(s.Rules, loader.SamplingRule{Path: path, Exact: true, Reads: true})
		}
	}
	return s
}

func headerSet(headers []config.Header) (set loader.Headers) {
	for _, h := range headers {
		switch h {
		case config.HeaderTraceparent:
			set |= loader.HeaderTraceparent
		case config.HeaderTracestate:
			set |= loader.HeaderTracestate
		case config.HeaderBaggage:
			set |= loader.HeaderBaggage
		}
	}
	return set
}

func policyOptions(p config.Propagation, b config.Baggage) loader.Policy {
	policy := loader.Policy{Inject: headerSet(p.Inject), Trust: p.Trust, Attributes: b.Attributes}
	for _, r := range p.EgressRules() {
		rule := loader.EgressRule{Network: r.CIDR, Headers: headerSet(r.Inject), Keys: r.BaggageKeys}
		for _, ports := range r.Ports {
			rule.Ports = append(rule.Ports, loader.PortRange(ports))
		}
		policy.Egress = append(policy.Egress, rule)
	}
	for _, s := range b.Set {
		policy.Edges = append(policy.Edges, loader.Edge{Key: s.Key, Header: s.Header})
	}
	return policy
}

// tailOptions is what the tail sampler decides by; nil: there is to be none.
func tailOptions(c config.Sampling) *sample.Options {
	if !c.Tail.Enabled {
		return nil
	}
	return &sample.Options{
		Errors:         c.Tail.Errors,
		SlowerThan:     c.Tail.SlowerThan,
		SlowerQuantile: c.Tail.SlowerQuantile,
		RarePerMinute:  c.Tail.RarePerMinute,
		Ratio:          c.Tail.Ratio,
		Wait:           c.Tail.Wait,
		MaxSpans:       c.Tail.MaxSpans,
		// The head says its threshold itself (loader.Sampling.Marks): a span
		// without one stands for a number nobody knows.
		HeadKeepsAll: false,
	}
}
