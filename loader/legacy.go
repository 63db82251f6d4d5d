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

// orphans finds the slots that nobody fills any more, among all maps of the kernel:
// its owner's end empties a slot. It needs CAP_SYS_ADMIN.
func (l *legacy) orphans() error {
	var empty legacy
	defer empty.close() //nolint:errcheck // those that are not taken
	if err := empty.empties(l.slots); err != nil || len(empty.slots) == 0 {
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
func (l *legacy) empties(known map[ebpf.MapID]*ebpf.Map) error {
	var id ebpf.MapID
	for {
		next, err := ebpf.MapGetNextID(id)
		if errors.Is(err, os.ErrNotExist) {
			return nil
		}
		if err != nil {
			return fmt.Errorf("list maps: %w", err)
		}
		id = next
		slot, err := ebpf.NewMapFromID(id)
		if errors.Is(err, os.ErrNotExist) {
			continue // gone meanwhile
		}
		if err != nil {
			return fmt.Errorf("open map %d: %w", id, err)
		}
		if known[id] != nil || slot.Type() != ebpf.ProgramArray || !isEmpty(slot) {
			slot.Close() //nolint:errcheck // not ours
			continue
		}
		if err := l.add(slot); err != nil {
			return err
		}
	}
}

func (l *legacy) close() error {
	var errs []error
	for _, slot := range l.slots {
		errs = append(errs, slot.Close())
	}
	l.slots = nil
	return errors.Join(errs...)
}
