package loader

import (
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/btf"
	"github.com/cilium/ebpf/features"
	"github.com/cilium/ebpf/link"
	"github.com/cilium/ebpf/rlimit"

	"weft/loader/probe"
)

// Programs every configuration loads; the injecting ones only if asked for.
var (
	lifecyclePrograms = []string{"weft_state", "weft_fork", "weft_exec", "weft_exit"}
	injectPrograms    = []string{"weft_msg", "weft_sockops", "weft_receive"}
)

// capturePrograms are the programs of one way, in attach order: returns before
// entries, so that no entry is remembered whose return is not seen.
// Those in optional are of functions that some kernels lack.
func capturePrograms(c Capture) (required, optional []string) {
	switch c {
	case CaptureFentry:
		return []string{"fexit_send", "fentry_send", fexitName("fexit_recv", "tcp_recvmsg"), "fentry_recv"},
			[]string{"fexit_sendpage", "fentry_sendpage", fexitName("fexit_recv_parser", "tcp_bpf_recvmsg_parser"), "fentry_recv_parser"}
	case CaptureKprobe:
		return []string{"kretprobe_send", "kprobe_send", "kretprobe_recv", "kprobe_recv"},
			[]string{"kretprobe_sendpage", "kprobe_sendpage", "kretprobe_recv_parser", "kprobe_recv_parser"}
	case CaptureTracepoint:
		return []string{"tp_send", "tp_recv"}, nil
	}
	return nil, nil
}

// fexitName is the program whose return value stands behind as many arguments as
// the kernel's function has, by BTF.
func fexitName(prefix, function string) string {
	return fmt.Sprintf("%s_%d", prefix, funcParams(function))
}

// kernelFunc is a kernel function by BTF, nil if BTF does not know it.
func kernelFunc(name string) (fn *btf.Func) {
	spec, err := btf.LoadKernelSpec()
	if err != nil || spec.TypeByName(name, &fn) != nil {
		return nil
	}
	return fn
}

// funcParams is the number of parameters of a kernel function, 0 if BTF does not
// know it.
func funcParams(name string) int {
	fn := kernelFunc(name)
	if fn == nil {
		return 0
	}
	proto, ok := fn.Type.(*btf.FuncProto)
	if !ok {
		return 0
	}
	return len(proto.Params)
}

// collection is what was loaded for one way of capture.
type collection struct {
	*ebpf.Collection
	capture  Capture
	letting  bool // as Options.letting has it
	specs    map[string]*ebpf.ProgramSpec
	attached []string // names of those that links hold, in attach order
	links    []link.Link
	// entries are what is attached in place of a program, by its name.
	entries map[string]*dispatch
	// exchangeable: the capture programs have entries.
	exchangeable bool
	// sparing: the spares of entries are attached too.
	sparing bool
	mu      sync.Mutex // of Programs and Maps, once Run runs
}

// enter gives the capture programs their entries, and spares where they hold their
// CPU, or all of them none.
func (c *collection) enter(holds bool) error {
	entries := map[string]*dispatch{}
	for _, name := range c.attached {
		if slices.Contains(lifecyclePrograms, name) {
			// Without a spare: some would report twice, and weft_state also
			// runs in interrupts, where it would be inside itself.
			continue
		}
		d, err := newDispatch(c.specs[name], hookSlot, 0)
		if err == nil {
			entries[name] = d
			err = fill(d.slot, c.Programs[name])
		}
		if err == nil && holds && c.specs[name].Type == ebpf.Tracing {
			err = d.addSpare()
		}
		if err != nil {
			for _, d := range entries {
				err = errors.Join(err, d.close())
			}
			return err
		}
	}
	c.entries, c.exchangeable = entries, true
	return nil
}

// attachAll attaches what capture needs; on failure what is attached stays so.
func (c *collection) attachAll() error {
	for _, name := range c.attached {
		program := c.Programs[name]
		if d := c.entries[name]; d != nil {
			program = d.entry
		}
		l, err := attach(program, c.specs[name])
		if err != nil {
			return fmt.Errorf("attach %s: %w", name, err)
		}
		c.links = append(c.links, l)
	}
	if c.sparing {
		return c.attachSpares()
	}
	return nil
}

// attachSpares attaches the spares of what attachAll attached.
func (c *collection) attachSpares() error {
	for _, name := range c.attached {
		d := c.entries[name]
		if d == nil || d.spare == nil {
			continue
		}
		l, err := attach(d.spare, c.specs[name])
		if err != nil {
			return fmt.Errorf("attach the spare of %s: %w", name, err)
		}
		c.links = append(c.links, l)
	}
	return nil
}

// letGo detaches what attachAll attached.
func (c *collection) letGo() error {
	// Side by side: each waits until no CPU runs the program any more.
	errs := make([]error, len(c.links))
	var all sync.WaitGroup
	for i, l := range c.links {
		all.Go(func() { errs[i] = l.Close() })
	}
	all.Wait()
	c.links = nil
	return errors.Join(errs...)
}

// programsOf is what is loaded for one way of capture: the programs to attach, and
// a specification that holds these and the injecting ones.
func programsOf(o Options, capture Capture) (spec *ebpf.CollectionSpec, attached []string, err error) {
	if spec, err = LoadWeft(); err != nil {
		return nil, nil, fmt.Errorf("read embedded BPF object: %w", err)
	}
	required, optional := capturePrograms(capture)
	for _, name := range required {
		if spec.Programs[name] == nil {
			return nil, nil, fmt.Errorf("find program %s: no BTF, or a kernel function of another shape", name)
		}
	}
	optional = slices.DeleteFunc(optional, func(name string) bool {
		return spec.Programs[name] == nil || funcParams(spec.Programs[name].AttachTo) == 0
	})
	attached = slices.Concat(lifecyclePrograms, required, optional)
	keep := attached
	if o.injects() {
		keep = slices.Concat(attached, injectPrograms)
	}
	for name := range spec.Programs {
		if !slices.Contains(keep, name) {
			delete(spec.Programs, name)
		}
	}
	if !o.injects() {
		delete(spec.Maps, "sockets") // to create one takes CAP_NET_ADMIN, which observing does not need
	}
	if capture == CaptureKprobe || beforeAllocator() {
		// Before 6.1 kprobe programs want preallocated maps, and those of uprobes
		// are such; the kernel log says so loudly (e679654a704e).
		spec.Maps["conns"].Flags = 0
		if capture != CaptureKprobe {
			spec.Maps["conns"].MaxEntries = 16384 // 46 MB
		}
		for name, entries := range map[string]uint32{"carried_small": 16384, "carried_medium": 1024, "carried_large": 256} {
			spec.Maps[name].Flags, spec.Maps[name].MaxEntries = 0, entries
		}
	}
	return spec, attached, errors.Join(holdCPU(spec, o), castPointers(spec, o), setConstants(spec, o, everyConstant))
}

// beforeAllocator says whether the kernel lacks the allocator that probes may use
// (7c8199e24fa0). Nothing can be tried: the attempt is what it warns of, once in its
// life, and with panic_on_warn it would be the end of it.
func beforeAllocator() bool {
	version, err := features.LinuxVersionCode()
	return err == nil && version < 6<<16|1<<8
}

// load loads the programs for one way of capture and attaches them. Partial
// failure rolls back.
func load(o Options, capture Capture) (*collection, error) {
	// Before 5.11 maps are charged to this limit. Where it may not be raised it
	// may still be wide enough: the maps tell.
	if err := rlimit.RemoveMemlock(); err != nil {
		o.Log.Debug("RLIMIT_MEMLOCK stays", "err", err)
	}
	spec, attached, err := programsOf(o, capture)
	if err != nil {
		return nil, err
	}
	coll, err := ebpf.NewCollection(spec)
	if err != nil && usesFunctions(spec) {
		o.Log.Debug("programs may be preempted, and copy what they read", "err", shortVerifierError(err))
		o.letting = true
		return load(o, capture)
	}
	if err != nil {
		return nil, fmt.Errorf("load BPF programs: %w", shortVerifierError(err))
	}
	c := &collection{Collection: coll, capture: capture, letting: o.letting, specs: spec.Programs, attached: attached, entries: map[string]*dispatch{}}
	if err := fillMaps(coll, o); err != nil {
		return nil, errors.Join(err, c.close())
	}
	holds := holdsCPU(spec)
	if err := c.enter(holds); err != nil {
		o.Log.Debug("policy and sampling stay as they are until a restart", "err", err)
	}
	c.sparing = holds && preemptionHere() == preempts
	if err := c.attachAll(); err != nil {
		return nil, errors.Join(err, c.close())
	}
	return c, nil
}

// shortVerifierError keeps the verifier's last line and leaves out the log.
func shortVerifierError(err error) error {
	var v *ebpf.VerifierError
	if errors.As(err, &v) && len(v.Log) > 0 {
		last := v.Log[len(v.Log)-1]
		for i := len(v.Log) - 1; i >= 0 && (last == "" || strings.HasPrefix(last, "processed ") ||
			strings.HasPrefix(last, "stack depth") || strings.HasPrefix(last, "subprog ") || strings.HasPrefix(last, "verification time")); i-- {
			last = v.Log[i]
		}
		return &rejected{v.Cause, last}
	}
	return err
}

// Which constants an object must have.
const (
	everyConstant = true
	someConstants = false // those that its programs read
)

func setConstants(spec *ebpf.CollectionSpec, o Options, every bool) error {
	var edges uint64
	for _, e := range o.Policy.Edges {
		edges |= e.bit()
	}
	for name, value := range map[string]any{
		"sampler_parent_based": boolByte(o.Sampling.ParentBased),
		"sampler_threshold":    sampleThreshold(o.Sampling.Ratio),
		"sampler_marks":        boolByte(o.Sampling.Marks),
		"rule_letters":         o.Sampling.letters(),
		"limit_interval_ns":    o.Sampling.limitInterval(),
		"inject_headers":       uint8(o.Policy.Inject),
		"trust_restricted":     boolByte(!everyone(o.Policy.Trust)),
		"edge_names":           edges,
		"attribute_count":      uint8(len(o.Policy.Attributes)),
		"discover":             boolByte(o.Selector != nil),
		"go_writes":            boolByte(o.goWrites),
	} {
		v, ok := spec.Variables[name]
		switch {
		case !ok && every && name != "go_writes": // the Go object's own
			return fmt.Errorf("set constant %s: not in the BPF object", name)
		case !ok:
			continue
		}
		if err := v.Set(value); err != nil {
			return fmt.Errorf("set constant %s: %w", name, err)
		}
	}
	return nil
}

// fillMaps writes what the programs read, before any of them runs.
func fillMaps(coll *ebpf.Collection, o Options) error {
	for i := range coll.Maps["slots"].MaxEntries() {
		if err := coll.Maps["idle"].Put(nil, i); err != nil {
			return fmt.Errorf("fill the queue of slots: %w", err)
		}
	}
	return errors.Join(o.Policy.apply(coll.Maps), o.Sampling.apply(coll.Maps))
}

func boolByte(b bool) uint8 {
	if b {
		return 1
	}
	return 0
}

func attach(p *ebpf.Program, s *ebpf.ProgramSpec) (link.Link, error) {
	if s.Type == ebpf.Kprobe {
		if strings.HasPrefix(s.SectionName, "kretprobe/") {
			// Blocking receives hold an instance each; the default of a
			// few per CPU would lose calls silently.
			return link.Kretprobe(s.AttachTo, p, &link.KprobeOptions{RetprobeMaxActive: 4096})
		}
		return link.Kprobe(s.AttachTo, p, nil)
	}
	return link.AttachTracing(link.TracingOptions{Program: p})
}

// tryHook attaches a program of two instructions where the way of capture would:
// the real ones take the verifier a while.
func tryHook(way Capture) error {
	switch way {
	case CaptureFentry:
		return probe.Fentry("tcp_sendmsg")
	case CaptureKprobe:
		return probe.Kprobe("tcp_sendmsg")
	case CaptureTracepoint:
		return probe.TracepointBTF("sock_send_length")
	}
	return nil
}

// loadAny tries the ways of capture in order, or the one asked for.
func loadAny(o Options) (*collection, error) {
	if _, err := btf.LoadKernelSpec(); err != nil {
		return nil, fmt.Errorf("read the kernel's BTF (/sys/kernel/btf/vmlinux): %w; use a kernel built with CONFIG_DEBUG_INFO_BTF=y", err)
	}
	ways := []Capture{CaptureFentry, CaptureKprobe, CaptureTracepoint}
	if o.Capture != CaptureAny {
		ways = []Capture{o.Capture}
	}
	var tried []string
	for _, way := range ways {
		var c *collection
		err := tryHook(way)
		if err == nil {
			c, err = load(o, way)
		}
		if err == nil {
			return c, nil
		}
		o.failed.add(string(way), err)
		o.Log.Debug("capture not available", "capture", way, "err", err)
		// The library guesses at a limit that loadAny has lifted already.
		why := strings.ReplaceAll(err.Error(), " (MEMLOCK may be too low, consider rlimit.RemoveMemlock)", "")
		tried = append(tried, fmt.Sprintf("%s: %s", way, why))
	}
	return nil, fmt.Errorf("no way to see sends and receives works on this kernel (%s); run `weft doctor` for what is missing",
		strings.Join(tried, "; "))
}

// close detaches and frees; links first, so that no program runs on maps that
// nobody reads.
func (c *collection) close() error {
	errs := []error{c.letGo()}
	for _, d := range c.entries {
		errs = append(errs, d.close())
	}
	clear(c.entries)
	c.Close()
	return errors.Join(errs...)
}
