package config

import (
	"strconv"
	"strings"
	"time"
)

const (
	maxRules      = 15
	maxRuleMethod = 16
	maxRulePath   = 64

	// minRatio is what 56 bits of randomness and a float64 can tell from 0.
	minRatio = 1e-16
)

// Defaults of Tail, once it is on.
const (
	defaultTailRatio    = 0.1
	defaultTailWait     = 5 * time.Second
	defaultTailMaxSpans = 50000
)

func samplers() []Sampler {
	return []Sampler{
		SamplerAlwaysOn, SamplerAlwaysOff, SamplerTraceIDRatio,
		SamplerParentBasedAlwaysOn, SamplerParentBasedAlwaysOff, SamplerParentBasedTraceIDRatio,
	}
}

// HealthCheckPaths are the paths, without their query, that kubelets, load
// balancers and frameworks ask for health.
func HealthCheckPaths() []string {
	return []string{
		"/healthz", "/livez", "/readyz", // Kubernetes' own
		"/health", "/live", "/ready",
		"/health/live", "/health/ready", // MicroProfile, ASP.NET
		"/-/healthy", "/-/ready", // Prometheus
		"/actuator/health", "/actuator/health/liveness", "/actuator/health/readiness", // Spring Boot
		"/q/health", "/q/health/live", "/q/health/ready", // Quarkus
	}
}

// decodeRatio reads a sampling probability. A ratio r keeps a trace if its 56
// random bits are at least round((1-r)·2^56); one so small that this is 2^56
// would keep nothing.
func decodeRatio(v value, into *float64) bool {
	const want = "a number between 0 and 1"
	f := -1.0
	decodeNumber(v, &f, want, func(f float64) bool { return f >= 0 && f <= 1 })
	switch {
	case f < 0:
		return false
	case f > 0 && f < minRatio:
		v.fail("%s is too small to keep anything; write 0, or 1e-16 or more", v.node.Value)
		return false
	}
	*into = f
	return true
}

func decodeRules(v value) []SamplingRule {
	var rules []SamplingRule
	for _, item := range v.items("a list such as [{path: /static/, ratio: 0.01}]") {
		rules = append(rules, decodeRule(item))
	}
	if len(rules) > maxRules {
		v.fail("%d rules, at most %d", len(rules), maxRules)
	}
	return rules
}

func decodeRule(v value) SamplingRule {
	var r SamplingRule
	bad, hasRatio := v.problems.count(), false
	known := v.mapping(map[string]func(value){
		"service": func(v value) { decodeGlob(v, &r.Service) },
		"method":  func(v value) { r.Method = decodeMethod(v) },
		"path":    func(v value) { r.Path = decodePath(v) },
		"ratio":   func(v value) { hasRatio = decodeRatio(v, &r.Ratio) },
	})
	switch {
	case !known || v.problems.count() > bad:
	case !r.Service.IsSet() && r.Method == "" && r.Path == "":
		v.fail("no selector; add one of service, method, path")
	case !hasRatio:
		v.fail("no ratio; add one, 0 (none) to 1 (all)")
	}
	return r
}

func decodeMethod(v value) string {
	const want = "a method in upper case, at most 16 characters, such as GET"
	text, ok := v.scalar(want)
	if ok && (!isToken(text) || len(text) > maxRuleMethod || strings.ToUpper(text) != text) {
		v.want(want)
	}
	return text
}

func decodePath(v value) string {
	const want = "the beginning of a path, at most 64 bytes, such as /static/"
	text, ok := v.scalar(want)
	switch {
	case !ok:
	case !strings.HasPrefix(text, "/") || len(text) > maxRulePath || strings.ContainsFunc(text, neverInTarget):
		v.want(want)
	case strings.HasSuffix(text, "*"):
		v.fail("%s is compared as it stands, as the beginning of the path; leave the * out", v.shown())
	}
	return text
}

// neverInTarget: a request target is printable ASCII; all else is escaped there.
func neverInTarget(r rune) bool { return r <= ' ' || r > '~' }

func decodeTail(v value) Tail {
	t := Tail{Errors: true, Ratio: defaultTailRatio, Wait: defaultTailWait, MaxSpans: defaultTailMaxSpans}
	bad := v.problems.count()
	fields := map[string]func(value){
		"errors": func(v value) { decodeBool(v, &t.Errors) },
		"slower_than": func(v value) {
			decodeDuration(v, &t.SlowerThan, "a duration up to 1h such as 500ms, or 0 for off",
				func(d time.Duration) bool { return d >= 0 && d <= time.Hour })
		},
		"slower_quantile": func(v value) {
			decodeNumber(v, &t.SlowerQuantile, "a number below 1 such as 0.99, or 0 for off",
				func(f float64) bool { return f >= 0 && f < 1 })
		},
		"rare_per_minute": func(v value) {
			decodeCount(v, &t.RarePerMinute, "a whole number from 1 to 1000000, or 0 for off", 0, 1e6)
		},
		"ratio": func(v value) { decodeRatio(v, &t.Ratio) },
		"wait": func(v value) {
			decodeDuration(v, &t.Wait, "a duration from 100ms to 60s such as 5s",
				func(d time.Duration) bool { return d >= 100*time.Millisecond && d <= time.Minute })
		},
		"max_spans": func(v value) {
			decodeCount(v, &t.MaxSpans, "a whole number of spans from 1 to 1000000", 1, 1e6)
		},
	}
	for name, set := range fields {
		fields[name] = func(v value) {
			t.Enabled = true
			set(v)
		}
	}
	v.mapping(fields)
	if !t.Enabled {
		return Tail{}
	}
	if v.problems.count() == bad && !t.Errors && t.SlowerThan == 0 && t.SlowerQuantile == 0 && t.RarePerMinute == 0 && t.Ratio == 0 {
		v.fail("keeps nothing; set one of errors, slower_than, slower_quantile, rare_per_minute, ratio")
	}
	return t
}

func decodeDuration(v value, into *time.Duration, want string, allowed func(time.Duration) bool) {
	if text, ok := v.scalar(want); ok {
		d, err := time.ParseDuration(text)
		if err != nil || !allowed(d) {
			v.want(want)
			return
		}
		*into = d
	}
}

func decodeCount(v value, into *int, want string, low, high int) {
	if text, ok := v.scalar(want); ok {
		n, err := strconv.Atoi(text)
		if err != nil || n < low || n > high {
			v.want(want)
			return
		}
		*into = n
	}
}
