package loader

import (
	"bufio"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"github.com/cilium/ebpf"
	"golang.org/x/sys/unix"
)

// legacy are the dispatch slots of agents that ended before this one. A socket that
// one of them put into its sockhash stays bound to that agent's entry, for as long as
// it is open where the receive program is needed (bpf/inject/receive.h), and cannot
// enter another sockhash. Whoever fills the slot sees its sends.
type legacy struct {
	slots map[ebpf.MapID]*ebpf.Map
}

// maxLegacy bounds the slots kept: one for every agent since the oldest connection
// was opened.
const maxLegacy = 256

// progArray is BPF_MAP_TYPE_PROG_ARRAY in /proc/PID/fdinfo.
const progArray = "3"

func (l *legacy) add(slot *ebpf.Map) error {
	info, err := slot.Info()
	if err != nil {
		return errors.Join(fmt.Errorf("look at dispatch slot: %w", err), slot.Close())
	}
	id, ok := info.ID()
	if _, have := l.slots[id]; !ok || have || info.Name != socketSlot || len(l.slots) >= maxLegacy {
		return slot.Close()
	}
	if l.slots == nil {
		l.slots = map[ebpf.MapID]*ebpf.Map{}
	}
	l.slots[id] = slot
	return nil
}

// of takes duplicates of the slots that a living agent holds, so that they outlive
// it. They are not touched before it has ended.
func (l *legacy) of(pid int) error {
	held, err := progArrays(pid)
	if err != nil || len(held) == 0 {
		return err
	}
	pidfd, err := unix.PidfdOpen(pid, 0)
	if err != nil {
		return fmt.Errorf("open pidfd of %d: %w", pid, err)
	}
	defer unix.Close(pidfd) //nolint:errcheck // nothing to do about it
	var errs []error
	for _, fd := range held {
		dup, err := unix.PidfdGetfd(pidfd, fd, 0)
		if errors.Is(err, unix.EBADF) || errors.Is(err, unix.ESRCH) {
			continue // closed meanwhile
		}
		if err != nil {
			return fmt.Errorf("duplicate descriptor %d of process %d: %w", fd, pid, err)
		}
		slot, err := ebpf.NewMapFromFD(dup)
		if err != nil {
			errs = append(errs, fmt.Errorf("look at descriptor %d of process %d: %w", fd, pid, err))
			continue
		}
		errs = append(errs, l.add(slot))
	}
	return errors.Join(errs...)
}

// progArrays are the descriptors of a process that are program arrays.
func progArrays(pid int) ([]int, error) {
	proc := filepath.Join("/proc", strconv.Itoa(pid))
	entries, err := os.ReadDir(filepath.Join(proc, "fd"))
	if err != nil {
		return nil, fmt.Errorf("list descriptors of %d: %w", pid, err)
	}
	var fds []int
	for _, e := range entries {
		target, err := os.Readlink(filepath.Join(proc, "fd", e.Name()))
		if err != nil || target != "anon_inode:bpf-map" {
			continue
		}
		f, err := os.Open(filepath.Join(proc, "fdinfo", e.Name()))
		if err != nil {
			continue // closed meanwhile
		}
		for lines := bufio.NewScanner(f); lines.Scan(); {
			if name, value, _ := strings.Cut(lines.Text(), ":"); name == "map_type" && strings.TrimSpace(value) == progArray {
				if fd, err := strconv.Atoi(e.Name()); err == nil {
					fds = append(fds, fd)
				}
			}
		}
		f.Close() //nolint:errcheck // read only
	}
	return fds, nil
}

// orphans finds the slots that nobody fills any more, behind the programs of this type
// that are loaded: its owner's end empties a slot, and a connection that is bound to its
// entry keeps that. It needs CAP_SYS_ADMIN.
func (l *legacy) orphans(entries ebpf.ProgramType) error {
	var empty legacy
	defer empty.close() //nolint:errcheck // those that are not taken
	if err := empty.empties(entries, l.slots); err != nil || len(empty.slots) == 0 {
		return err
	}
	// That of an agent which is starting is empty too, for a moment.
	time.Sleep(starting)
	var errs []error
	for id, slot := range empty.slots {
		if isEmpty(slot) {
			delete(empty.slots, id)
			errs = append(errs, l.add(slot))
		}
	}
	return errors.Join(errs...)
}

// starting is far longer than the slot of a new entry is empty.
const starting = 100 * time.Millisecond

func isEmpty(slot *ebpf.Map) bool {
	var program uint32
	return errors.Is(slot.Lookup(uint32(0), &program), ebpf.ErrKeyNotExist)
}

// empties finds the slots that are empty now, but for those that are known.
func (l *legacy) empties(entries ebpf.ProgramType, known map[ebpf.MapID]*ebpf.Map) error {
	used, err := mapsBehind(entries)
	if err != nil {
		return err
	}
	for id := range used {
		if known[id] != nil {
			continue
		}
		slot, err := ebpf.NewMapFromID(id)
		if errors.Is(err, os.ErrNotExist) {
			continue // gone meanwhile
		}
		if err != nil {
			return fmt.Errorf("open map %d: %w", id, err)
		}
		if slot.Type() != ebpf.ProgramArray || !isEmpty(slot) {
			slot.Close() //nolint:errcheck // not ours
			continue
		}
		if err := l.add(slot); err != nil {
			return err
		}
	}
	return nil
}

// mapsBehind are the maps that loaded programs of this type use. It needs CAP_SYS_ADMIN.
// Not all maps are opened to see what they are: that would leak some (docs/soak.md).
func mapsBehind(entries ebpf.ProgramType) (map[ebpf.MapID]bool, error) {
	used := map[ebpf.MapID]bool{}
	var id ebpf.ProgramID
	for {
		next, err := ebpf.ProgramGetNextID(id)
		if errors.Is(err, os.ErrNotExist) {
			return used, nil
		}
		if err != nil {
			return nil, fmt.Errorf("list programs: %w", err)
		}
		id = next
		if err := mapsOfProgram(id, entries, used); err != nil && !errors.Is(err, os.ErrNotExist) { // gone meanwhile
			return nil, fmt.Errorf("look at program %d: %w", id, err)
		}
	}
}

func mapsOfProgram(id ebpf.ProgramID, entries ebpf.ProgramType, used map[ebpf.MapID]bool) error {
	p, err := ebpf.NewProgramFromID(id)
	if err != nil {
		return err
	}
	defer p.Close() //nolint:errcheck // read only
	if p.Type() != entries {
		return nil
	}
	info, err := p.Info()
	if err != nil {
		return err
	}
	maps, _ := info.MapIDs()
	for _, m := range maps {
		used[m] = true
	}
	return nil
}

func (l *legacy) close() error {
	var errs []error
	for _, slot := range l.slots {
		errs = append(errs, slot.Close())
	}
	l.slots = nil
	return errors.Join(errs...)
}
