package loader

import (
	"fmt"
	"strings"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/btf"
)

// Count is one kernel counter, summed over CPUs.
type Count struct {
	Metric string // first word of the C name: "lost", "refused", …
	Cause  string // the rest: "ring_full"
	Value  uint64
}

// counterNames are the names of enum weft_counter in order, from the object's
// own BTF, so that C stays the only list.
func counterNames() ([]string, error) {
	spec, err := LoadWeft()
	if err != nil {
		return nil, fmt.Errorf("read embedded BPF object: %w", err)
	}
	var e *btf.Enum
	if err := spec.Types.TypeByName("weft_counter", &e); err != nil {
		return nil, fmt.Errorf("find enum weft_counter: %w", err)
	}
	names := make([]string, len(e.Values)-1)
	for _, v := range e.Values {
		if int(v.Value) < len(names) {
			names[v.Value] = strings.ToLower(strings.TrimPrefix(v.Name, "WEFT_COUNT_"))
		}
	}
	return names, nil
}

func readCounters(m *ebpf.Map, names []string) ([]Count, error) {
	counts := make([]Count, 0, len(names))
	var perCPU []uint64
	for i, name := range names {
		if err := m.Lookup(uint32(i), &perCPU); err != nil {
			return nil, fmt.Errorf("read counter %s: %w", name, err)
		}
		metric, cause, _ := strings.Cut(name, "_")
		c := Count{Metric: metric, Cause: cause}
		for _, v := range perCPU {
			c.Value += v
		}
		counts = append(counts, c)
	}
	return counts, nil
}
