package main

import (
	"bufio"
	"log/slog"
	"os"
	"path/filepath"

	"golang.org/x/sys/unix"
)

const slogWarn = slog.LevelWarn

// isForeground says whether weft runs in the foreground process group of its
// terminal, in which case the command got the terminal's signal already.
func isForeground() bool {
	group, err := unix.IoctlGetInt(int(os.Stdin.Fd()), unix.TIOCGPGRP)
	return err == nil && group == unix.Getpgrp()
}

// moveProcesses moves what is left in one cgroup to another.
func moveProcesses(from, to string) {
	f, err := os.Open(filepath.Join(from, "cgroup.procs"))
	if err != nil {
		return
	}
	defer f.Close() //nolint:errcheck // read only
	for lines := bufio.NewScanner(f); lines.Scan(); {
		// One that exits meanwhile needs no moving.
		os.WriteFile(filepath.Join(to, "cgroup.procs"), lines.Bytes(), 0o644) //nolint:errcheck,gosec // best effort
	}
}
