package loader

import (
	"errors"
	"io/fs"
	"sync"

	"github.com/cilium/ebpf"
	"golang.org/x/sys/unix"
)

// What is attached, besides the ways of capture, and may be refused.
const (
	attachSkMsg      = "sk_msg"     // the injecting programs, and their self-test
	attachCgroup     = "cgroup"     // the sockops program, to the cgroup of a process
	attachConnection = "connection" // an open connection, to the sockhash
	attachProcess    = "process"    // a process, to the targets map
	attachRunTime    = "run_time"   // BPF_ENABLE_STATS
	attachGo         = "go"         // the programs for Go, loaded
	attachUprobe     = "uprobe"     // a Go program, from within
)

// Causes of Failure.
const (
	causePermission  = "permission"  // EPERM, EACCES
	causeVerifier    = "verifier"    // the kernel would not have the program
	causeUnsupported = "unsupported" // the kernel has no such thing
	causeLimit       = "limit"       // memory, descriptors, or a full map
	causeGone        = "gone"        // the process or its cgroup ended meanwhile
	causeBlocking    = "blocking"    // errBlocking
	causeSelfTest    = "self_test"   // errSelfTest
	causeOther       = "other"
)

// errSelfTest says that the injection path does not do what it should.
var errSelfTest = errors.New("self-test of the sk_msg path")

// errBlocking says of a connection that its reader may sleep in recv, from where
// the receive program would not wake it.
var errBlocking = errors.New("a blocking socket, and this kernel needs the receive program")

// Failure counts attachments refused for one cause.
type Failure struct {
	Attach string // a Capture, or sk_msg, cgroup, connection, process, run_time, go, uprobe
	Cause  string
	Value  uint64
}

// attachCauses are the causes that each kind of attachment can fail for.
func attachCauses() map[string][]string {
	load := []string{causePermission, causeVerifier, causeUnsupported, causeLimit, causeOther}
	return map[string][]string{
		string(CaptureFentry):     load,
		string(CaptureKprobe):     load,
		string(CaptureTracepoint): load,
		attachSkMsg:               append([]string{causeSelfTest}, load...),
		attachCgroup:              {causePermission, causeUnsupported, causeLimit, causeGone, causeOther},
		attachConnection:          {causePermission, causeUnsupported, causeLimit, causeGone, causeBlocking, causeOther},
		attachProcess:             {causePermission, causeLimit, causeOther},
		attachRunTime:             {causePermission, causeUnsupported, causeOther},
		attachGo:                  load,
		attachUprobe:              {causePermission, causeUnsupported, causeLimit, causeGone, causeOther},
	}
}

// attachFailures counts them; nil counts nothing. It is safe for concurrent use.
type attachFailures struct {
	mu     sync.Mutex
	counts map[Failure]uint64 // by Failure without Value
}

// addJoined counts each of the errors joined in err.
func (f *attachFailures) addJoined(attach string, err error) {
	joined, ok := err.(interface{ Unwrap() []error })
	if !ok {
		f.add(attach, err)
		return
	}
	for _, err := range joined.Unwrap() {
		f.add(attach, err)
	}
}

// add counts err; nil is none.
func (f *attachFailures) add(attach string, err error) {
	if f == nil || err == nil {
		return
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.counts == nil {
		f.counts = map[Failure]uint64{}
	}
	f.counts[Failure{Attach: attach, Cause: causeOf(attach, err)}]++
}

// forget forgets what was counted so far.
func (f *attachFailures) forget() {
	if f == nil {
		return
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	f.counts = nil
}

// all are the counts of every cause, zero ones too, so that the first failure
// shows as an increase.
func (f *attachFailures) all() []Failure {
	f.mu.Lock()
	defer f.mu.Unlock()
	var out []Failure
	for attach, causes := range attachCauses() {
		for _, cause := range causes {
			c := Failure{Attach: attach, Cause: cause}
			c.Value = f.counts[c]
			out = append(out, c)
		}
	}
	return out
}

// causeOf is a cause that attachCauses has for attach.
func causeOf(attach string, err error) string {
	is := func(targets ...error) bool {
		for _, target := range targets {
			if errors.Is(err, target) {
				return true
			}
		}
		return false
	}
	cause := causeOther
	var verifier *rejected
	switch {
	case is(errSelfTest):
		cause = causeSelfTest
	case is(errBlocking):
		cause = causeBlocking
	case errors.As(err, &verifier):
		cause = causeVerifier
	case is(unix.EPERM, unix.EACCES):
		cause = causePermission
	case is(unix.ENOMEM, unix.E2BIG, unix.ENOSPC, unix.EMFILE, unix.ENFILE):
		cause = causeLimit
	case is(unix.ESRCH, unix.EBADF, fs.ErrNotExist) && (attach == attachCgroup || attach == attachConnection || attach == attachUprobe):
		cause = causeGone
	case is(ebpf.ErrNotSupported, ErrNoCgroup2, unix.EOPNOTSUPP, unix.ENOSYS, unix.EINVAL, fs.ErrNotExist):
		cause = causeUnsupported
	}
	for _, have := range attachCauses()[attach] {
		if have == cause {
			return cause
		}
	}
	return causeOther
}

// rejected is a program that the verifier would not have.
type rejected struct {
	cause error  // the errno
	line  string // of the verifier, the last that says something
}

func (r *rejected) Error() string { return r.cause.Error() + ": " + r.line }
func (r *rejected) Unwrap() error { return r.cause }

// Failures are the attachments that failed so far, by cause.
func (l *Loader) Failures() []Failure { return l.failed.all() }
