package loader

import (
	"cmp"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/prometheus/procfs"
)

// tcpEstablished is TCP_ESTABLISHED in /proc/net/tcp.
const tcpEstablished = 1

// Inspection is what the loader sees of a running process.
type Inspection struct {
	PID         uint32
	Exe         string
	Args        []string
	Cgroup      string // cgroup v2 path; "" if there is no hierarchy
	Started     time.Time
	Threads     int
	Ports       []uint16
	Connections []Connection
	Runtime     Runtime
	OpenSSL     string   // file mapped, "" if none is seen
	Unread      []string // what could not be read, with the reason

	process *process
}

// Connection is an established TCP connection that a process holds.
type Connection struct {
	FD            int
	Local, Remote netip.AddrPort
	// Server says that somebody in that network namespace listens on the local
	// port. Otherwise the process is taken for the client, and the connection
	// is adopted when the process is selected.
	Server bool
}

// NoProcessError says that a process cannot be inspected, on one line.
type NoProcessError struct {
	PID uint32
	Why string
}

func (e *NoProcessError) Error() string { return fmt.Sprintf("process %d %s", e.PID, e.Why) }

// Inspect reads what selecting a process would look at. It attaches nothing.
// Without root the descriptors and environment of other users' processes stay
// unread, and Unread says so. The error is a *NoProcessError if there is no such
// process, none that runs a program, or none that may be seen.
func Inspect(pid uint32) (*Inspection, error) {
	p, err := readProcess(pid)
	if err != nil {
		return nil, noProcess(pid, err)
	}
	proc, err := procfs.NewProc(int(pid))
	if err != nil {
		return nil, noProcess(pid, err)
	}
	stat, err := proc.Stat()
	if err != nil {
		return nil, noProcess(pid, err)
	}
	started, err := stat.StartTime()
	if err != nil {
		return nil, fmt.Errorf("read start of %d: %w", pid, err)
	}
	i := &Inspection{
		PID: pid, Exe: p.exe, Args: p.args, Cgroup: p.cgroup, Threads: stat.NumThreads,
		Started: time.Unix(0, int64(started*1e9)).Round(10 * time.Millisecond), process: p,
	}
	if _, err := proc.Environ(); err != nil {
		i.unread("environment", err)
	}
	i.sockets()
	i.libraries(proc)
	return i, nil
}

func noProcess(pid uint32, err error) error {
	dir := fmt.Sprintf("/proc/%d", pid)
	switch _, gone := os.Stat(dir); {
	case errors.Is(gone, os.ErrNotExist):
		return &NoProcessError{pid, "does not exist"}
	case errors.Is(err, os.ErrPermission):
		return &NoProcessError{pid, "belongs to somebody else: run as root"}
	case errors.Is(err, os.ErrNotExist):
		return &NoProcessError{pid, "is a kernel thread or has ended: it runs no program"}
	}
	return err
}

func (i *Inspection) unread(what string, err error) {
	why := err.Error()
	if errors.Is(err, os.ErrPermission) {
		why = "needs root"
	}
	i.Unread = append(i.Unread, what+": "+why)
}

// Service is the service.name that spans of this process would carry, given the
// configured one ("" if none), and what decides it.
func (i *Inspection) Service(configured string) (name, from string) {
	name = i.process.describe(configured, i.process.start, nil).Service
	switch {
	case configured != "":
		from = "targets"
	case i.process.env[envService] != "":
		from = "OTEL_SERVICE_NAME"
	case parseResource(i.process.env[envResource])["service.name"] != "":
		from = "OTEL_RESOURCE_ATTRIBUTES"
	default:
		from = "executable"
	}
	return name, from
}

// Candidate is the process as a selector is asked about it.
func (i *Inspection) Candidate() Candidate {
	return Candidate{PID: i.PID, Exe: i.Exe, Args: joinArgs(i.Args), Cgroup: i.Cgroup, Ports: i.Ports}
}

// sockets lists ports and connections, by the rule that adoption uses.
func (i *Inspection) sockets() {
	fds, err := sockets(i.PID)
	if err != nil {
		i.unread("descriptors", err)
		return
	}
	listening, err := listeners(i.PID)
	if err != nil {
		i.unread("sockets", err)
		return
	}
	ports := map[uint16]bool{}
	for _, port := range listening {
		ports[port] = true
	}
	established, err := connections(i.PID)
	if err != nil {
		i.unread("connections", err)
	}
	for fd, inode := range fds {
		if port, ok := listening[inode]; ok {
			i.Ports = append(i.Ports, port)
		}
		if c, ok := established[inode]; ok {
			c.FD, c.Server = fd, ports[c.Local.Port()]
			i.Connections = append(i.Connections, c)
		}
	}
	slices.Sort(i.Ports)
	i.Ports = slices.Compact(i.Ports)
	slices.SortFunc(i.Connections, func(a, b Connection) int { return cmp.Compare(a.FD, b.FD) })
}

// connections are the established TCP connections in the network namespace of a
// process, by socket inode.
func connections(pid uint32) (map[uint64]Connection, error) {
	fs, err := procfs.NewFS(fmt.Sprintf("/proc/%d", pid))
	if err != nil {
		return nil, fmt.Errorf("open /proc/%d: %w", pid, err)
	}
	out := map[uint64]Connection{}
	for _, read := range []func() (procfs.NetTCP, error){fs.NetTCP, fs.NetTCP6} {
		lines, err := read()
		if os.IsNotExist(err) { // IPv6 off
			continue
		}
		if err != nil {
			return nil, fmt.Errorf("read connections of %d: %w", pid, err)
		}
		for _, l := range lines {
			if l.St == tcpEstablished {
				out[l.Inode] = Connection{Local: endpoint(l.LocalAddr, l.LocalPort), Remote: endpoint(l.RemAddr, l.RemPort)}
			}
		}
	}
	return out, nil
}

func endpoint(ip net.IP, port uint64) netip.AddrPort {
	a, _ := netip.AddrFromSlice(ip) // 4 or 16 bytes, as procfs makes them
	return netip.AddrPortFrom(a.Unmap(), uint16(port))
}

// libraries looks at the executable and at what the process has mapped.
func (i *Inspection) libraries(proc procfs.Proc) {
	maps, err := proc.ProcMaps()
	if err != nil {
		i.unread("mapped libraries", err)
	}
	var files []string
	for _, m := range maps {
		if filepath.IsAbs(m.Pathname) && !slices.Contains(files, m.Pathname) {
			files = append(files, m.Pathname)
		}
	}
	for _, f := range files {
		if strings.HasPrefix(filepath.Base(f), "libssl.so") {
			i.OpenSSL = f
		}
	}
	// The link leads to the file even where its name means another one here.
	i.Runtime = runtimeOf(fmt.Sprintf("/proc/%d/exe", i.PID), i.Exe, files)
}
