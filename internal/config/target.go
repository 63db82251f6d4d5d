package config

import (
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"
)

// Targets selects processes: the first entry that matches decides.
type Targets []Target

// Target describes processes. Selectors that are set must all match.
type Target struct {
	Name    string // service.name of what it selects; empty: resolved from the process
	Exe     Glob   // path of the executable
	Args    Glob   // command line, arguments joined by one space
	Cgroup  Glob   // cgroup v2 path
	Ports   Ports
	PID     uint32
	K8s     K8s
	Exclude bool

	where string // "weft.yaml:3", for messages
}

// Ports are TCP ports; empty stands for all of them where that makes sense.
type Ports []PortRange

// PortRange is an inclusive range of TCP ports.
type PortRange struct{ Low, High uint16 }

// String is "8080" or "9000-9010".
func (r PortRange) String() string {
	if r.Low == r.High {
		return strconv.Itoa(int(r.Low))
	}
	return fmt.Sprintf("%d-%d", r.Low, r.High)
}

// MarshalText is String.
func (r PortRange) MarshalText() ([]byte, error) { return []byte(r.String()), nil }

// Candidate is what is known about a process at the moment of asking.
type Candidate struct {
	PID    uint32
	Exe    string
	Args   string // joined by one space
	Cgroup string
	Ports  []uint16 // TCP ports it listens on
	// Pod is that of its container; nil: none, or not known.
	Pod *Pod
	// InPod says that it runs in a container of a pod, known or not.
	InPod bool
}

// Select returns the target that selects the process. A process that starts to
// listen, or whose pod becomes known, may match an entry it did not match before:
// ask again then.
func (ts Targets) Select(c Candidate) (*Target, bool) {
	for i := range ts {
		if t := &ts[i]; t.Match(c) {
			if t.Exclude {
				return nil, false
			}
			return t, true
		}
	}
	return nil, false
}

// Match says whether every selector of the target matches; whether it excludes
// is for Select. A target without selectors matches nothing. It does not
// allocate, and compares numbers before it compares strings.
func (t *Target) Match(c Candidate) bool {
	if !t.selects() {
		return false
	}
	if t.PID != 0 && t.PID != c.PID {
		return false
	}
	if len(t.Ports) > 0 && !t.listens(c.Ports) {
		return false
	}
	if t.K8s.IsSet() && !t.matchPod(c) {
		return false
	}
	return (!t.Exe.IsSet() || t.Exe.Match(c.Exe)) &&
		(!t.Cgroup.IsSet() || t.Cgroup.Match(c.Cgroup)) &&
		(!t.Args.IsSet() || t.Args.Match(c.Args))
}

// matchPod looks at the pod. What is not known yet could be what an exclude is
// for, and is left alone until it is known; it is never selected by.
func (t *Target) matchPod(c Candidate) bool {
	if c.Pod == nil {
		return t.Exclude && c.InPod
	}
	return t.K8s.match(c.Pod, t.Exclude)
}

// Where says where the target was written ("weft.yaml:3"), for messages.
func (t *Target) Where() string { return t.where }

// String describes the target for a message, e.g. `cart (exe=/usr/bin/python3* port=8080)`.
func (t *Target) String() string {
	var parts []string
	for _, g := range []struct {
		key  string
		glob Glob
	}{{"exe", t.Exe}, {"args", t.Args}, {"cgroup", t.Cgroup}} {
		if g.glob.IsSet() {
			parts = append(parts, g.key+"="+g.glob.String())
		}
	}
	if len(t.Ports) > 0 {
		parts = append(parts, "port="+t.Ports.String())
	}
	if t.PID != 0 {
		parts = append(parts, fmt.Sprintf("pid=%d", t.PID))
	}
	if t.K8s.IsSet() {
		parts = append(parts, "k8s="+t.K8s.String())
	}
	if t.Exclude {
		parts = append(parts, "exclude")
	}
	s := "(" + strings.Join(parts, " ") + ")"
	if t.Name != "" {
		s = t.Name + " " + s
	}
	return s
}

func (t *Target) selects() bool {
	return t.PID != 0 || len(t.Ports) > 0 || t.Exe.IsSet() || t.Args.IsSet() || t.Cgroup.IsSet() || t.K8s.IsSet()
}

func (t *Target) listens(ports []uint16) bool {
	for _, p := range ports {
		if t.Ports.Contain(p) {
			return true
		}
	}
	return false
}

// Contain says whether the port is in one of the ranges.
func (ps Ports) Contain(port uint16) bool {
	for _, r := range ps {
		if r.Low <= port && port <= r.High {
			return true
		}
	}
	return false
}

// cover says whether all the others are among these; no ports are all ports.
func (ps Ports) cover(others Ports) bool {
	if len(ps) == 0 {
		return true
	}
	if len(others) == 0 {
		others = Ports{{1, 65535}}
	}
	for _, r := range others {
		// From end to end of whichever range holds the next port.
		for next := int(r.Low); next <= int(r.High); {
			i := slices.IndexFunc(ps, func(p PortRange) bool { return int(p.Low) <= next && next <= int(p.High) })
			if i < 0 {
				return false
			}
			next = int(ps[i].High) + 1
		}
	}
	return true
}

// String is "8080,9000-9010".
func (ps Ports) String() string {
	texts := make([]string, len(ps))
	for i, r := range ps {
		texts[i] = r.String()
	}
	return strings.Join(texts, ",")
}

// ParsePorts reads "8080,9000-9010".
func ParsePorts(s string) (Ports, error) {
	var ranges Ports
	for part := range strings.SplitSeq(s, ",") {
		low, high, isRange := strings.Cut(strings.TrimSpace(part), "-")
		lo, err := parsePort(low)
		if err != nil {
			return nil, err
		}
		hi := lo
		if isRange {
			if hi, err = parsePort(high); err != nil {
				return nil, err
			}
		}
		if hi < lo {
			return nil, fmt.Errorf("range %d-%d runs backwards", lo, hi)
		}
		ranges = append(ranges, PortRange{lo, hi})
	}
	return ranges, nil
}

func parsePort(s string) (uint16, error) {
	n, err := strconv.ParseUint(strings.TrimSpace(s), 10, 16)
	if err != nil || n == 0 {
		return 0, errors.New("want ports 1 to 65535 such as \"8080,9000-9010\"")
	}
	return uint16(n), nil
}
