package loader

import (
	"debug/buildinfo"
	"errors"
	"maps"
	"path/filepath"
	"slices"
	"strconv"
	"time"

	"github.com/cilium/ebpf"
	"golang.org/x/sys/unix"
)

// Inherit prepares to take over the connections of a living agent once it has
// ended; call it before Run, and again if another one takes its place. Without
// CAP_SYS_ADMIN this is the only way to those that stay bound to it.
func (l *Loader) Inherit(pid int) error {
	if l.inject == nil {
		return nil
	}
	return l.legacy.of(pid)
}

// takeOver attaches what a standby has not, and takes up what the agent that it
// waited for left behind.
func (l *Loader) takeOver() error {
	if l.standby {
		l.standby, l.finder.started = false, time.Now()
		if err := l.coll.attachAll(); err != nil {
			return err
		}
	}
	if l.inject != nil && l.alone {
		l.inherit(l.legacy.slots)
	}
	return nil
}

// inherit fills the slots. The kernel refuses one that another kind of program jumps
// through (bpf_prog_map_compatible): compiled where this one is interpreted, or the
// reverse. That matters while a connection is bound to it.
func (l *Loader) inherit(slots map[ebpf.MapID]*ebpf.Map) {
	refused := l.inject.inherit(slots)
	if len(refused) == 0 {
		return
	}
	used, err := mapsBehind(ebpf.SkMsg)
	var errs []error
	for id, why := range refused {
		if err == nil && !used[id] {
			l.log.Debug("a slot of an earlier agent is left alone: no connection is bound to it", "map", id, "err", why)
			continue
		}
		errs = append(errs, why)
	}
	if len(errs) > 0 {
		l.log.Warn("connections of an earlier agent carry no context until they are opened again", "err", errors.Join(errs...))
	}
}

// takeOrphans takes up what agents left behind that were not waited for.
func (l *Loader) takeOrphans() {
	if l.inject == nil || !l.alone {
		return
	}
	known := maps.Clone(l.legacy.slots)
	if err := l.legacy.orphans(ebpf.SkMsg); err != nil {
		l.log.Debug("connections that an earlier agent left behind are not looked for", "err", err)
	}
	found := maps.Clone(l.legacy.slots)
	maps.DeleteFunc(found, func(id ebpf.MapID, _ *ebpf.Map) bool { return known[id] != nil })
	l.inherit(found)
}

// agentModule is the main package of this program.
const agentModule = "weft/cmd/agent"

// isAgent says whether the process is a weft: one does not trace another, whose
// self-test needs its sockets for itself.
func (p *process) isAgent() bool {
	if len(p.args) < 2 || !slices.Contains([]string{"run", "exec", "doctor"}, p.args[1]) {
		return false
	}
	info, err := buildinfo.ReadFile(filepath.Join("/proc", strconv.Itoa(int(p.pid)), "exe"))
	return err == nil && info.Path == agentModule
}

// Connections of an agent that was killed leave its sockhash when the kernel frees
// the map, some moments after the process has ended. Until then they cannot enter
// another one.
const (
	adoptEvery = 50 * time.Millisecond
	adoptFor   = 3 * time.Second
)

// bound are processes with connections that were bound to another sockhash, by when
// to give up on them.
type bound struct {
	until map[uint32]time.Time
	next  time.Time
}

// adopt takes over the open client connections of a process.
func (f *finder) adopt(pid uint32) {
	n, err := f.inject.adopt(pid)
	if n > 0 {
		f.log.Debug("connections adopted", "pid", pid, "connections", n)
	}
	if errors.Is(err, unix.EBUSY) && f.mayLeave(pid) {
		return
	}
	if err != nil {
		f.failed.addJoined(attachConnection, err)
		f.log.Debug("some connections carry no context", "pid", pid, "err", err)
	}
}

// mayLeave notes that a process has connections bound elsewhere, and says whether it
// is worth trying again: where the receive program is needed they never leave.
func (f *finder) mayLeave(pid uint32) bool {
	if f.inject.receiving {
		return false
	}
	now := time.Now()
	until, noted := f.bound.until[pid]
	if noted {
		return now.Before(until)
	}
	if f.bound.until == nil {
		f.bound.until = map[uint32]time.Time{}
	}
	f.bound.until[pid] = now.Add(adoptFor)
	return true
}

// adoptAgain tries those that were bound elsewhere once more.
func (f *finder) adoptAgain(now time.Time) {
	if len(f.bound.until) == 0 || now.Before(f.bound.next) {
		return
	}
	f.bound.next = now.Add(adoptEvery)
	for pid, until := range f.bound.until {
		if f.tracked[pid] != nil {
			f.adopt(pid)
		}
		if f.tracked[pid] == nil || now.After(until) {
			delete(f.bound.until, pid)
		}
	}
}
