// Package footprint reads what a running process occupies: memory, descriptors,
// and the BPF maps, programs and links that it holds, with the entries of the
// maps. A soak reads it every so often and asks whether it grows.
package footprint

import (
	"bufio"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/cilium/ebpf"
)

// Sample is one reading.
type Sample struct {
	At       time.Time
	RSS      uint64         // resident set, bytes
	CPU      time.Duration  // user and system time since the process began
	Heap     uint64         // bytes of Go's heap in use; whoever asks /metrics sets it
	FDs      int            // open descriptors
	Maps     int            // BPF maps held
	Programs int            // BPF programs held
	Links    int            // BPF links held
	Entries  map[string]int // keys in each hash map, by the map's name
}

// clockTick is the unit of the times in /proc/PID/stat: USER_HZ is 100 on every
// architecture that Go supports.
const clockTick = time.Second / 100

// Read reads a process. An error wraps fs.ErrNotExist if it is gone.
func Read(pid int) (Sample, error) {
	s := Sample{At: time.Now()}
	var err error
	if s.RSS, err = resident(pid); err != nil {
		return s, err
	}
	if s.CPU, err = cpu(pid); err != nil {
		return s, err
	}
	o, err := Held(pid)
	if err != nil {
		return s, err
	}
	s.FDs, s.Maps, s.Programs, s.Links = o.FDs, len(o.Maps), len(o.Programs), len(o.Links)
	s.Entries, err = entries(o.Maps)
	return s, err
}

// Total is the number of keys in all maps.
func (s Sample) Total() int {
	n := 0
	for _, entries := range s.Entries {
		n += entries
	}
	return n
}

func resident(pid int) (uint64, error) {
	text, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", pid))
	if err != nil {
		return 0, fmt.Errorf("read resident set: %w", err)
	}
	for line := range strings.Lines(string(text)) {
		value, ok := strings.CutPrefix(line, "VmRSS:")
		if !ok {
			continue
		}
		kib, err := strconv.ParseUint(strings.TrimSuffix(strings.TrimSpace(value), " kB"), 10, 64)
		if err != nil {
			return 0, fmt.Errorf("read resident set: %w", err)
		}
		return kib << 10, nil
	}
	return 0, fmt.Errorf("read resident set: process %d has ended: %w", pid, fs.ErrNotExist)
}

func cpu(pid int) (time.Duration, error) {
	text, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if err != nil {
		return 0, fmt.Errorf("read CPU time: %w", err)
	}
	// The name, in parentheses, may hold anything.
	fields := strings.Fields(string(text[strings.LastIndexByte(string(text), ')')+1:]))
	if len(fields) < 13 {
		return 0, fmt.Errorf("read CPU time: %d fields in stat", len(fields))
	}
	var ticks uint64
	for _, f := range fields[11:13] { // utime and stime, of proc_pid_stat(5)
		n, err := strconv.ParseUint(f, 10, 64)
		if err != nil {
			return 0, fmt.Errorf("read CPU time: %w", err)
		}
		ticks += n
	}
	return time.Duration(ticks) * clockTick, nil
}

// Objects are the BPF objects a process holds, by the kernel's ids.
type Objects struct {
	FDs      int
	Maps     []ebpf.MapID
	Programs []ebpf.ProgramID
	Links    []uint32
}

// Held lists the BPF objects that a process has descriptors of.
func Held(pid int) (Objects, error) {
	var o Objects
	dir := fmt.Sprintf("/proc/%d/fdinfo", pid)
	files, err := os.ReadDir(dir)
	if err != nil {
		return o, fmt.Errorf("list descriptors: %w", err)
	}
	o.FDs = len(files)
	for _, f := range files {
		if err := o.read(filepath.Join(dir, f.Name())); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return o, fmt.Errorf("read descriptor: %w", err)
		}
	}
	slices.Sort(o.Maps)
	slices.Sort(o.Programs)
	slices.Sort(o.Links)
	o.Maps, o.Programs, o.Links = slices.Compact(o.Maps), slices.Compact(o.Programs), slices.Compact(o.Links)
	return o, nil
}

// read notes what one fdinfo says. That of a link names its program too.
func (o *Objects) read(path string) error {
	f, err := os.Open(path)
	if err != nil {
		return err
	}
	defer f.Close()
	var program, link uint64
	lines := bufio.NewScanner(f)
	for lines.Scan() {
		name, value, _ := strings.Cut(lines.Text(), ":")
		if name != "map_id" && name != "prog_id" && name != "link_id" {
			continue
		}
		id, err := strconv.ParseUint(strings.TrimSpace(value), 10, 32)
		if err != nil {
			return fmt.Errorf("%s of %s: %w", name, path, err)
		}
		switch name {
		case "map_id":
			o.Maps = append(o.Maps, ebpf.MapID(id))
		case "prog_id":
			program = id
		case "link_id":
			link = id
		}
	}
	if link != 0 {
		o.Links = append(o.Links, uint32(link))
	} else if program != 0 {
		o.Programs = append(o.Programs, ebpf.ProgramID(program))
	}
	if err := lines.Err(); err != nil && !errors.Is(err, os.ErrNotExist) {
		return nil // ESRCH: the process ended meanwhile
	}
	return nil
}

// Left counts which of the maps and programs still exist. Program arrays are left
// out: an agent takes over those of agents before it, so that what it held may be
// another's, and they are empty once nobody fills them.
func (o Objects) Left() (maps, programs int, err error) {
	for _, id := range o.Maps {
		m, err := ebpf.NewMapFromID(id)
		if errors.Is(err, os.ErrNotExist) {
			continue
		}
		if err != nil {
			return 0, 0, fmt.Errorf("look for map %d: %w", id, err)
		}
		if m.Type() != ebpf.ProgramArray {
			maps++
		}
		_ = m.Close() // the test's own reference
	}
	for _, id := range o.Programs {
		p, err := ebpf.NewProgramFromID(id)
		if errors.Is(err, os.ErrNotExist) {
			continue
		}
		if err != nil {
			return 0, 0, fmt.Errorf("look for program %d: %w", id, err)
		}
		programs++
		_ = p.Close()
	}
	return maps, programs, nil
}

// entries counts the keys of hash maps.
func entries(ids []ebpf.MapID) (map[string]int, error) {
	out := map[string]int{}
	for _, id := range ids {
		m, err := ebpf.NewMapFromID(id)
		if errors.Is(err, os.ErrNotExist) {
			continue // freed meanwhile
		}
		if err != nil {
			return nil, fmt.Errorf("open map %d: %w", id, err)
		}
		err = count(m, out)
		_ = m.Close()
		if err != nil {
			return nil, err
		}
	}
	return out, nil
}

func count(m *ebpf.Map, out map[string]int) error {
	switch m.Type() {
	case ebpf.Hash, ebpf.LRUHash, ebpf.PerCPUHash, ebpf.SockHash:
	default:
		return nil
	}
	info, err := m.Info()
	if err != nil {
		return fmt.Errorf("describe map: %w", err)
	}
	// A key that is deleted under the walk sends it back to the beginning: keys
	// are counted once, and the walk ends.
	seen := map[string]bool{}
	var key []byte
	for range 2 * m.MaxEntries() {
		if key == nil {
			key, err = m.NextKeyBytes(nil)
		} else {
			key, err = m.NextKeyBytes(key)
		}
		if err != nil {
			return fmt.Errorf("walk map %s: %w", info.Name, err)
		}
		if key == nil {
			break
		}
		seen[string(key)] = true
	}
	out[info.Name] += len(seen)
	return nil
}
