package loader

import (
	"fmt"
	"math"

	"github.com/cilium/ebpf"
)

// Sampling is decided in the kernel when a request's header block is complete.
type Sampling struct {
	ParentBased bool    // with a parent, keep its sampled flag
	Ratio       float64 // 0 to 1, of the requests decided here
	// MaxPerSecond bounds sampled roots per service; 0: no bound. Roots sampled
	// under a bound carry no ot=th: the share they stand for is not known.
	MaxPerSecond float64
	// Rules set the ratio of requests without a parent; the first that matches.
	Rules []SamplingRule
	// Marks writes ot=th:0 where everything is kept, for a sampler behind.
	Marks bool
}

// SamplingRule matches a request by all that is set.
type SamplingRule struct {
	Service func(service string) bool // nil: any
	Method  string                    // at most 16 bytes
	Reads   bool                      // GET and HEAD only; Method is empty
	Path    string                    // prefix of the request target, at most 64 bytes
	Exact   bool                      // Path is all of it, but for a query
	Ratio   float64
}

// MaxSamplingRules is how many rules the kernel takes.
const MaxSamplingRules = 32

// thresholdNone keeps no trace: randomness has 56 bits.
const thresholdNone = 1 << 56

// sampleThreshold is OpenTelemetry's rejection threshold: a trace is kept if its
// 56 random bits are at least this. To the bit that of w3c.ThresholdOf.
func sampleThreshold(ratio float64) uint64 {
	if ratio <= 0 {
		return thresholdNone
	}
	if ratio >= 1 {
		return 0
	}
	return thresholdNone - uint64(math.Round(ratio*thresholdNone))
}

// limitInterval is the time between sampled roots, ns; 0: no bound.
func (s Sampling) limitInterval() uint64 {
	if s.MaxPerSecond <= 0 {
		return 0
	}
	return uint64(max(1, math.Round(1e9/s.MaxPerSecond)))
}

// apply fills the map of rules, before anything is attached.
func (s Sampling) apply(maps map[string]*ebpf.Map) error {
	for i, r := range s.Rules {
		if err := maps["sampling_rules"].Put(uint32(i), r.kernel()); err != nil {
			return fmt.Errorf("write sampling rule %d: %w", i, err)
		}
	}
	return nil
}

func (r SamplingRule) kernel() WeftWeftSamplingRule {
	k := WeftWeftSamplingRule{Threshold: sampleThreshold(r.Ratio), PathLen: uint8(len(r.Path)),
		Exact: boolByte(r.Exact), Reads: boolByte(r.Reads)}
	copy(k.Path[:], r.Path)
	for i := range min(len(r.Path), len(k.Mask)) {
		k.Mask[i] = 0xff
	}
	copy(k.Method[:], r.Method)
	return k
}

// rulesFor is the set of rules, one bit each, that are for a service; rules that
// name none are for processes whose service is not known yet, too.
func (s Sampling) rulesFor(service string) (rules uint32) {
	for i, r := range s.Rules {
		if r.Service == nil || service != "" && r.Service(service) {
			rules |= 1 << i
		}
	}
	return rules
}

// letters has bit (letter behind the first '/') mod 64 set for every rule: most
// requests match none, and one bit tells.
func (s Sampling) letters() (set uint64) {
	for _, r := range s.Rules {
		if len(r.Path) < 2 && !r.Exact {
			return math.MaxUint64 // any path, or any behind "/"
		}
		if len(r.Path) < 2 {
			set |= 1<<0 | 1<<('?'&63) // "/" alone: its end, or a query
			continue
		}
		set |= 1 << (r.Path[1] & 63)
	}
	return set
}

// services numbers services for their rate limits.
type services map[string]uint32

// maxServices is LIMITS_MAX of bpf/maps/sampling.h; the last one is shared by
// all services beyond it, the first by processes not looked at yet.
const maxServices = 1024

func (s services) index(name string) uint32 {
	if i, ok := s[name]; ok {
		return i
	}
	i := uint32(len(s) + 1)
	if i >= maxServices {
		return maxServices - 1
	}
	s[name] = i
	return i
}
