package kube

import (
	"os"
	"path/filepath"
	"strconv"
	"strings"
)

// processes reads /proc.
type processes struct{ proc string }

// cgroup is where a process runs. The v2 path says it, if anything does; on
// hosts that still have v1 hierarchies, where the v2 path may be that of the
// runtime's own service, the first of those that names a container does.
func (p processes) cgroup(pid uint32) Cgroup {
	data, err := os.ReadFile(filepath.Join(p.proc, strconv.FormatUint(uint64(pid), 10), "cgroup"))
	if err != nil {
		return Cgroup{} // gone
	}
	return parseCgroups(string(data))
}

// parseCgroups reads /proc/PID/cgroup: "ID:CONTROLLERS:PATH" lines, v2 is "0::".
func parseCgroups(text string) Cgroup {
	var v1 Cgroup
	for line := range strings.Lines(text) {
		id, rest, _ := strings.Cut(strings.TrimSuffix(line, "\n"), ":")
		_, path, ok := strings.Cut(rest, ":")
		if !ok {
			continue
		}
		c := ParseCgroup(path)
		switch {
		case id == "0" && c.inContainer():
			return c
		case !v1.inContainer() && c.inContainer():
			v1 = c
		}
	}
	return v1
}

// within are the processes whose cgroup matches.
func (p processes) within(match func(Cgroup) bool) ([]uint32, error) {
	dir, err := os.Open(p.proc)
	if err != nil {
		return nil, err
	}
	defer dir.Close() //nolint:errcheck // read only
	names, err := dir.Readdirnames(-1)
	if err != nil {
		return nil, err
	}
	var pids []uint32
	for _, name := range names {
		n, err := strconv.ParseUint(name, 10, 32)
		if err != nil {
			continue // not a process
		}
		if c := p.cgroup(uint32(n)); c.inContainer() && match(c) {
			pids = append(pids, uint32(n))
		}
	}
	return pids, nil
}
