package loader

import (
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"sync"
	"sync/atomic"

	"github.com/cilium/ebpf"
	"golang.org/x/sys/unix"

	"weft/loader/gobin"
)

// golang follows Go programs from within: it analyses the executables of matched
// processes and attaches to them, beside the ring's reader, which never waits for
// it. Until a process is attached, and where it cannot be, the socket tier alone
// traces it.
type golang struct {
	log      *slog.Logger
	failed   *attachFailures
	memory   error // why no program's memory may be written; nil: it may
	programs *goPrograms
	attached goProbes

	work   sync.WaitGroup
	queue  chan struct{} // one token while tasks wait
	loaded chan struct{} // closed once the first programs are, or cannot be
	whole  atomic.Bool   // what is followed from now on gets the sites for TLS at once

	mu      sync.Mutex
	tasks   []func()
	closed  bool
	done    []goAttached
	taken   []goAttached      // what take returned last: the kernel may not be told yet
	pending map[uint32]uint64 // processes that wait to be attached, by their number
	serial  uint64
	refused map[goWave]bool

	// Of the worker alone.
	warned    map[string]bool
	processes map[uint32]*goProcess
	binaries  map[fileID]*goBinary
	analyses  *gobin.Cache // shared by copies of a file, and of what is no Go program
	layouts   layouts
}

// goAttached is what the kernel is to be told of a process.
type goAttached struct {
	asked  bool // the worker has been told of it
	pid    uint32
	start  uint64
	layout uint32 // 1 + index into go_layouts; 0: it is traced by its sockets alone
	use    uint32 // enum weft_go_use
	bias   uint64
}

// goProcess is a process that is attached, or not to be.
type goProcess struct {
	start  uint64
	binary *goBinary
	bias   uint64
	links  goLinks
	probes goProbes // behind links
	tls    bool     // the sites for TLS too
	asked  bool     // for them
}

// fileID tells one executable from another, also where it has been replaced in place.
type fileID struct {
	dev, ino     uint64
	size         int64
	modified, at unix.Timespec
}

// maxGoTasks bounds what waits for the worker.
const maxGoTasks = 1 << 16

func newGolang(o Options, shared map[string]*ebpf.Map) *golang {
	g := &golang{log: o.Log, failed: o.failed, memory: mayWriteUser(), queue: make(chan struct{}, 1), loaded: make(chan struct{}),
		pending: map[uint32]uint64{}, warned: map[string]bool{},
		refused: map[goWave]bool{}, processes: map[uint32]*goProcess{}, binaries: map[fileID]*goBinary{},
		analyses: gobin.NewCache(maxBinaries), layouts: layouts{m: shared["go_layouts"]}}
	o.goWrites = g.memory == nil
	g.programs = newGoPrograms(o, shared)
	g.work.Go(g.run)
	// Most programs that HTTP concerns need these, so they need not wait for one.
	g.do(func() {
		g.ensure(waveHTTP) //nolint:errcheck // who attaches is told again
		close(g.loaded)
	})
	return g
}

// ensure loads a wave and counts a failure, once.
func (g *golang) ensure(w goWave) error {
	err := g.programs.ensure(w)
	if err == nil {
		return nil
	}
	g.mu.Lock()
	defer g.mu.Unlock()
	if !g.refused[w] {
		g.refused[w] = true
		g.failed.add(attachGo, err)
	}
	return err
}

// after attaches these waves to a process once they are loaded, beside the worker.
func (g *golang) after(pid uint32, p *goProcess, then func(), waves ...goWave) {
	ok := g.beside(func() {
		for _, w := range waves {
			if g.uses(p.binary.Binary, w) {
				g.ensure(w) //nolint:errcheck // attachSites tells
			}
		}
		ok := g.do(func() {
			if g.processes[pid] == p {
				g.report(p, g.attachSites(pid, p, waves...))
			}
			then()
		})
		if !ok {
			then()
		}
	})
	if !ok {
		then()
	}
}

// beside runs what takes long. False: all is being stopped.
func (g *golang) beside(f func()) bool {
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.closed {
		return false
	}
	g.work.Go(f)
	return true
}

// run does what is asked for, one thing after the other.
func (g *golang) run() {
	for range g.queue {
		for {
			g.mu.Lock()
			if len(g.tasks) == 0 {
				g.mu.Unlock()
				break
			}
			task := g.tasks[0]
			g.tasks = g.tasks[1:]
			g.mu.Unlock()
			task()
		}
	}
}

// do has the worker run a task. False: it is being stopped, or has too much to do.
func (g *golang) do(task func()) bool {
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.closed || len(g.tasks) >= maxGoTasks {
		return false
	}
	g.tasks = append(g.tasks, task)
	select {
	case g.queue <- struct{}{}:
	default:
	}
	return true
}

// follow attaches to a selected process, which may turn out not to be one of Go.
func (g *golang) follow(pid uint32, start uint64) {
	if g == nil {
		return
	}
	g.mu.Lock()
	g.serial++
	serial := g.serial
	g.pending[pid] = serial
	g.mu.Unlock()
	ok := g.do(func() { g.attach(pid, start, func() { g.settle(pid, serial) }) })
	if !ok {
		g.tell(goAttached{pid: pid, start: start})
		g.settle(pid, serial)
	}
}

// leave forgets a process: it has ended, executes something else, or is no longer
// selected.
func (g *golang) leave(pid uint32) {
	if g == nil {
		return
	}
	g.mu.Lock()
	delete(g.pending, pid)
	g.mu.Unlock()
	g.do(func() { g.detach(pid) })
}

// demand attaches what a process turned out to need.
func (g *golang) demand(r GoRecord) {
	if g == nil || r.Use&uint32(WeftWeftGoUseWEFT_GO_USE_TLS) == 0 {
		return
	}
	g.do(func() {
		p := g.processes[r.PID]
		if p == nil || p.start != r.PIDStart || p.asked {
			return
		}
		g.encrypts(r.PID, p, func() {})
	})
}

func (g *golang) settle(pid uint32, serial uint64) {
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.pending[pid] == serial {
		delete(g.pending, pid)
	}
}

// writes says whether the memory of programs may be written.
func (g *golang) writes() bool { return g.memory == nil }

// unready says which process is not attached yet, or not known to the kernel as one that
// is; "" if none is.
func (g *golang) unready() string {
	if g == nil {
		return ""
	}
	g.mu.Lock()
	defer g.mu.Unlock()
	pids := slices.Collect(maps.Keys(g.pending))
	for _, a := range slices.Concat(g.taken, g.done) {
		pids = append(pids, a.pid)
	}
	if len(pids) == 0 {
		return ""
	}
	return fmt.Sprintf("attaching to Go programs, such as process %d", pids[0])
}

// take are the processes attached since it was last called. The kernel is told of them
// before it is called again.
func (g *golang) take() []goAttached {
	if g == nil {
		return nil
	}
	g.mu.Lock()
	defer g.mu.Unlock()
	g.taken, g.done = g.done, nil
	return g.taken
}

// attach is follow, in the worker. Then the process is attached, or not to be.
func (g *golang) attach(pid uint32, start uint64, then func()) {
	if g.processes[pid] != nil {
		g.detach(pid)
	}
	p := &goProcess{start: start}
	err := g.attachTo(pid, p)
	var not *gobin.NotGoError
	if errors.As(err, &not) || errors.Is(err, os.ErrNotExist) || errors.Is(err, unix.ESRCH) {
		g.log.Debug("not followed as a Go program", "pid", pid, "why", err)
		g.tell(goAttached{pid: pid, start: start})
		then()
		return // another language, or gone
	}
	if err != nil {
		g.report(p, err)
		g.tell(goAttached{pid: pid, start: start})
		then()
		return
	}
	// HTTP/1 in the clear is there; meanwhile the socket tier writes. The rest is
	// loaded side by side.
	rest := []func(done func()){
		func(done func()) { g.after(pid, p, done, waveH2, waveXNet, waveGRPC, waveRoute) },
		func(done func()) { g.soon(pid, p, done) },
	}
	if g.memory == nil {
		rest = append(rest, func(done func()) { g.after(pid, p, done, waveWrite) })
	}
	var left atomic.Int32
	left.Store(int32(len(rest)))
	for _, part := range rest {
		part(func() {
			if left.Add(-1) == 0 {
				then()
			}
		})
	}
}

// report tells of an attachment that failed; each cause once.
func (g *golang) report(p *goProcess, err error) {
	if err == nil {
		return
	}
	g.failed.add(attachUprobe, err)
	why := err.Error()
	if g.warned[why] || len(g.warned) > 100 {
		g.log.Debug("probes of a Go program not attached", "why", err)
		return
	}
	g.warned[why] = true
	args := []any{"why", err}
	if p.binary != nil {
		args = append(args, "exe", p.binary.path)
	}
	if causeOf(attachUprobe, err) == causePermission {
		args = append(args, "mend", "give weft CAP_SYS_ADMIN")
	}
	if len(p.links) > 0 || p.binary != nil && len(p.binary.links) > 0 {
		g.log.Warn("a Go program is followed in part: HTTP/2, gRPC, TLS or writing into its memory is not", args...)
		return
	}
	g.log.Warn("a Go program is traced by its sockets alone: which request a call is for is not known", args...)
}

func (g *golang) attachTo(pid uint32, p *goProcess) error {
	file, err := os.Open(filepath.Join("/proc", strconv.Itoa(int(pid)), "exe"))
	if err != nil {
		return fmt.Errorf("open executable: %w", err)
	}
	defer file.Close() //nolint:errcheck // read only
	if p.binary, err = g.binaryOf(file, pid); err != nil {
		return err
	}
	if p.bias, err = p.binary.bias(pid); err != nil {
		return err
	}
	if err := g.layouts.use(p.binary); err != nil {
		return err
	}
	g.processes[pid] = p
	p.binary.users++
	if err := g.attachSites(pid, p, waveHTTP); err != nil {
		g.detach(pid)
		return err
	}
	g.tell(p.attached(pid))
	return nil
}

func (p *goProcess) attached(pid uint32) goAttached {
	a := goAttached{pid: pid, start: p.start, layout: p.binary.layout, bias: p.bias}
	if p.tls {
		a.use = uint32(WeftWeftGoUseWEFT_GO_USE_TLS | WeftWeftGoUseWEFT_GO_USE_TLS_ATTACHED)
	}
	return a
}

// tell leaves for the ring's reader what the kernel is to know of a process.
func (g *golang) tell(a goAttached) {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.done = append(g.done, a)
}

// detach is leave, in the worker.
func (g *golang) detach(pid uint32) {
	p := g.processes[pid]
	if p == nil {
		return
	}
	delete(g.processes, pid)
	p.binary.users--
	p.probes.leave(&g.attached)
	links := p.links
	if p.binary.users == 0 {
		links = append(links, p.binary.links...)
		p.binary.links, p.binary.attached = nil, nil
		p.binary.count.leave(&g.attached)
	}
	g.closing(links)
}

// closing lets links go beside the worker: the kernel waits until no CPU runs a
// program any more, which for perf events takes it a tenth of a second each.
func (g *golang) closing(links goLinks) {
	if len(links) > 0 {
		g.work.Go(func() {
			if err := links.close(); err != nil {
				g.log.Debug("probes of a Go program not let go", "err", err)
			}
		})
	}
}

// close detaches from all.
func (g *golang) close() error {
	if g == nil {
		return nil
	}
	g.mu.Lock()
	if g.closed {
		g.mu.Unlock()
		return nil
	}
	g.closed = true
	g.tasks = []func(){func() {
		// Where probes are let go one by one, nothing of weft's runs behind them meanwhile.
		g.programs.silence()
		for pid := range g.processes {
			g.detach(pid)
		}
	}}
	g.mu.Unlock()
	select {
	case g.queue <- struct{}{}:
	default:
	}
	close(g.queue)
	g.work.Wait()
	g.programs.close()
	return nil
}
