package loader

import (
	"errors"
	"fmt"
	"slices"
	"sync"

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

// onDemand are the sites that a process gets once it is seen to use HTTP/1 over TLS.
var onDemand = []gobin.Site{gobin.SiteTLSWrite, gobin.SiteTLSResponse, gobin.SiteTLSIdle, gobin.SiteTLSClose}

// wanted are the probes for a process now: those on demand, or the others. Where
// no memory may be written, the site for that is needed above TLS only.
func (g *golang) wanted(b *goBinary, demanded bool) []gobin.Probe {
	var out []gobin.Probe
	for _, p := range b.Probes {
		late := slices.Contains(onDemand, p.Site) || p.Site == gobin.SiteWrite && g.memory != nil
		if late == demanded && g.sites[p.Site] != nil {
			out = append(out, p)
		}
	}
	return out
}

// attachSites attaches to a process. On failure nothing of it is attached.
func (g *golang) attachSites(pid uint32, p *goProcess, demanded bool) error {
	probes := g.wanted(p.binary, demanded)
	if len(probes) == 0 {
		if demanded {
			return nil
		}
		return fmt.Errorf("find probe sites in %s: %s: %w", p.binary.path, absent(p.binary.Binary), ebpf.ErrNotSupported)
	}
	// The process's own way to the file: it may be in another mount namespace, or
	// have been replaced.
	path := fmt.Sprintf("/proc/%d/exe", pid)
	ex, err := link.OpenExecutable(path)
	if err != nil {
		return fmt.Errorf("open executable: %w", err)
	}
	if g.multi {
		options := &link.UprobeMultiOptions{PID: pid}
		for _, probe := range probes {
			options.Addresses = append(options.Addresses, probe.Offset)
			options.Cookies = append(options.Cookies, uint64(probe.Site))
		}
		l, err := ex.UprobeMulti(nil, g.programs.Programs[goEntry], options)
		if err != nil {
			return fmt.Errorf("attach to %d places of %s: %w", len(probes), p.binary.path, err)
		}
		p.links = append(p.links, l)
		return nil
	}
	return g.attachInode(ex, p.binary, probes)
}

// attachInode attaches where the kernel knows neither processes nor cookies: to all
// processes of that file, of which the programs leave alone those not selected.
func (g *golang) attachInode(ex *link.Executable, b *goBinary, probes []gobin.Probe) error {
	var links goLinks
	var fresh []uint64
	for _, probe := range probes {
		if b.attached[probe.Offset] {
			continue
		}
		l, err := ex.Uprobe("", g.sites[probe.Site], &link.UprobeOptions{Address: probe.Offset})
		if err != nil {
			return errors.Join(fmt.Errorf("attach to %s of %s: %w", probe.Function, b.path, err), links.close())
		}
		links = append(links, l)
		fresh = append(fresh, probe.Offset)
	}
	if b.attached == nil {
		b.attached = map[uint64]bool{}
	}
	for _, offset := range fresh {
		b.attached[offset] = true
	}
	b.links = append(b.links, links...)
	return nil
}

// absent says why there is nothing to attach to.
func absent(b *gobin.Binary) string {
	if len(b.Problems) > 0 {
		return b.Problems[0]
	}
	return "it does not use net/http or gRPC in a way that weft knows"
}
