package loader

import (
	"errors"
	"fmt"
	"maps"
	"os"
	"slices"
	"strings"
	"sync"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/asm"
	"github.com/cilium/ebpf/btf"
	"github.com/cilium/ebpf/features"
	"github.com/cilium/ebpf/link"
	"golang.org/x/sys/unix"

	"weft/loader/gobin"
)

// Prefixes of the programs of the Go object: entries are attached, and jump to the
// program of their site.
const (
	goEntry = "go_entry"  // knows its site from the cookie of a uprobe_multi link
	goEach  = "go_entry_" // + site: where there are no cookies
	goSite  = "go_site_"  // + site
)

// goSlots is the map through which entries jump.
const goSlots = "go_sites"

// goSites are the slots of the sites that the Go object has programs for, by name, such
// as SERVE.
func goSites() (map[string]uint32, error) {
	spec, err := LoadGolang()
	if err != nil {
		return nil, fmt.Errorf("read embedded BPF object for Go: %w", err)
	}
	var e *btf.Enum
	if err := spec.Types.TypeByName("weft_go_site", &e); err != nil {
		return nil, fmt.Errorf("find enum weft_go_site: %w", err)
	}
	out := map[string]uint32{}
	for _, v := range e.Values {
		if name := strings.TrimPrefix(v.Name, "WEFT_GO_SITE_"); spec.Programs[goSite+name] != nil {
			out[name] = uint32(v.Value)
		}
	}
	return out, nil
}

// goWriters are sites whose programs do nothing but write memory.
var goWriters = []string{"H2_WRITE", "XNET_WRITE", "GRPC_WRITE", "GRPC_WROTE"}

// goWave names programs that are loaded together, once a process needs them: the
// parser's take the verifier a second.
type goWave string

// The waves.
const (
	waveHTTP  goWave = "http"  // HTTP/1 in the clear
	waveH2    goWave = "h2"    // net/http's own HTTP/2
	waveXNet  goWave = "xnet"  // golang.org/x/net/http2
	waveGRPC  goWave = "grpc"  // google.golang.org/grpc
	waveRoute goWave = "route" // routers other than net/http's
	waveWrite goWave = "write" // into the write buffer of HTTP/1
	waveTLS   goWave = "tls"   // HTTP/1 over TLS, once it is seen
)

// waveOf is the wave of a site. Where no memory may be written, WRITE is needed above
// TLS only.
func waveOf(site string, writes bool) goWave {
	switch {
	case site == "WRITE" && writes:
		return waveWrite
	case site == "WRITE" || site == "SERVE_TLS" || strings.HasPrefix(site, "TLS_"):
		return waveTLS
	case strings.HasPrefix(site, "H2_"):
		return waveH2
	case strings.HasPrefix(site, "XNET_"):
		return waveXNet
	case strings.HasPrefix(site, "GRPC_"):
		return waveGRPC
	case strings.HasPrefix(site, "CHI_"), strings.HasPrefix(site, "GIN_"), strings.HasPrefix(site, "MUX_"):
		return waveRoute
	}
	return waveHTTP
}

// goSpec is what keep says of the Go object for one way of attaching, on the maps of
// the first.
func goSpec(o Options, shared map[string]*ebpf.Map, multi bool, keep func(program string) bool) (*ebpf.CollectionSpec, map[string]*ebpf.Map, error) {
	spec, err := LoadGolang()
	if err != nil {
		return nil, nil, fmt.Errorf("read embedded BPF object for Go: %w", err)
	}
	for name, p := range spec.Programs {
		site, isSite := strings.CutPrefix(name, goSite)
		unwritable := isSite && !o.goWrites && slices.Contains(goWriters, site)
		if unwritable || !keep(name) {
			delete(spec.Programs, name)
			continue
		}
		p.AttachType = ebpf.AttachNone
		if multi {
			// All of them: a jump between programs of different types leads nowhere.
			p.AttachType = ebpf.AttachTraceUprobeMulti
		}
	}
	replace := map[string]*ebpf.Map{}
	for name, m := range spec.Maps {
		if strings.HasPrefix(name, ".") || shared[name] == nil {
			continue
		}
		// What a way of capture has made of them.
		m.MaxEntries, m.Flags = shared[name].MaxEntries(), shared[name].Flags()
		replace[name] = shared[name]
	}
	return spec, replace, errors.Join(castPointers(spec, o), setConstants(spec, o, someConstants))
}

// loadGo loads that.
func loadGo(o Options, shared map[string]*ebpf.Map, multi bool, keep func(program string) bool) (*ebpf.Collection, error) {
	spec, replace, err := goSpec(o, shared, multi, keep)
	if err != nil {
		return nil, err
	}
	coll, err := ebpf.NewCollectionWithOptions(spec, ebpf.CollectionOptions{MapReplacements: replace})
	if err != nil && usesFunctions(spec) {
		o.Log.Debug("programs for Go copy what they read of the kernel", "err", shortVerifierError(err))
		o.letting = true
		return loadGo(o, shared, multi, keep)
	}
	if err != nil {
		return nil, fmt.Errorf("load BPF programs for Go: %w", shortVerifierError(err))
	}
	return coll, nil
}

// goPrograms are those that are loaded.
type goPrograms struct {
	multi bool
	slots map[string]uint32 // by name of site
	err   error             // why none can be loaded

	exchange sync.RWMutex // held to load, and alone to exchange all
	options  Options
	shared   map[string]*ebpf.Map // and the map of slots

	mu      sync.Mutex
	entries map[string]*ebpf.Program
	sites   map[string]*ebpf.Program
	waves   map[goWave]*loading

	thrift thrift
}

// loading is a wave that is being loaded, or was tried.
type loading struct {
	done chan struct{}
	err  error
}

func newGoPrograms(o Options, shared map[string]*ebpf.Map) *goPrograms {
	p := &goPrograms{options: o, shared: maps.Clone(shared), multi: haveUprobeMulti(), entries: map[string]*ebpf.Program{},
		sites: map[string]*ebpf.Program{}, waves: map[goWave]*loading{}}
	if p.slots, p.err = goSites(); p.err != nil {
		return p
	}
	spec, err := LoadGolang()
	if err == nil {
		p.shared[goSlots], err = ebpf.NewMap(spec.Maps[goSlots])
	}
	if err != nil {
		p.err = fmt.Errorf("create the slots of Go sites: %w", err)
	}
	return p
}

// name is that of a site, "" if there is no program for it.
func (p *goPrograms) name(s gobin.Site) string {
	for name, slot := range p.slots {
		if slot == uint32(s) {
			return name
		}
	}
	return ""
}

// ensure loads a wave, once.
func (p *goPrograms) ensure(w goWave) error {
	p.mu.Lock()
	l := p.waves[w]
	if l != nil {
		p.mu.Unlock()
		<-l.done
		return l.err
	}
	l = &loading{done: make(chan struct{})}
	p.waves[w] = l
	p.mu.Unlock()
	defer close(l.done)
	p.exchange.RLock()
	defer p.exchange.RUnlock()
	l.err = p.load(w)
	return l.err
}

func (p *goPrograms) load(w goWave) error {
	if p.err != nil {
		return p.err
	}
	defer p.thrift.begin()()
	coll, err := loadGo(p.options, p.shared, p.multi, func(program string) bool {
		if program == goEntry {
			return p.multi && w == waveHTTP
		}
		site, isSite := strings.CutPrefix(program, goSite)
		if !isSite {
			site = strings.TrimPrefix(program, goEach)
		}
		return waveOf(site, p.options.goWrites) == w && (isSite || !p.multi)
	})
	if err != nil {
		return err
	}
	defer coll.Close()
	if err := p.fill(sitesOf(coll)); err != nil {
		return err
	}
	p.take(coll)
	return nil
}

// sitesOf are the programs of sites in coll, by site.
func sitesOf(coll *ebpf.Collection) map[string]*ebpf.Program {
	sites := map[string]*ebpf.Program{}
	for name, program := range coll.Programs {
		if site, ok := strings.CutPrefix(name, goSite); ok {
			sites[site] = program
		}
	}
	return sites
}

// take keeps what coll holds.
func (p *goPrograms) take(coll *ebpf.Collection) {
	p.mu.Lock()
	defer p.mu.Unlock()
	for name := range maps.Clone(coll.Programs) {
		into := p.entries
		key := name
		if site, ok := strings.CutPrefix(name, goSite); ok {
			into, key = p.sites, site
		}
		if old := into[key]; old != nil {
			old.Close() //nolint:errcheck // a descriptor of ours
		}
		into[key] = coll.DetachProgram(name)
	}
}

// fill puts programs behind the entries of their sites.
func (p *goPrograms) fill(sites map[string]*ebpf.Program) error {
	var errs []error
	for site, program := range sites {
		slot, ok := p.slots[site]
		if !ok {
			errs = append(errs, fmt.Errorf("find Go site %s: not in enum weft_go_site", site))
		} else if err := p.shared[goSlots].Put(slot, program); err != nil {
			errs = append(errs, fmt.Errorf("fill the slot of Go site %s: %w", site, err))
		}
	}
	return errors.Join(errs...)
}

// entry is what is attached to a site; nil: there is no program for it.
func (p *goPrograms) entry(site string) *ebpf.Program {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.sites[site] == nil || site == "SERVE_TLS" {
		return nil
	}
	if p.multi {
		return p.entries[goEntry]
	}
	return p.entries[goEach+site]
}

// prepare loads the programs of a changed configuration on these maps, and keeps
// others from being loaded until done is called.
func (p *goPrograms) prepare(o Options, shared map[string]*ebpf.Map) (next *ebpf.Collection, done func(), err error) {
	p.exchange.Lock()
	o.goWrites = p.options.goWrites
	with := maps.Clone(shared)
	with[goSlots] = p.shared[goSlots]
	p.mu.Lock()
	loaded := maps.Clone(p.sites)
	p.mu.Unlock()
	if len(loaded) == 0 {
		return nil, p.exchange.Unlock, nil
	}
	next, err = loadGo(o, with, p.multi, func(program string) bool {
		site, isSite := strings.CutPrefix(program, goSite)
		return isSite && loaded[site] != nil
	})
	if err != nil {
		p.exchange.Unlock()
		return nil, nil, err
	}
	return next, p.exchange.Unlock, nil
}

// replace puts the programs of next behind the entries, and loads others like them
// from now on. On failure the old ones are. Call it before prepare's done.
func (p *goPrograms) replace(next *ebpf.Collection, o Options) error {
	if next != nil {
		if err := p.fill(sitesOf(next)); err != nil {
			return errors.Join(err, p.fill(p.sites))
		}
		p.take(next)
		next.Close()
	}
	o.goWrites = p.options.goWrites
	p.options = o
	return nil
}

// share tells which maps are those of the first object now. Call it before prepare's
// done.
func (p *goPrograms) share(shared map[string]*ebpf.Map) {
	slots := p.shared[goSlots]
	p.shared = maps.Clone(shared)
	p.shared[goSlots] = slots
}

// silence empties the slots: entries lead nowhere from then on.
func (p *goPrograms) silence() {
	p.exchange.Lock()
	defer p.exchange.Unlock()
	for _, slot := range p.slots {
		if slots := p.shared[goSlots]; slots != nil {
			slots.Delete(slot) //nolint:errcheck // it may be empty
		}
	}
}

func (p *goPrograms) close() {
	p.mu.Lock()
	defer p.mu.Unlock()
	for _, program := range p.entries {
		program.Close() //nolint:errcheck // a descriptor of ours
	}
	for _, program := range p.sites {
		program.Close() //nolint:errcheck // a descriptor of ours
	}
	if slots := p.shared[goSlots]; slots != nil {
		slots.Close() //nolint:errcheck // a descriptor of ours
	}
}

// mayWriteUser says why this kernel lets nobody write a program's memory; nil if it
// does. A lockdown refuses it, and leaves no other trace than that a program which
// would is not loaded.
func mayWriteUser() error {
	p, err := ebpf.NewProgram(&ebpf.ProgramSpec{
		Name: "weft_try_write", Type: ebpf.Kprobe, License: "GPL",
		Instructions: asm.Instructions{
			asm.Mov.Imm(asm.R1, 0),
			asm.Mov.Reg(asm.R2, asm.RFP),
			asm.Add.Imm(asm.R2, -8),
			asm.StoreMem(asm.RFP, -8, asm.R1, asm.DWord),
			asm.Mov.Imm(asm.R3, 8),
			asm.FnProbeWriteUser.Call(),
			asm.Mov.Imm(asm.R0, 0),
			asm.Return(),
		},
	})
	if err != nil {
		return fmt.Errorf("the kernel lets no program write another's memory: %w", shortVerifierError(err))
	}
	return p.Close()
}

// haveUprobeMulti says whether this kernel attaches many probes at once to the threads
// of one process. It has had the link since 6.6, which looked at one thread until
// 46ba0e49b642 (6.10, and 6.6.34); since then a process id that cannot be is an
// invalid argument, and not a process that is not there.
func haveUprobeMulti() bool {
	if features.HaveBPFLinkUprobeMulti() != nil || features.HaveProgramHelper(ebpf.Kprobe, asm.FnGetAttachCookie) != nil {
		return false
	}
	p, err := ebpf.NewProgram(&ebpf.ProgramSpec{
		Name: "weft_try_multi", Type: ebpf.Kprobe, AttachType: ebpf.AttachTraceUprobeMulti, License: "GPL",
		Instructions: asm.Instructions{asm.Mov.Imm(asm.R0, 0), asm.Return()},
	})
	if err != nil {
		return false
	}
	defer p.Close() //nolint:errcheck // a descriptor of ours
	self, err := link.OpenExecutable("/proc/self/exe")
	if err != nil {
		return false
	}
	l, err := self.UprobeMulti(nil, p, &link.UprobeMultiOptions{Addresses: []uint64{1}, PID: 1 << 31})
	if err == nil {
		return errors.Join(l.Close()) == nil
	}
	return errors.Is(err, unix.EINVAL) && !errors.Is(err, os.ErrNotExist)
}
