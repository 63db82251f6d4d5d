package loader

import (
	"errors"
	"fmt"
	"log/slog"
	"os"
	"sync/atomic"

	"github.com/prometheus/procfs"

	"weft/internal/privilege"
)

// kernelThread is PF_KTHREAD in the flags of /proc/PID/stat.
const kernelThread = 0x00200000

// hidden counts processes that /proc keeps from weft: whether a target selects them
// cannot be known, so they are not traced. Those that start after the scan count only
// if there were none.
type hidden struct {
	// lacks is the capability that would show them, "" if weft holds all that
	// there is to hold and something else keeps them (AppArmor, SELinux, hidepid=).
	lacks string
	count atomic.Int64
	one   string // the last of them, for people
	told  bool   // the scan is over
}

// lacking is the capability for want of which processes may be hidden from weft.
func lacking() string {
	held, err := privilege.Effective()
	if err != nil {
		return ""
	}
	for _, use := range privilege.Lacking(held) {
		if c := use.Capability; c == privilege.SysPtrace || c == privilege.DACReadSearch {
			return c.String()
		}
	}
	return ""
}

// unread says whether weft was refused to read a process of some program, and notes
// it if so.
func (f *finder) unread(pid uint32, err error) bool {
	if !errors.Is(err, os.ErrPermission) || f.selector == nil {
		return false
	}
	p, perr := procfs.NewProc(int(pid))
	if perr != nil {
		return false
	}
	stat, perr := p.Stat()
	if perr != nil || stat.Flags&kernelThread != 0 {
		return false
	}
	if f.hidden.told && f.hidden.count.Load() > 0 {
		return true // the same ones come again and again (Loader.Relook)
	}
	if f.hidden.lacks != "" {
		f.failed.add(attachProcess, err)
	}
	f.hidden.count.Add(1)
	f.hidden.one = fmt.Sprintf("%d (%s)", pid, stat.Comm)
	if f.hidden.told {
		f.hidden.tell(f.log)
	}
	return true
}

// tell says once, in one line, how many processes are hidden, and what hides them.
// Where nothing more can be granted, somebody wants it so.
func (h *hidden) tell(log *slog.Logger) {
	h.told = true
	n := h.count.Load()
	switch {
	case n == 0:
	case h.lacks == "":
		log.Info("processes that may not be read are not traced, whether or not targets select them",
			"processes", n, "one", h.one, "mend", "AppArmor, SELinux or hidepid= of /proc keeps them: allow weft to look at them")
	default:
		log.Warn("processes that may not be read are not traced, whether or not targets select them",
			"processes", n, "one", h.one, "mend", "grant "+h.lacks+", or run as root")
	}
}

// unready is why weft cannot know that every selected process is attached, "" if it
// can. A process that something else than a missing capability keeps is none of the
// targets' as far as anyone can tell, and holds nothing up.
func (h *hidden) unready() string {
	n := h.count.Load()
	if h.lacks == "" || n == 0 {
		return ""
	}
	return fmt.Sprintf("%d processes may not be read for want of %s: those that targets select are not traced", n, h.lacks)
}
