package loader

import (
	"errors"
	"fmt"
	"maps"
	"os"
	"slices"
	"strings"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/asm"
	"github.com/cilium/ebpf/btf"
	"github.com/cilium/ebpf/features"
	"github.com/cilium/ebpf/link"
	"golang.org/x/sys/unix"
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

// goSites are the slots of the programs of sites, such as SERVE, from the object's
// own BTF.
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
		out[strings.TrimPrefix(v.Name, "WEFT_GO_SITE_")] = uint32(v.Value)
	}
	return out, nil
}

// goWriters are sites whose programs do nothing but write memory.
var goWriters = []string{"H2_WRITE", "XNET_WRITE", "GRPC_WRITE"}

// goSpec is the Go object for one way of attaching, on the maps of the first.
func goSpec(o Options, shared map[string]*ebpf.Map, multi bool) (*ebpf.CollectionSpec, map[string]*ebpf.Map, error) {
	spec, err := LoadGolang()
	if err != nil {
		return nil, nil, fmt.Errorf("read embedded BPF object for Go: %w", err)
	}
	for name, p := range spec.Programs {
		site, isSite := strings.CutPrefix(name, goSite)
		unwritable := isSite && !o.goWrites && slices.Contains(goWriters, site)
		if name == goEntry && !multi || strings.HasPrefix(name, goEach) && multi || unwritable {
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
	return spec, replace, setConstants(spec, o, someConstants)
}

// loadGo loads the Go object on the maps of the first.
func loadGo(o Options, shared map[string]*ebpf.Map, multi bool) (*ebpf.Collection, error) {
	spec, replace, err := goSpec(o, shared, multi)
	if err != nil {
		return nil, err
	}
	coll, err := ebpf.NewCollectionWithOptions(spec, ebpf.CollectionOptions{MapReplacements: replace})
	if err != nil {
		return nil, fmt.Errorf("load BPF programs for Go: %w", shortVerifierError(err))
	}
	return coll, nil
}

// prepare loads the programs of a changed configuration on these maps; nil where there
// are none to take the place of.
func (g *golang) prepare(o Options, shared map[string]*ebpf.Map) (*ebpf.Collection, error) {
	if g == nil {
		return nil, nil //nolint:nilnil // documented
	}
	g.loading.Wait()
	if g.err != nil {
		return nil, nil //nolint:nilnil,nilerr // documented; told when it happened
	}
	o.goWrites = g.memory == nil
	with := maps.Clone(shared)
	with[goSlots] = g.programs.Maps[goSlots]
	spec, replace, err := goSpec(o, with, g.multi)
	if err != nil {
		return nil, err
	}
	for name := range spec.Programs {
		if strings.HasPrefix(name, goEntry) {
			delete(spec.Programs, name) // they stay attached
		}
	}
	next, err := ebpf.NewCollectionWithOptions(spec, ebpf.CollectionOptions{MapReplacements: replace})
	if err != nil {
		return nil, fmt.Errorf("load BPF programs for Go: %w", shortVerifierError(err))
	}
	return next, nil
}

// replace puts the programs of next behind the entries. On failure the old ones are.
func (g *golang) replace(next *ebpf.Collection) error {
	if next == nil {
		return nil
	}
	slots := g.programs.Maps[goSlots]
	if err := fillSites(slots, next); err != nil {
		return errors.Join(err, fillSites(slots, g.programs))
	}
	for name, p := range next.Programs {
		g.programs.Programs[name].Close() //nolint:errcheck // a descriptor of ours
		g.programs.Programs[name] = p
	}
	for _, m := range next.Maps {
		m.Close() //nolint:errcheck // the programs hold what they use
	}
	return nil
}

// fillSites puts the programs of next behind the entries that jump through sites.
func fillSites(sites *ebpf.Map, next *ebpf.Collection) error {
	slots, err := goSites()
	if err != nil {
		return err
	}
	var errs []error
	for name, p := range next.Programs {
		site, ok := strings.CutPrefix(name, goSite)
		if !ok {
			continue
		}
		slot, ok := slots[site]
		if !ok {
			errs = append(errs, fmt.Errorf("find Go site %s: not in enum weft_go_site", site))
		} else if err := sites.Put(slot, p); err != nil {
			errs = append(errs, fmt.Errorf("fill the slot of Go site %s: %w", site, err))
		}
	}
	return errors.Join(errs...)
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
