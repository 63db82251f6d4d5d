package loader

import (
	"os"
	"slices"
	"sync"

	"weft/loader/gobin"
)

// PrepareGo loads what it takes to follow the program at path from within, if it is one
// of Go, over TLS from its first request on. The channel is closed once that is done, or
// is known to be impossible; programs that it starts are attached to without delay, too.
func (l *Loader) PrepareGo(path string) <-chan struct{} { return l.golang.prepare(path) }

// prepare loads what a program of one command will need, if it is one of Go, and
// closes the channel once it is there or is known not to be. From then on processes get
// the sites for TLS at once: who runs one command wants its first request.
func (g *golang) prepare(path string) <-chan struct{} {
	ready := make(chan struct{})
	g.whole.Store(true)
	ok := g.beside(func() {
		defer close(ready)
		<-g.loaded
		file, err := os.Open(path)
		if err != nil {
			return // who starts it tells
		}
		defer file.Close() //nolint:errcheck // read only
		b, err := g.analyses.Analyze(file, path)
		if err != nil {
			return // another language; or attach tells
		}
		var all sync.WaitGroup
		for _, w := range []goWave{waveH2, waveXNet, waveGRPC, waveTLS, waveWrite} {
			if g.uses(b, w) {
				all.Go(func() { g.ensure(w) }) //nolint:errcheck // who attaches is told again
			}
		}
		all.Wait()
	})
	if !ok {
		close(ready)
	}
	return ready
}

// soon is about HTTP/1 over TLS. Its sites cost those traps that never use it, so they
// wait until it is seen; what is attached then is loaded now, that it takes moments.
func (g *golang) soon(pid uint32, p *goProcess, done func()) {
	if g.whole.Load() && g.uses(p.binary.Binary, waveTLS) {
		g.encrypts(pid, p, done)
		return
	}
	ok := g.beside(func() {
		if g.uses(p.binary.Binary, waveTLS) {
			g.ensure(waveTLS) //nolint:errcheck // who attaches is told again
		}
		done()
	})
	if !ok {
		done()
	}
}

// encrypts attaches the sites for TLS to a process, in the worker.
func (g *golang) encrypts(pid uint32, p *goProcess, done func()) {
	p.asked = true
	g.after(pid, p, func() {
		if g.processes[pid] == p && g.ensure(waveTLS) == nil {
			p.tls = true
			g.tell(p.attached(pid))
		}
		done()
	}, waveTLS)
}

// uses says whether a program has probes of a wave.
func (g *golang) uses(b *gobin.Binary, w goWave) bool {
	return slices.ContainsFunc(b.Probes, func(p gobin.Probe) bool {
		name := g.programs.name(p.Site)
		return name != "" && waveOf(name, g.memory == nil) == w
	})
}
