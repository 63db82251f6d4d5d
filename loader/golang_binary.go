package loader

import (
	"debug/elf"
	"fmt"
	"os"

	"github.com/cilium/ebpf"
	"github.com/prometheus/procfs"
	"golang.org/x/sys/unix"

	"weft/loader/gobin"
)

// goBinary is an executable that was analysed, shared by its processes.
type goBinary struct {
	*gobin.Binary
	path     string
	layout   uint32 // 1 + index into go_layouts; 0: none yet
	users    int    // processes
	segments []elf.ProgHeader
	// Where the kernel has no uprobe_multi, the probes are the inode's.
	links    goLinks
	attached map[uint64]bool // by place in the file
	count    goProbes        // of those
}

// maxBinaries bounds the analyses that are kept.
const maxBinaries = 256

func idOf(file *os.File) (fileID, error) {
	var s unix.Stat_t
	if err := unix.Fstat(int(file.Fd()), &s); err != nil {
		return fileID{}, fmt.Errorf("stat executable: %w", err)
	}
	return fileID{dev: s.Dev, ino: s.Ino, size: s.Size, modified: s.Mtim, at: s.Ctim}, nil
}

// binaryOf analyses an executable, or knows it.
func (g *golang) binaryOf(file *os.File, pid uint32) (*goBinary, error) {
	id, err := idOf(file)
	if err != nil {
		return nil, err
	}
	if b := g.binaries[id]; b != nil {
		return b, nil
	}
	path, err := os.Readlink(file.Name())
	if err != nil {
		return nil, fmt.Errorf("read executable's name: %w", err)
	}
	analysed, err := g.analyses.Analyze(file, path)
	if err != nil {
		return nil, err //nolint:wrapcheck // names the file
	}
	b := &goBinary{Binary: analysed, path: path}
	for _, problem := range analysed.Problems {
		g.log.Info("Go executable not understood in full", "pid", pid, "exe", path, "problem", problem)
	}
	for _, lost := range analysed.Degraded {
		g.failed.add(attachUprobe, fmt.Errorf("follow %s: %s: %w", path, lost, ebpf.ErrNotSupported))
		g.log.Warn("a Go program is followed in part", "why", lost, "exe", path)
	}
	f, err := elf.NewFile(file)
	if err != nil {
		return nil, fmt.Errorf("read %s: %w", path, err)
	}
	for _, p := range f.Progs {
		if p.Type == elf.PT_LOAD {
			b.segments = append(b.segments, p.ProgHeader)
		}
	}
	if len(g.binaries) >= maxBinaries {
		for id, old := range g.binaries {
			if old.users == 0 {
				g.layouts.free(old)
				delete(g.binaries, id)
				break
			}
		}
	}
	g.binaries[id] = b
	return b, nil
}

// bias is where the process has the executable, less where it says it wants to be.
func (b *goBinary) bias(pid uint32) (uint64, error) {
	if !b.PIE {
		return 0, nil
	}
	p, err := procfs.NewProc(int(pid))
	if err != nil {
		return 0, fmt.Errorf("open /proc/%d: %w", pid, err)
	}
	maps, err := p.ProcMaps()
	if err != nil {
		return 0, fmt.Errorf("read memory map of %d: %w", pid, err)
	}
	page := uint64(os.Getpagesize())
	for _, m := range maps {
		if m.Pathname != b.path {
			continue
		}
		for _, s := range b.segments {
			if s.Off&^(page-1) == uint64(m.Offset) {
				return uint64(m.StartAddr) - s.Vaddr&^(page-1), nil
			}
		}
	}
	return 0, fmt.Errorf("find %s in the memory map of %d: %w", b.path, pid, os.ErrNotExist)
}

// layouts hands out the entries of the go_layouts map.
type layouts struct {
	m     *ebpf.Map
	next  uint32
	freed []uint32
}

// use gives the binary its entry.
func (l *layouts) use(b *goBinary) error {
	if b.layout != 0 {
		return nil
	}
	index := l.next
	if n := len(l.freed); n > 0 {
		index = l.freed[n-1]
	}
	if index >= l.m.MaxEntries() {
		return fmt.Errorf("describe %s to the kernel: %d executables are known already: %w", b.path, index, unix.ENOSPC)
	}
	if err := l.m.Put(index, kernelLayout(b.Layout)); err != nil {
		return fmt.Errorf("describe %s to the kernel: %w", b.path, err)
	}
	if n := len(l.freed); n > 0 {
		l.freed = l.freed[:n-1]
	} else {
		l.next++
	}
	b.layout = index + 1
	return nil
}

func (l *layouts) free(b *goBinary) {
	if b.layout != 0 {
		l.freed = append(l.freed, b.layout-1)
		b.layout = 0
	}
}

func kernelLayout(l gobin.Layout) WeftWeftGoLayout {
	return WeftWeftGoLayout{Goidgen: l.Goidgen, Allp: l.Allp, Allgs: l.Allgs, Image: l.Image, ImageSize: l.Size, Guarded: l.Guarded, TlsG: l.TLSG, Flags: l.Flags, Offset: l.Offset}
}
