package loader

import (
	"bytes"
	"fmt"
	"math/rand/v2"
	"strings"
	"testing"

	"weft/internal/w3c"
)

func TestSampleThreshold(t *testing.T) {
	for ratio, want := range map[float64]uint64{
		0: 1 << 56, -1: 1 << 56, 1: 0, 2: 0,
		0.5: 1 << 55, 0.25: 0xc0000000000000, 0.75: 0x40000000000000,
		0.1: 0xe6666666666666, 0.01: 0xfd70a3d70a3d71, // (1 - ratio) * 2^56, rounded once
		1.0 / (1 << 56): 1<<56 - 1, 1e-16: 1<<56 - 7, 1e-18: 1 << 56,
	} {
		if got := sampleThreshold(ratio); got != want {
			t.Errorf("ratio %g: %#x, want %#x", ratio, got, want)
		}
	}
	// What the tail and other services of this rate compute: one bit of difference
	// and there are traces that one of them keeps and the other drops.
	random := rand.New(rand.NewPCG(3, 4))
	for range 10_000 {
		ratio := random.Float64()
		want, err := w3c.ThresholdOf(ratio)
		if err != nil {
			t.Fatal(err)
		}
		if got := sampleThreshold(ratio); got != want {
			t.Fatalf("ratio %g: %#x, and w3c.ThresholdOf says %#x", ratio, got, want)
		}
	}
}

func TestLimitInterval(t *testing.T) {
	for perSecond, want := range map[float64]uint64{
		0: 0, -5: 0, // no bound
		1: 1e9, 10: 1e8, 0.5: 2e9, 3: 333333333, 1e9: 1,
		1e12: 1, // faster than the clock: 0 would be no bound
	} {
		if got := (Sampling{MaxPerSecond: perSecond}).limitInterval(); got != want {
			t.Errorf("%g per second: %d ns, want %d", perSecond, got, want)
		}
	}
}

func TestSamplingRuleInKernelForm(t *testing.T) {
	for _, c := range []struct {
		rule SamplingRule
		want WeftWeftSamplingRule
		path string
	}{
		{SamplingRule{Ratio: 1}, WeftWeftSamplingRule{}, ""},
		{SamplingRule{Path: "/healthz", Exact: true, Reads: true}, WeftWeftSamplingRule{Threshold: 1 << 56, PathLen: 8, Exact: 1, Reads: 1}, "/healthz"},
		{SamplingRule{Path: "/a", Ratio: 0.25, Method: "GET"}, WeftWeftSamplingRule{Threshold: 3 << 54, PathLen: 2, Method: [16]uint8{'G', 'E', 'T'}}, "/a"},
		{SamplingRule{Path: "/" + strings.Repeat("x", 63), Method: strings.Repeat("M", 16)}, WeftWeftSamplingRule{Threshold: 1 << 56, PathLen: 64,
			Method: [16]uint8(bytes.Repeat([]byte("M"), 16))}, "/" + strings.Repeat("x", 63)},
	} {
		// The kernel compares all of path and mask: what is beyond must be zero in
		// both, or nothing would match.
		copy(c.want.Path[:], c.path)
		copy(c.want.Mask[:], bytes.Repeat([]byte{0xff}, len(c.path)))
		if got := c.rule.kernel(); got != c.want {
			t.Errorf("%+v:\ngot  %+v\nwant %+v", c.rule, got, c.want)
		}
	}
}

func TestRulesFor(t *testing.T) {
	is := func(name string) func(string) bool { return func(s string) bool { return s == name } }
	all := func(string) bool { return true }
	s := Sampling{Rules: []SamplingRule{{Service: is("cart")}, {}, {Service: is("till")}, {Service: all}, {Service: is("cart")}}}
	for service, want := range map[string]uint32{
		"cart": 0b11011, "till": 0b01110, "other": 0b01010,
		// Not looked at yet: a rule that names a service, any service, waits.
		"": 0b00010,
	} {
		if got := s.rulesFor(service); got != want {
			t.Errorf("%q: rules %05b, want %05b", service, got, want)
		}
	}
	if got := (Sampling{}).rulesFor("cart"); got != 0 {
		t.Errorf("no rules: %b", got)
	}
	if got := (Sampling{Rules: make([]SamplingRule, MaxSamplingRules)}).rulesFor("cart"); got != 1<<32-1 {
		t.Errorf("%d rules: %032b", MaxSamplingRules, got)
	}
}

func TestServicesHaveBounds(t *testing.T) {
	s := services{}
	seen := map[uint32]bool{}
	name := func(n int) string { return fmt.Sprint("service-", n) }
	for n := range maxServices - 2 {
		i := s.index(name(n))
		if i == 0 || i >= maxServices-1 || seen[i] {
			t.Fatalf("service %d has limit %d, which is another's", n, i)
		}
		seen[i] = true
	}
	for n := range 5000 { // more than there are limits share the last one
		if i := s.index(name(maxServices + n)); i != maxServices-1 {
			t.Fatalf("service %d too many has limit %d, want %d", n, i, maxServices-1)
		}
	}
	if len(s) > maxServices {
		t.Errorf("%d names are kept", len(s))
	}
	for n := range 3 {
		if i := s.index(name(n)); i != uint32(n+1) {
			t.Errorf("service %d has limit %d now", n, i)
		}
	}
}

// TestSamplingTable reads back what the programs will read.
func TestSamplingTable(t *testing.T) {
	maps := mapsOf(t, "sampling_rules")
	s := Sampling{Rules: []SamplingRule{{Path: "/healthz", Exact: true}, {Method: "POST", Ratio: 0.5}}}
	if err := s.apply(maps); err != nil {
		t.Fatal(err)
	}
	for i, r := range s.Rules {
		var got WeftWeftSamplingRule
		if err := maps["sampling_rules"].Lookup(uint32(i), &got); err != nil || got != r.kernel() {
			t.Errorf("rule %d is %+v, %v", i, got, err)
		}
	}
	s.Rules = make([]SamplingRule, MaxSamplingRules+1)
	if err := s.apply(maps); err == nil || !strings.Contains(err.Error(), "write sampling rule 32") {
		t.Errorf("one rule too many: %v", err)
	}
}

// TestRuleLetters: the bit by which most requests are known to match no rule must
// never hide one that does.
func TestRuleLetters(t *testing.T) {
	tests := []struct {
		name    string
		rules   []SamplingRule
		targets []string // of which the second byte must have its bit
		not     []string
	}{
		{"no rule", nil, nil, []string{"/", "/a", "/?"}},
		{"path", []SamplingRule{{Path: "/healthz", Exact: true}}, []string{"/healthz", "/healthz?x"}, []string{"/", "/items"}},
		{"any path", []SamplingRule{{Method: "POST"}}, []string{"/", "/a", "*", "/~"}, nil},
		{"every path", []SamplingRule{{Path: "/"}}, []string{"/", "/a", "/?q", "/~"}, nil},
		{"root alone", []SamplingRule{{Path: "/", Exact: true}}, []string{"/", "/?q"}, []string{"/a"}},
		{"several", []SamplingRule{{Path: "/a"}, {Path: "/-/ready"}}, []string{"/a", "/-/ready"}, []string{"/b"}},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			letters := Sampling{Rules: tt.rules}.letters()
			has := func(target string) bool { // as weft_sample looks: heads are zero padded
				return letters>>((target + "\x00\x00")[1]&63)&1 == 1
			}
			for _, target := range tt.targets {
				if !has(target) {
					t.Errorf("%q is hidden from the rules: %#x", target, letters)
				}
			}
			for _, target := range tt.not {
				if has(target) {
					t.Errorf("%q is not ruled out: %#x", target, letters)
				}
			}
		})
	}
}
