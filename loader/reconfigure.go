package loader

import (
	"context"
	"errors"
	"fmt"
	"io"
	"maps"
	"slices"
	"strings"
	"time"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/asm"
	"github.com/cilium/ebpf/link"
)

// Change is what a Loader that runs can be given anew; nil leaves it as it is.
type Change struct {
	Selector Selector
	Policy   *Policy
	Sampling *Sampling
}

// ErrRestart says that a change is possible only where tracing begins.
var ErrRestart = errors.New("needs a restart")

// ownMaps are read by the programs of one configuration, and by no others.
var ownMaps = []string{"trusted", "egress", "egress_rules", "edges", "attributes", "sampling_rules"}

// Reconfigure changes what a running loader does. Policy and sampling come into
// force with programs that are loaded beside those that run, on the same state, and
// take their place between two runs of a hook: no request is missed, and each is
// decided wholly by the one or the other. An error means that nothing has changed;
// it is ErrRestart where this kernel, or what was loaded at start, does not allow
// the change. Call it while Run runs, from one goroutine at a time.
func (l *Loader) Reconfigure(ctx context.Context, c Change) error {
	o := l.options
	if c.Selector != nil {
		o.Selector = c.Selector
	}
	if c.Policy != nil {
		o.Policy = *c.Policy
	}
	if c.Sampling != nil {
		o.Sampling = *c.Sampling
	}
	var next *exchange
	if c.Policy != nil || c.Sampling != nil {
		var err error
		if next, err = l.prepare(&o, c.Policy != nil); err != nil {
			return err
		}
	}
	err := l.between(ctx, func() error {
		if next != nil {
			if err := l.replace(next); err != nil {
				return err
			}
		}
		l.finder.selector, l.finder.sampling = o.Selector, o.Sampling
		return l.finder.reselect(l.handler)
	})
	if err != nil {
		if next != nil {
			next.close()
		}
		return err
	}
	before := l.options.Policy
	l.options = o
	if next != nil && next.begins {
		if err := l.beginInjecting(ctx); err != nil {
			return err
		}
	}
	if c.Policy == nil || l.inject == nil && !l.golang.writes() {
		return nil
	}
	if err := l.forgetPeers(before); err != nil {
		l.log.Warn("connections opened before keep the egress rule and the trust that they had", "err", err)
	}
	return nil
}

// between has Run do something between two of its turns, and waits for it.
func (l *Loader) between(ctx context.Context, do func() error) (err error) {
	done := make(chan struct{})
	change := func() {
		defer close(done)
		err = do()
	}
	select {
	case l.changes <- change:
		<-done
		return err
	case <-ctx.Done():
		return ctx.Err()
	}
}

// exchange holds the programs of a changed configuration, and their maps.
type exchange struct {
	*ebpf.Collection
	options Options
	specs   map[string]*ebpf.ProgramSpec
	begins  bool             // the injecting programs are among them, for the first time
	golang  *ebpf.Collection // of the Go object; nil: nothing of it is loaded
	done    func()           // lets more of it be loaded
}

func (e *exchange) close() {
	e.Close()
	if e.golang != nil {
		e.golang.Close()
	}
	if e.done != nil {
		e.done()
	}
}

// prepare loads the programs of a changed configuration beside the running ones.
func (l *Loader) prepare(o *Options, policy bool) (*exchange, error) {
	old := l.options.Policy
	if !l.coll.exchangeable {
		return nil, fmt.Errorf("%w: this kernel does not let programs be exchanged", ErrRestart)
	}
	places, reused, ok := old.places().change(o.Policy.Edges)
	if !ok {
		return nil, fmt.Errorf("%w: headers that become baggage, those before and the new ones, are more than %d", ErrRestart, MaxEdges)
	}
	o.Policy.edges = &places
	if reused != 0 {
		if err := l.forgetEdges(reused); err != nil {
			return nil, fmt.Errorf("%w: a header block being read may mean another header that becomes baggage: %w", ErrRestart, err)
		}
	}
	// Connections remember the index of their egress rule: those in force keep
	// their places until every connection has been told to ask again.
	switch {
	case !policy:
	case old.first+len(old.Egress)+len(o.Policy.Egress) <= holdRule:
		o.Policy.first = old.first + len(old.Egress)
	case len(o.Policy.Egress) <= old.first:
		o.Policy.first = 0
	default:
		return nil, fmt.Errorf("%w: %d egress rules and %d before, default ones included, are more than %d", ErrRestart,
			len(o.Policy.Egress), len(old.Egress), holdRule)
	}
	o.injecting, o.letting = l.inject != nil, l.coll.letting
	begins := l.mayBegin(o)
	next, specs, err := l.loadBeside(*o, begins)
	if err != nil && begins {
		refused := err
		o.Policy.Inject, begins = 0, false
		if next, specs, err = l.loadBeside(*o, begins); err == nil {
			l.cannotInject(refused)
		}
	}
	if err != nil {
		return nil, err
	}
	err = errors.Join(o.Policy.apply(next.Maps), o.Sampling.apply(next.Maps))
	if policy {
		err = errors.Join(err, keepRules(old, next.Maps["egress_rules"]))
	}
	e := &exchange{Collection: next, options: *o, specs: specs, begins: begins}
	if err == nil && l.golang != nil {
		e.golang, e.done, err = l.golang.programs.prepare(*o, next.Maps)
	}
	if err != nil {
		e.close()
		return nil, err
	}
	return e, nil
}

// loadBeside loads the programs that are exchanged for a configuration, on the state
// of those that run; with the injecting ones if it is to begin with these.
func (l *Loader) loadBeside(o Options, begins bool) (*ebpf.Collection, map[string]*ebpf.ProgramSpec, error) {
	spec, _, err := programsOf(o, l.coll.capture)
	if err != nil {
		return nil, nil, err
	}
	for name := range spec.Programs {
		if l.coll.entries[name] == nil && (!begins || !slices.Contains(injectPrograms, name)) {
			delete(spec.Programs, name)
		}
	}
	shared := maps.Clone(l.coll.Maps)
	for name := range shared {
		if slices.Contains(ownMaps, name) || strings.HasPrefix(name, ".") {
			delete(shared, name)
		}
	}
	coll, err := ebpf.NewCollectionWithOptions(spec, ebpf.CollectionOptions{MapReplacements: shared})
	if err != nil {
		return nil, nil, fmt.Errorf("load BPF programs: %w", shortVerifierError(err))
	}
	return coll, spec.Programs, nil
}

// holdRule is the place of a rule that holds baggage back where old rules let some
// of its keys leave.
const holdRule = MaxEgress - 1

// keepRules copies the rules in force to where connections look for them, and makes
// the one that holds.
func keepRules(old Policy, into *ebpf.Map) error {
	hold := HeaderTraceparent | HeaderTracestate
	for _, r := range old.Egress {
		if len(r.Keys) > 0 {
			hold &= r.Headers
		}
	}
	rule := EgressRule{Headers: hold}.kernel()
	rule.Keys.Count = 1 // of a hash that none has
	if err := into.Put(uint32(holdRule), rule); err != nil {
		return fmt.Errorf("write egress rule: %w", err)
	}
	for i, r := range old.Egress {
		if err := into.Put(uint32(old.first+i), r.kernel()); err != nil {
			return fmt.Errorf("write egress rule: %w", err)
		}
	}
	return nil
}

// replace puts the programs of next behind the hooks. On failure the old ones are.
func (l *Loader) replace(next *exchange) error {
	swap := func(programs map[string]*ebpf.Program) error {
		var errs []error
		for name, d := range l.coll.entries {
			errs = append(errs, fill(d.slot, programs[name]))
		}
		if l.inject != nil {
			errs = append(errs, l.inject.dispatch(programs["weft_msg"]))
		}
		return errors.Join(errs...)
	}
	if err := swap(next.Programs); err != nil {
		return errors.Join(err, swap(l.coll.Programs))
	}
	if l.golang != nil {
		if err := l.golang.programs.replace(next.golang, next.options); err != nil {
			return errors.Join(err, swap(l.coll.Programs))
		}
	}
	l.coll.mu.Lock()
	defer l.coll.mu.Unlock()
	// The kernel keeps those that are running until they end.
	for name, p := range next.Programs {
		l.coll.Programs[name].Close() //nolint:errcheck // a descriptor of ours
		l.coll.Programs[name] = p
	}
	for name, m := range next.Maps {
		if slices.Contains(ownMaps, name) || strings.HasPrefix(name, ".") || l.coll.Maps[name] == nil {
			l.coll.Maps[name].Close() //nolint:errcheck // a descriptor of ours
			l.coll.Maps[name] = m
			continue
		}
		m.Close() //nolint:errcheck // a duplicate
	}
	maps.Copy(l.coll.specs, next.specs)
	if l.inject != nil {
		l.inject.message = l.coll.Programs["weft_msg"]
	}
	if l.golang != nil {
		l.golang.programs.share(l.coll.Maps)
		next.done()
	}
	return nil
}

// graceful is longer than a program runs, even one that was preempted.
const graceful = 50 * time.Millisecond

// forgetPeers makes every connection ask again which egress rule is for its peer and
// whether it is trusted. Where the rule in force filters baggage by key, that takes
// two steps: a request that is being written must not find the rule gone between
// the decision that baggage may leave and the filter.
func (l *Loader) forgetPeers(old Policy) error {
	var plain, filtered uint64
	for i, r := range old.Egress {
		if len(r.Keys) > 0 {
			filtered |= 1 << (old.first + i)
		} else {
			plain |= 1 << (old.first + i)
		}
	}
	time.Sleep(graceful)
	if err := l.resetPeers(plain, filtered); err != nil {
		return err
	}
	if filtered == 0 {
		return nil
	}
	time.Sleep(graceful)
	return l.resetPeers(1<<holdRule, 0)
}

// resetPeers walks the connections: those whose rule is in the set forget, or hold.
func (l *Loader) resetPeers(forget, hold uint64) error {
	spec, err := LoadWeft()
	if err != nil {
		return fmt.Errorf("read embedded BPF object: %w", err)
	}
	offset := map[string]int16{}
	for _, name := range []string{"trust", "egress"} {
		if offset[name], err = memberOffset(spec, "conn", name); err != nil {
			return err
		}
	}
	return l.walk("conns", asm.Instructions{
		asm.StoreImm(asm.R6, offset["trust"], 0, asm.Byte),
		asm.LoadMem(asm.R3, asm.R6, offset["egress"], asm.Byte),
		asm.JEq.Imm(asm.R3, 0, "out"),
		asm.JEq.Imm(asm.R3, 255, "forget"), // no rule
		asm.Sub.Imm(asm.R3, 1),
		asm.And.Imm(asm.R3, MaxEgress-1),
		asm.LoadImm(asm.R4, int64(forget), asm.DWord),
		asm.RSh.Reg(asm.R4, asm.R3),
		asm.And.Imm(asm.R4, 1),
		asm.JNE.Imm(asm.R4, 0, "forget"),
		asm.LoadImm(asm.R4, int64(hold), asm.DWord),
		asm.RSh.Reg(asm.R4, asm.R3),
		asm.And.Imm(asm.R4, 1),
		asm.JEq.Imm(asm.R4, 0, "out"),
		asm.StoreImm(asm.R6, offset["egress"], holdRule+1, asm.Byte),
		asm.Ja.Label("out"),
		asm.StoreImm(asm.R6, offset["egress"], 0, asm.Byte).WithSymbol("forget"),
	})
}

// walk runs instructions on every value of a map, which is in R6. They may end
// early at the label out.
func (l *Loader) walk(name string, each asm.Instructions) error {
	// struct bpf_iter__bpf_map_elem: meta, map, key, value.
	const value = 24
	walker, err := ebpf.NewProgram(&ebpf.ProgramSpec{
		Name: "weft_forget", Type: ebpf.Tracing, AttachType: ebpf.AttachTraceIter, AttachTo: "bpf_map_elem", License: "GPL",
		Instructions: slices.Concat(asm.Instructions{
			asm.LoadMem(asm.R6, asm.R1, value, asm.DWord),
			asm.JEq.Imm(asm.R6, 0, "out"),
		}, each, asm.Instructions{
			asm.Mov.Imm(asm.R0, 0).WithSymbol("out"),
			asm.Return(),
		}),
	})
	if err != nil {
		return fmt.Errorf("load the walk over %s: %w", name, shortVerifierError(err))
	}
	defer walker.Close() //nolint:errcheck // a descriptor of ours
	walk, err := link.AttachIter(link.IterOptions{Program: walker, Map: l.coll.Maps[name]})
	if err != nil {
		return fmt.Errorf("walk over %s: %w", name, err)
	}
	defer walk.Close() //nolint:errcheck // a descriptor of ours
	r, err := walk.Open()
	if err != nil {
		return fmt.Errorf("walk over %s: %w", name, err)
	}
	_, err = io.Copy(io.Discard, r)
	return errors.Join(err, r.Close())
}

// entriesOf are what is attached in place of a program, none if it is attached
// itself.
func (c *collection) entriesOf(name string) []*ebpf.Program {
	d := c.entries[name]
	switch {
	case d == nil:
		return nil
	case d.spare == nil || !c.sparing:
		return []*ebpf.Program{d.entry}
	}
	return []*ebpf.Program{d.entry, d.spare}
}
