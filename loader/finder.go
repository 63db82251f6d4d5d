package loader

import (
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"os"
	"slices"
	"strings"
	"sync/atomic"
	"time"

	"github.com/cilium/ebpf"
	"github.com/prometheus/procfs"

	"weft/internal/event"
)

// finder decides which processes are traced. There is no polling: it looks at
// /proc once, and from then on at one process when the kernel reports its exec,
// or its listen where targets name ports.
type finder struct {
	log      *slog.Logger
	selector Selector
	around   func(pid uint32, cgroup string) map[string]string // Options.Attributes
	targets  *ebpf.Map
	threads  *ebpf.Map // nil: nothing is forgotten there
	virtuals *virtuals // nil: none is freed
	inject   *injector // nil: observing only
	golang   *golang   // nil: Go programs are like any other
	failed   *attachFailures
	sampling Sampling
	services services // rate limits by service.name
	tracked  map[uint32]*tracked
	count    atomic.Int64
	children bool // FollowChildren is in force: descendants stay selected across exec
	started  time.Time
	warned   bool
	hidden   hidden
	sweep    sweep
	seen     map[string]bool // executables looked at, for the warning that nothing matched
	bound    bound
}

type tracked struct {
	start   uint64
	cgroup  string
	service string // as configured, for children that match no entry
	// inherited says that it is selected as its parent's child and matches no
	// entry itself.
	inherited bool
	// golang is what is known of it as a Go program, once it is attached.
	golang goAttached
}

// unmatchedAfter is how long nothing may match before the user is told.
const unmatchedAfter = 10 * time.Second

// maxSeen bounds the executables that warning names.
const maxSeen = 24

func newFinder(o Options, targets *ebpf.Map, inject *injector) *finder {
	return &finder{log: o.Log, selector: o.Selector, around: o.Attributes, targets: targets, inject: inject, failed: o.failed,
		sampling: o.Sampling, services: services{}, tracked: map[uint32]*tracked{}, seen: map[string]bool{}, started: time.Now(),
		hidden: hidden{lacks: lacking()}}
}

func (f *finder) selected() int { return int(f.count.Load()) }

// scan looks at every process that runs now.
func (f *finder) scan(h Handler) error {
	if f.selector == nil {
		return nil
	}
	all, err := procfs.AllProcs()
	if err != nil {
		return fmt.Errorf("list processes: %w", err)
	}
	namespaces := map[string]map[uint64]uint16{}
	for _, p := range all {
		if p.PID == os.Getpid() {
			continue
		}
		f.look(h, uint32(p.PID), 0, namespaces)
	}
	f.hidden.tell(f.log)
	return nil
}

// tick drops what ended unnoticed, and warns once if nothing matched for a while.
func (f *finder) tick(h Handler, now time.Time) {
	f.sweepSome(h, now)
	f.virtuals.sweepSome(now)
	if f.selector == nil || f.warned || len(f.tracked) > 0 || now.Sub(f.started) < unmatchedAfter {
		return
	}
	f.warned = true
	f.log.Warn("no running process matches any entry of targets; compare them with the executables seen, or with `ps -eo pid,cgroup,args`",
		"seen", strings.Join(slices.Sorted(maps.Keys(f.seen)), " "), "after", unmatchedAfter)
	f.seen = nil
}

// process acts on a kernel record about a process.
func (f *finder) process(h Handler, r ProcessRecord) {
	switch r.Op {
	case ProcessExec:
		if r.PID != uint32(os.Getpid()) {
			f.golang.leave(r.PID)
			if was := f.tracked[r.PID]; was != nil {
				was.golang = goAttached{} // another image
			}
			f.look(h, r.PID, r.PIDStart, nil)
		}
	case ProcessListen:
		if f.selector != nil && f.selector.NeedsPorts() && f.tracked[r.PID] == nil {
			f.lookFor(h, r.PID, r.PIDStart, func() ([]uint16, error) { return []uint16{r.Port}, nil })
		}
	case ProcessFork:
		f.forked(h, r)
	case ProcessExit:
		f.drop(r.PID)
		f.forget(r.PID, r.PIDStart)
		h.ProcessExit(r.PID, r.PIDStart)
	}
}

// look matches one process and selects, keeps or drops it. start is the kernel's,
// 0 when only /proc knows it.
func (f *finder) look(h Handler, pid uint32, start uint64, namespaces map[string]map[uint64]uint16) {
	f.lookFor(h, pid, start, func() ([]uint16, error) { return listeningPorts(pid, namespaces) })
}

// lookFor is look with another way to know the ports. A listen record says which one
// it is: to look for it among the descriptors would let any process of the host, with
// a million of them, cost weft a second for each call of listen(2).
func (f *finder) lookFor(h Handler, pid uint32, start uint64, ports func() ([]uint16, error)) {
	was := f.tracked[pid]
	p, err := readProcess(pid)
	if err != nil {
		if f.unread(pid, err) && was != nil && !f.children {
			f.unselect(pid) // what it has become, nobody selected
		}
		return // a kernel thread, or gone: its exit record, if any, cleans up
	}
	if !f.warned && len(f.seen) < maxSeen {
		f.seen[p.exe] = true
	}
	if was != nil {
		start = was.start
	} else if start == 0 {
		start = p.start
	}
	if f.children && was != nil {
		// A descendant of `weft exec` stays whatever it executes.
		info := f.describe(p, "", start)
		f.refresh(p, start, uint32(WeftWeftTargetFlagWEFT_TARGET_STICKY), info.Service)
		f.follow(p, start)
		h.Process(info)
		return
	}
	if f.selector == nil {
		return
	}
	c := Candidate{PID: pid, Exe: p.exe, Args: joinArgs(p.args), Cgroup: p.cgroup}
	if f.selector.NeedsPorts() {
		if c.Ports, err = ports(); err != nil {
			f.unread(pid, err)
		}
	}
	service, ok := f.selector.Select(c)
	if !ok || p.isAgent() {
		if was != nil {
			f.log.Info("process no longer selected", "pid", pid, "exe", p.exe)
			f.unselect(pid)
		}
		return
	}
	info := f.describe(p, service, start)
	h.Process(info)
	if was != nil {
		was.service, was.inherited = service, false
		f.refresh(p, start, 0, info.Service)
		f.follow(p, start)
		return
	}
	f.log.Info("process selected", "pid", pid, "exe", p.exe, "service", info.Service)
	f.selectProcess(p, start, service, info.Service)
}

// describe is process.describe with what the process runs in.
func (f *finder) describe(p *process, configured string, start uint64) *event.Process {
	var around map[string]string
	if f.around != nil {
		around = f.around(p.pid, p.cgroup)
	}
	return p.describe(configured, start, around)
}

// relook looks again at processes of which something changed that they did not do
// themselves. A child that is selected for its parent's sake stays so: no entry
// ever matched it that could have ceased to.
func (f *finder) relook(h Handler, pids []uint32) {
	namespaces := map[string]map[uint64]uint16{}
	for _, pid := range pids {
		if pid == uint32(os.Getpid()) {
			continue
		}
		was := f.tracked[pid]
		if was == nil || !was.inherited {
			f.look(h, pid, 0, namespaces)
			// Of one that ended meanwhile no exit record comes: the kernel did not
			// know that it was meant.
			if _, err := readProcess(pid); err != nil && was == nil && f.tracked[pid] != nil {
				f.unselect(pid)
			}
			continue
		}
		p, err := readProcess(pid)
		if err != nil {
			continue // gone: its exit record cleans up
		}
		info := f.describe(p, was.service, was.start)
		h.Process(info)
		f.refresh(p, was.start, 0, info.Service)
	}
}

// target is what the kernel is told of a process; name is its service.name.
func (f *finder) target(p *process, start uint64, flags uint32, name string) WeftWeftTarget {
	t := WeftWeftTarget{StartNs: start, Flags: flags | p.targetFlags(),
		Rules: f.sampling.rulesFor(name), Service: f.services.index(name)}
	if known := f.tracked[p.pid]; known != nil {
		t.GoLayout, t.GoBias, t.GoFlags = known.golang.layout, known.golang.bias, known.golang.use
	}
	return t
}

// follow has a selected process followed as a Go program, if it is one and is not yet.
func (f *finder) follow(p *process, start uint64) {
	t := f.tracked[p.pid]
	if f.golang == nil || t == nil || t.golang.asked || !p.migrates() {
		return
	}
	t.golang = goAttached{asked: true}
	f.golang.follow(p.pid, start)
}

// goAttached tells the kernel where Go processes have what it reads of them.
func (f *finder) goAttached(all []goAttached) {
	for _, a := range all {
		t := f.tracked[a.pid]
		if t == nil || t.start != a.start || !t.golang.asked {
			continue // it has ended meanwhile, or executes something else
		}
		t.golang = a
		t.golang.asked = true
		var target WeftWeftTarget
		err := f.targets.Lookup(a.pid, &target)
		if err == nil {
			target.GoLayout, target.GoBias, target.GoFlags = a.layout, a.bias, a.use
			err = f.targets.Update(a.pid, target, ebpf.UpdateExist)
		}
		if err != nil && !errors.Is(err, ebpf.ErrKeyNotExist) {
			f.log.Debug("target not refreshed", "pid", a.pid, "err", err)
		}
	}
}

// refresh notes what a selected process executes now.
func (f *finder) refresh(p *process, start uint64, flags uint32, name string) {
	t := f.target(p, start, flags, name)
	if err := f.targets.Update(p.pid, t, ebpf.UpdateExist); err != nil && !errors.Is(err, ebpf.ErrKeyNotExist) {
		f.log.Debug("target not refreshed", "pid", p.pid, "err", err)
	}
}

// selectProcess makes the kernel trace a process, which may hold connections
// already. service is the configured name, name the one its spans carry.
func (f *finder) selectProcess(p *process, start uint64, service, name string) {
	if err := f.targets.Put(p.pid, f.target(p, start, 0, name)); err != nil {
		f.failed.add(attachProcess, err)
		f.log.Warn("process not traced: too many are selected", "pid", p.pid, "err", err)
		return
	}
	f.track(p.pid, start, p.cgroup, service)
	f.follow(p, start)
	if f.inject != nil {
		f.attachCgroup(p.pid, p.cgroup)
		f.adopt(p.pid)
	}
}

// attachCgroup lets new connections of a process into the sockhash.
func (f *finder) attachCgroup(pid uint32, path string) {
	if err := f.inject.cgroups.add(pid, path); err != nil {
		f.failed.add(attachCgroup, err)
		f.log.Warn("new connections of this process carry no context", "pid", pid, "err", err)
	}
}

// beginInjecting has what is selected edited from now on.
func (f *finder) beginInjecting(i *injector) {
	f.inject = i
	for pid, t := range f.tracked {
		f.attachCgroup(pid, t.cgroup)
		f.adopt(pid)
	}
}

func (f *finder) track(pid uint32, start uint64, cgroup, service string) {
	f.tracked[pid] = &tracked{start: start, cgroup: cgroup, service: service}
	f.count.Store(int64(len(f.tracked)))
}

// forked notes a child that the kernel has selected already.
func (f *finder) forked(h Handler, r ProcessRecord) {
	p, err := readProcess(r.PID)
	if err != nil {
		// Gone already. Its requests, if any, keep the parent's name out of
		// reach; the exit record follows.
		f.track(r.PID, r.PIDStart, "", "")
		return
	}
	service, inherited := "", false
	if f.selector != nil {
		c := Candidate{PID: r.PID, Exe: p.exe, Args: joinArgs(p.args), Cgroup: p.cgroup}
		if f.selector.NeedsPorts() {
			if c.Ports, err = listeningPorts(r.PID, nil); err != nil {
				f.unread(r.PID, err)
			}
		}
		var ok bool
		service, ok = f.selector.Select(c)
		inherited = !ok
		if parent := f.tracked[r.ParentPID]; service == "" && parent != nil {
			service = parent.service
		}
	}
	f.track(r.PID, r.PIDStart, p.cgroup, service)
	f.tracked[r.PID].inherited = inherited
	h.Process(f.describe(p, service, r.PIDStart))
	if f.inject != nil {
		f.attachCgroup(r.PID, p.cgroup)
	}
}

func (f *finder) unselect(pid uint32) {
	if err := f.targets.Delete(pid); err != nil && !errors.Is(err, ebpf.ErrKeyNotExist) {
		f.log.Warn("process stays selected", "pid", pid, "err", err)
	}
	if f.inject != nil {
		if err := f.inject.release(pid); err != nil {
			f.log.Debug("sockets stay in the sockhash", "pid", pid, "err", err)
		}
	}
	f.drop(pid)
}

func (f *finder) drop(pid uint32) {
	t := f.tracked[pid]
	if t == nil {
		return
	}
	delete(f.tracked, pid)
	f.golang.leave(pid)
	f.count.Store(int64(len(f.tracked)))
	if f.inject == nil {
		return
	}
	if err := f.inject.cgroups.remove(pid, t.cgroup); err != nil {
		f.log.Debug("cgroup not let go", "cgroup", t.cgroup, "err", err)
	}
}

func (f *finder) followChildren(cgroup string) (func() error, error) {
	self := uint32(os.Getpid())
	p, err := readProcess(self)
	if err != nil {
		return nil, err
	}
	f.children = true
	if f.inject != nil {
		if err := f.inject.cgroups.add(self, cgroup); err != nil {
			return nil, err
		}
	}
	flags := uint32(WeftWeftTargetFlagWEFT_TARGET_PARENT | WeftWeftTargetFlagWEFT_TARGET_STICKY)
	t := WeftWeftTarget{StartNs: p.start, Flags: flags, Rules: f.sampling.rulesFor("")}
	if err := f.targets.Put(self, t); err != nil {
		return nil, fmt.Errorf("select children: %w", err)
	}
	return func() error { return f.targets.Delete(self) }, nil
}
