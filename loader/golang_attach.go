package loader

import (
	"errors"
	"fmt"
	"slices"
	"sync"
	"sync/atomic"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/link"

	"weft/loader/gobin"
)

// goLinks hold probes; to lose one is to detach it.
type goLinks []link.Link

// close lets them go side by side: each waits for the kernel.
func (l goLinks) close() error {
	errs := make([]error, len(l))
	var all sync.WaitGroup
	for i, one := range l {
		all.Go(func() { errs[i] = one.Close() })
	}
	all.Wait()
	return errors.Join(errs...)
}

// wanted are the probes of a program in these waves, which are loaded for it.
func (g *golang) wanted(b *goBinary, waves []goWave) ([]goProbe, error) {
	var out []goProbe
	for _, p := range b.Probes {
		name := g.programs.name(p.Site)
		w := waveOf(name, g.memory == nil)
		if name == "" || !slices.Contains(waves, w) {
			continue
		}
		if err := g.ensure(w); err != nil {
			return nil, err
		}
		if entry := g.programs.entry(name); entry != nil {
			out = append(out, goProbe{p, entry})
		}
	}
	return out, nil
}

// goProbe is a place and what is attached there.
type goProbe struct {
	gobin.Probe
	entry *ebpf.Program
}

// goProbes counts attached probes, by what a hit costs.
type goProbes struct{ emulated, stepped atomic.Int64 }

// add counts probes here and in all.
func (n *goProbes) add(all *goProbes, probes []goProbe) {
	for _, p := range probes {
		if p.Emulated {
			n.emulated.Add(1)
			all.emulated.Add(1)
		} else {
			n.stepped.Add(1)
			all.stepped.Add(1)
		}
	}
}

// leave takes them out of all.
func (n *goProbes) leave(all *goProbes) {
	all.emulated.Add(-n.emulated.Swap(0))
	all.stepped.Add(-n.stepped.Swap(0))
}

// GoProbes are the probes attached to Go programs now: those on instructions that the
// kernel emulates, and those that it steps over, which cost several times as much.
func (l *Loader) GoProbes() (emulated, stepped int64) {
	return l.golang.attached.emulated.Load(), l.golang.attached.stepped.Load()
}

// attachSites attaches those of these waves to a process. On failure none is.
func (g *golang) attachSites(pid uint32, p *goProcess, waves ...goWave) error {
	probes, err := g.wanted(p.binary, waves)
	if err != nil {
		return err
	}
	if len(probes) == 0 {
		followed := func(w goWave) bool { return g.uses(p.binary.Binary, w) }
		if !slices.Contains(waves, waveHTTP) || slices.ContainsFunc([]goWave{waveHTTP, waveH2, waveXNet, waveGRPC}, followed) {
			return nil
		}
		err := fmt.Errorf("find probe sites in %s: %s: %w", p.binary.path, absent(p.binary.Binary), ebpf.ErrNotSupported)
		if p.binary.Layout.Flags&gobin.FlagGoroutines == 0 {
			return err
		}
		g.failed.add(attachUprobe, err)
		if why := err.Error(); !g.warned[why] && len(g.warned) <= 100 {
			g.warned[why] = true
			g.log.Warn("a Go program is traced by its sockets alone: of calls only those in the handler itself are known", "why", err)
		}
		return nil // its goroutines can be told apart all the same
	}
	// The process's own way to the file: it may be in another mount namespace, or
	// have been replaced.
	path := fmt.Sprintf("/proc/%d/exe", pid)
	ex, err := link.OpenExecutable(path)
	if err != nil {
		return fmt.Errorf("open executable: %w", err)
	}
	if g.programs.multi {
		options := &link.UprobeMultiOptions{PID: pid}
		for _, probe := range probes {
			options.Addresses = append(options.Addresses, probe.Offset)
			options.Cookies = append(options.Cookies, uint64(probe.Site))
		}
		l, err := ex.UprobeMulti(nil, probes[0].entry, options)
		if err != nil {
			return fmt.Errorf("attach to %d places of %s: %w", len(probes), p.binary.path, err)
		}
		p.links = append(p.links, l)
		p.probes.add(&g.attached, probes)
		return nil
	}
	return g.attachInode(ex, p.binary, probes)
}

// attachInode attaches where the kernel knows neither processes nor cookies: to all
// processes of that file, of which the programs leave alone those not selected.
func (g *golang) attachInode(ex *link.Executable, b *goBinary, probes []goProbe) error {
	var links goLinks
	var fresh []goProbe
	for _, probe := range probes {
		if b.attached[probe.Offset] {
			continue
		}
		l, err := ex.Uprobe("", probe.entry, &link.UprobeOptions{Address: probe.Offset})
		if err != nil {
			return errors.Join(fmt.Errorf("attach to %s of %s: %w", probe.Function, b.path, err), links.close())
		}
		links = append(links, l)
		fresh = append(fresh, probe)
	}
	if b.attached == nil {
		b.attached = map[uint64]bool{}
	}
	for _, probe := range fresh {
		b.attached[probe.Offset] = true
	}
	b.count.add(&g.attached, fresh)
	b.links = append(b.links, links...)
	return nil
}

// absent says why there is nothing to attach to.
func absent(b *gobin.Binary) string {
	for _, why := range slices.Concat(b.Degraded, b.Problems) {
		return why
	}
	return "it does not use net/http or gRPC in a way that weft knows"
}
