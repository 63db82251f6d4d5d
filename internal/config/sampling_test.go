package config

import (
	"fmt"
	"math"
	"slices"
	"testing"
	"time"
)

func TestOTelSamplerWins(t *testing.T) {
	const file = "sampling: {head: always_off, ratio: 0.5}"
	for _, c := range []struct {
		sampler, arg string
		head         Sampler
		ratio        float64
	}{
		{"", "0.25", SamplerTraceIDRatio, .75}, // the argument counts only beside a sampler
		{" ", "", SamplerTraceIDRatio, .75},
		{"always_on", "0.25", SamplerAlwaysOn, .75},
		{"Always_On", "many", SamplerAlwaysOn, .75}, // which takes no argument
		{"traceidratio", "0.25", SamplerTraceIDRatio, .25},
		{"traceidratio", "", SamplerTraceIDRatio, 1},
		{"parentbased_traceidratio", " ", SamplerParentBasedTraceIDRatio, 1},
		{"PARENTBASED_TRACEIDRATIO", "0", SamplerParentBasedTraceIDRatio, 0},
		{"parentbased_always_off", "", SamplerParentBasedAlwaysOff, .75},
	} {
		s := load(t, file, "WEFT_SAMPLING_HEAD=traceidratio", "WEFT_SAMPLING_RATIO=0.75",
			"OTEL_TRACES_SAMPLER="+c.sampler, "OTEL_TRACES_SAMPLER_ARG="+c.arg).Sampling
		if s.Head != c.head || s.Ratio != c.ratio {
			t.Errorf("%q, %q: %s of %v, want %s of %v", c.sampler, c.arg, s.Head, s.Ratio, c.head, c.ratio)
		}
	}
}

// The smallest ratio that is accepted still has a threshold that some of the 56
// random bits reach.
func TestSmallestRatio(t *testing.T) {
	if threshold := math.Round((1 - minRatio) * (1 << 56)); threshold >= 1<<56 {
		t.Errorf("threshold %v", threshold)
	}
	if r := load(t, "sampling: {ratio: 1e-16}").Sampling.Ratio; r != minRatio {
		t.Errorf("ratio = %v", r)
	}
}

func TestTail(t *testing.T) {
	on := Tail{Enabled: true, Errors: true, Ratio: .1, Wait: 5 * time.Second, MaxSpans: 50000}
	for text, change := range map[string]func(*Tail){
		"errors: true":         func(*Tail) {},
		"errors: false":        func(t *Tail) { t.Errors = false },
		"ratio: 0":             func(t *Tail) { t.Ratio = 0 },
		"slower_than: 1m30s":   func(t *Tail) { t.SlowerThan = 90 * time.Second },
		"slower_than: 0":       func(*Tail) {},
		"slower_quantile: 0.5": func(t *Tail) { t.SlowerQuantile = .5 },
		"rare_per_minute: 3":   func(t *Tail) { t.RarePerMinute = 3 },
		"wait: 0.1s":           func(t *Tail) { t.Wait = 100 * time.Millisecond },
		"wait: 60s":            func(t *Tail) { t.Wait = time.Minute },
		"max_spans: 1":         func(t *Tail) { t.MaxSpans = 1 },
		"{errors: false, ratio: 0, slower_than: 1s}": func(t *Tail) { t.Errors, t.Ratio, t.SlowerThan = false, 0, time.Second },
	} {
		want := on
		change(&want)
		if text[0] != '{' {
			text = "{" + text + "}"
		}
		if got := load(t, "sampling: {tail: "+text+"}").Sampling.Tail; got != want {
			t.Errorf("%s: %+v, want %+v", text, got, want)
		}
	}
}

func TestRules(t *testing.T) {
	rules := load(t, `sampling: {rules: [{service: "cart*", ratio: 0}, {method: M-SEARCH, ratio: 1}, {path: "/a?b=%20", ratio: 0.5}]}`).Sampling.Rules
	if len(rules) != 3 {
		t.Fatalf("%d rules", len(rules))
	}
	if !rules[0].Service.Match("cart-v2") || rules[0].Service.Match("shop") {
		t.Errorf("rule 0: %+v", rules[0])
	}
	for i, want := range []string{"{cart*   0}", "{ M-SEARCH  1}", "{  /a?b=%20 0.5}"} {
		if got := fmt.Sprint(rules[i]); got != want {
			t.Errorf("rule %d: %s, want %s", i, got, want)
		}
	}
}

// The kernel has room for 32 rules, and paths of 64 bytes.
func TestHealthChecksFitBesideRules(t *testing.T) {
	paths := HealthCheckPaths()
	if len(paths)+maxRules > 32 {
		t.Errorf("%d paths and %d rules", len(paths), maxRules)
	}
	for i, p := range paths {
		if p[0] != '/' || len(p) > maxRulePath || slices.Contains(paths[:i], p) {
			t.Errorf("path %q", p)
		}
	}
	for _, p := range []string{"/healthz", "/livez", "/readyz", "/health", "/ready", "/live", "/-/healthy", "/-/ready"} {
		if !slices.Contains(paths, p) {
			t.Errorf("%s is missing", p)
		}
	}
}
