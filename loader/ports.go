package loader

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"

	"github.com/prometheus/procfs"
)

// tcpListen is TCP_LISTEN in /proc/net/tcp.
const tcpListen = 10

// listeners maps socket inodes to listening ports in the network namespace of
// a process.
func listeners(pid uint32) (map[uint64]uint16, error) {
	fs, err := procfs.NewFS(filepath.Join("/proc", strconv.Itoa(int(pid))))
	if err != nil {
		return nil, fmt.Errorf("open /proc/%d: %w", pid, err)
	}
	out := map[uint64]uint16{}
	for _, read := range []func() (procfs.NetTCP, error){fs.NetTCP, fs.NetTCP6} {
		lines, err := read()
		if os.IsNotExist(err) { // IPv6 off
			continue
		}
		if err != nil {
			return nil, fmt.Errorf("read sockets of %d: %w", pid, err)
		}
		for _, l := range lines {
			if l.St == tcpListen {
				out[l.Inode] = uint16(l.LocalPort)
			}
		}
	}
	return out, nil
}

// sockets are the fd numbers of a process that are sockets, with their inodes.
func sockets(pid uint32) (map[int]uint64, error) {
	dir := filepath.Join("/proc", strconv.Itoa(int(pid)), "fd")
	entries, err := os.ReadDir(dir)
	if err != nil {
		return nil, fmt.Errorf("list descriptors of %d: %w", pid, err)
	}
	out := map[int]uint64{}
	for _, e := range entries {
		target, err := os.Readlink(filepath.Join(dir, e.Name()))
		if err != nil || !strings.HasPrefix(target, "socket:[") {
			continue
		}
		inode, err := strconv.ParseUint(strings.TrimSuffix(strings.TrimPrefix(target, "socket:["), "]"), 10, 64)
		fd, ferr := strconv.Atoi(e.Name())
		if err == nil && ferr == nil {
			out[fd] = inode
		}
	}
	return out, nil
}

// listeningPorts are the ports a process listens on. byNamespace caches
// listeners per network namespace for one scan; nil reads afresh. An error wraps
// os.ErrPermission if the process is kept from weft; one that is gone has none.
func listeningPorts(pid uint32, byNamespace map[string]map[uint64]uint16) ([]uint16, error) {
	ns, err := os.Readlink(filepath.Join("/proc", strconv.Itoa(int(pid)), "ns/net"))
	if err != nil {
		return nil, ifRefused(err)
	}
	inodes, ok := byNamespace[ns]
	if !ok {
		if inodes, err = listeners(pid); err != nil {
			return nil, ifRefused(err)
		}
		if byNamespace != nil {
			byNamespace[ns] = inodes
		}
	}
	if len(inodes) == 0 {
		return nil, nil
	}
	fds, err := sockets(pid)
	if err != nil {
		return nil, ifRefused(err)
	}
	var ports []uint16
	for _, inode := range fds {
		if port, ok := inodes[inode]; ok {
			ports = append(ports, port)
		}
	}
	return ports, nil
}

func ifRefused(err error) error {
	if errors.Is(err, os.ErrPermission) {
		return err
	}
	return nil
}
