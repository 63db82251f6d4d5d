package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"slices"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"weft/export"
	"weft/internal/config"
	"weft/internal/privilege"
	"weft/loader"
)

type doctorCmd struct {
	JSON bool `name:"json" help:"Print JSON."`
}

// Help is shown by `weft doctor --help`.
func (doctorCmd) Help() string {
	return `Tries what weft needs of this kernel, one capability at a time, and undoes it. WEFT_CAPTURE is honoured.

Exit status: 0 if requests would carry context, 1 if they would only be observed, 2 if nothing can run, and 2 where that cannot be decided for want of capabilities.`
}

// state is what became of one capability.
type state string

const (
	stateOK       state = "ok"
	stateDegraded state = "degraded" // works, at a price
	stateMissing  state = "missing"
	stateUnknown  state = "unknown" // could not be tried
)

// capability is one row: what was tried, how it went, what that means for the
// user, and how to mend it.
type capability struct {
	Name   string `json:"name"`
	State  state  `json:"state"`
	Why    string `json:"why"`
	Effect string `json:"effect"`
	Mend   string `json:"mend"`
}

// verdict sums the rows up.
type verdict string

const (
	propagates verdict = "propagates"
	observes   verdict = "observes"
	nothing    verdict = "nothing"
	undecided  verdict = "undecided"
)

// status is the exit status that says the same.
func (v verdict) status() int {
	switch v {
	case propagates:
		return exitOK
	case observes:
		return 1
	}
	return 2
}

type diagnosis struct {
	Kernel       string       `json:"kernel"`
	Verdict      verdict      `json:"verdict"`
	Capabilities []capability `json:"capabilities"`
}

// Names of the rows that the verdict or another row looks at.
const (
	capBTF       = "btf"
	capBPF       = "bpf"
	capRing      = "ring_buffer"
	capTPBTF     = "tp_btf"
	capCapture   = "capture"
	capPIDs      = "pid_namespace"
	capCgroup    = "cgroup_v2"
	capSockOps   = "sockops"
	capSkMsg     = "sk_msg"
	capInjection = "injection"
	capGoUprobes = "go.uprobes"
	capGoWrites  = "go.writes"
)

var (
	toObserve   = []string{capPIDs, capBTF, capBPF, capRing, capTPBTF, capCapture}
	toPropagate = []string{capCgroup, capSockOps, capSkMsg, capInjection}
)

// decide is the verdict on rows, and the row that decided it, nil if all is well.
// What is known to be missing decides before what is unknown.
func decide(rows []capability) (verdict, *capability) {
	find := func(names []string, bad state) *capability {
		for _, name := range names {
			i := slices.IndexFunc(rows, func(c capability) bool { return c.Name == name })
			if i >= 0 && rows[i].State == bad {
				return &rows[i]
			}
		}
		return nil
	}
	if c := find(toObserve, stateMissing); c != nil {
		return nothing, c
	}
	if c := find(toObserve, stateUnknown); c != nil {
		return undecided, c
	}
	if c := find(toPropagate, stateMissing); c != nil {
		return observes, c
	}
	if c := find(toPropagate, stateUnknown); c != nil {
		return undecided, c
	}
	return propagates, nil
}

// patience tells the user after two seconds that weft is still at work; call stop
// when it is not. After stop nothing is written any more.
func patience(s *streams) (stop func()) {
	said := make(chan struct{})
	timer := time.AfterFunc(2*time.Second, func() {
		defer close(said)
		fmt.Fprintln(s.err, "weft: still trying; loading BPF programs takes its time on this machine") //nolint:errcheck // only for patience
	})
	return func() {
		if !timer.Stop() {
			<-said
		}
	}
}

func printJSON(w io.Writer, v any) error {
	encoder := json.NewEncoder(export.PlainJSON(w))
	encoder.SetIndent("", "  ")
	encoder.SetEscapeHTML(false)
	return encoder.Encode(v)
}

// Run is `weft doctor`.
func (d *doctorCmd) Run(ctx context.Context, s *streams) error {
	c, err := config.Load("", os.Environ())
	if err != nil {
		return usage(err)
	}
	stop := patience(s)
	e := &examination{ctx: ctx, config: c, forced: loader.Capture(c.Capture), namespace: privilege.UserNamespace()}
	if e.held, err = privilege.Effective(); err != nil {
		return usage(err)
	}
	found, err := e.run()
	stop()
	if err != nil {
		return usage(err)
	}
	if d.JSON {
		err = printJSON(s.out, found)
	} else {
		_, err = s.out.Write(found.text(paint(s.out)))
	}
	if err != nil {
		return fmt.Errorf("print: %w", err)
	}
	if status := found.Verdict.status(); status != exitOK {
		return &exitStatus{status: status}
	}
	return nil
}

// examination tries capabilities in order; later ones look at earlier results.
type examination struct {
	ctx    context.Context // ends between two attempts
	config *config.Config
	forced loader.Capture
	held   privilege.Set // capabilities
	// namespace is weft's user namespace if that makes them worthless, else "".
	namespace string
	refused   string // capabilities without which nothing is tried, "" if there are none
	release   string // of the kernel
	rows      []capability
	chosen    loader.Capture // the way of capture that works, CaptureAny if none does
	// injection is what injectionRow found, nil if it found no working path.
	injection *loader.Injection
}

func (e *examination) run() (*diagnosis, error) {
	var uname unix.Utsname
	if err := unix.Uname(&uname); err != nil {
		return nil, fmt.Errorf("ask uname: %w", err)
	}
	machine := unix.ByteSliceToString(uname.Machine[:])
	e.release = unix.ByteSliceToString(uname.Release[:])
	steps := []func() capability{
		func() capability { return kernelRow(e.release, machine) },
	}
	for _, use := range privilege.Uses() {
		steps = append(steps, func() capability { return e.privilegeRow(use) })
	}
	steps = append(steps, pidNamespaceRow, btfRow, e.bpfRow, e.ringRow, e.tracepointBTFRow)
	for _, way := range captureWays {
		steps = append(steps, func() capability { return e.wayRow(way) })
	}
	steps = append(steps, e.captureRow, e.memlockRow, e.cgroupRow, e.sockOpsRow, e.skMsgRow, e.injectionRow, e.livenessRow, e.goUprobesRow, e.goWritesRow, e.pidfdRow, bpfFileSystemRow, e.kubernetesRow)
	for _, step := range steps {
		if e.ctx.Err() != nil {
			return nil, errors.New("doctor: interrupted; nothing is left behind")
		}
		e.rows = append(e.rows, step())
	}
	d := &diagnosis{Kernel: e.release, Capabilities: e.rows}
	d.Verdict, _ = decide(e.rows)
	return d, nil
}

// text is the report for people.
func (d *diagnosis) text(p palette) []byte {
	var b bytes.Buffer
	width := 0
	for _, c := range d.Capabilities {
		width = max(width, len(c.Name))
	}
	indent := strings.Repeat(" ", width+4)
	for _, c := range d.Capabilities {
		fmt.Fprintf(&b, "%s %-*s  %s\n", p.mark(c.State), width, c.Name, visible(c.Why))
		if c.State == stateOK || c.State == stateUnknown { // what blocks the unknown ones stands above
			continue
		}
		if c.Effect != "" {
			fmt.Fprintf(&b, "%s%s\n", indent, p.dim("so: "+visible(c.Effect)))
		}
		if c.Mend != "" {
			fmt.Fprintf(&b, "%s%s\n", indent, p.dim("mend: "+visible(c.Mend)))
		}
	}
	fmt.Fprintf(&b, "\n%s\n", visible(d.sentence()))
	return b.Bytes()
}

// sentence is the verdict in words.
func (d *diagnosis) sentence() string {
	v, decided := decide(d.Capabilities)
	switch v {
	case propagates:
		return "weft works here: requests are seen, and carry context on the wire"
	case observes:
		return fmt.Sprintf("weft only observes here: requests are seen but carry no context (%s: %s)", decided.Name, decided.Why)
	case nothing:
		return fmt.Sprintf("weft cannot run here (%s: %s)", decided.Name, decided.Why)
	}
	return "not decided: " + runAsRoot
}
