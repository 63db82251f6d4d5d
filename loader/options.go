// Package loader is weft's side of the kernel: it loads and attaches the BPF
// programs, finds the processes to trace, and turns ring records into events.
// It alone imports cilium/ebpf.
package loader

import (
	"io"
	"log/slog"
	"time"

	"weft/internal/event"
)

// Capture names a way to see sends and receives.
type Capture string

// Ways of capture, in the order in which they are tried.
const (
	CaptureAny        Capture = ""
	CaptureFentry     Capture = "fentry"     // BTF trampolines on tcp_sendmsg and tcp_recvmsg
	CaptureKprobe     Capture = "kprobe"     // the same functions
	CaptureTracepoint Capture = "tracepoint" // sock_send_length and sock_recv_length (Linux 6.3)
)

// Candidate is a process as the selector sees it.
type Candidate struct {
	PID    uint32
	Exe    string
	Args   string // joined by one space
	Cgroup string // cgroup v2 path
	Ports  []uint16
}

// Selector decides which processes are traced.
type Selector interface {
	// Select returns the service name configured for the entry that selects c
	// ("" if none is), and whether one does.
	Select(c Candidate) (service string, ok bool)
	// NeedsPorts says whether any entry asks for listening ports.
	NeedsPorts() bool
}

// Handler takes what the loader learns. All calls come from one goroutine.
type Handler interface {
	Process(*event.Process)
	ProcessExit(pid uint32, start uint64)
	Request(event.Request)
	Carried(event.Carried) // behind the Request it belongs to
	Route(event.Route)     // between Request and Response
	Response(event.Response)
	Tick(time.Time)
}

// Options say what to load and whom to trace.
type Options struct {
	Capture  Capture // CaptureAny: the first that loads and attaches
	Policy   Policy
	Sampling Sampling
	// Selector is asked about every process of the host; nil traces only
	// what Follow is told.
	Selector Selector
	// Attributes are the resource attributes of whatever a process runs in, such
	// as a container, given its cgroup v2 path; service.name among them is a name
	// for want of its own. What the process says of itself wins. The map is the
	// loader's; nil func: there are none. Called from Run's goroutine.
	Attributes func(pid uint32, cgroup string) map[string]string
	Handler    Handler
	Log        *slog.Logger
	// Standby attaches nothing before Run, beyond trying that it can be.
	Standby bool
	// Alone says that no other agent traces this host when Run begins, so that
	// connections which one before it left behind may be taken over.
	Alone bool
	// RunTime makes the kernel count the run time of BPF programs: all of this
	// host's, not weft's alone (countRunTime).
	RunTime bool
	// Record gets every ring record as it was read, for Replay; nil: none.
	Record io.Writer

	failed    *attachFailures // set by New
	injecting bool            // the injecting programs stay loaded, whatever Policy says
	goWrites  bool            // the memory of Go programs may be written
	letting   bool            // programs let go of their CPU and call no kernel function, whatever it has
}

// injects says whether anything may be written at all.
func (o *Options) injects() bool { return o.Policy.Inject != 0 || o.injecting }

// ringIdle and ringBusy are how long the reader sleeps on an empty ring at most and
// at least: records are written without waking it (a wake-up costs the traced
// program ten times the record), except those about processes.
const (
	ringIdle = 50 * time.Millisecond
	ringBusy = 5 * time.Millisecond
	// ringShare: it wakes up when one in so many bytes of the ring is taken.
	ringShare = 8
)

// The agent renews the deadline every livenessRenew; an injecting program stops
// livenessSpan after the last renewal. Below a second, as the README promises,
// and wide enough for an agent that waits for its turn on a loaded host.
const (
	livenessRenew = 150 * time.Millisecond
	livenessSpan  = 900 * time.Millisecond
)
