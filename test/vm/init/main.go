//go:build linux

// Command init is PID 1 of the test VM: it makes the file systems a Linux
// program expects, runs one command, reports how it ended, powers off.
package main

import (
	"archive/tar"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"weft/test/vm/job"
)

func main() {
	if os.Getpid() != 1 {
		fmt.Fprintln(os.Stderr, "init: runs as PID 1 of a test VM only")
		os.Exit(2)
	}
	if err := boot(); err != nil {
		fmt.Fprintln(os.Stderr, "weft init:", err) // the kernel console
	}
	unix.Sync()
	if err := unix.Reboot(unix.LINUX_REBOOT_CMD_POWER_OFF); err != nil {
		fmt.Fprintln(os.Stderr, "weft init: power off:", err)
	}
	select {} // PID 1 must not return
}

func boot() error {
	warnings := mountAll()
	report, err := openRaw(job.ReportConsole)
	if err != nil {
		return err
	}
	send := json.NewEncoder(report)
	text, err := os.ReadFile(job.Path)
	if err != nil {
		return fmt.Errorf("read job: %w", err)
	}
	var j job.Job
	if err := json.Unmarshal(text, &j); err != nil {
		return fmt.Errorf("parse job: %w", err)
	}
	warnings = append(warnings, prepare(&j)...)
	for _, w := range warnings {
		if err := send.Encode(job.Report{Warning: w}); err != nil {
			return fmt.Errorf("report: %w", err)
		}
	}
	if err := send.Encode(job.Report{Up: up()}); err != nil {
		return fmt.Errorf("report: %w", err)
	}
	exit, err := run(&j)
	if err != nil {
		return err
	}
	if err := send.Encode(job.Report{Exit: exit}); err != nil {
		return fmt.Errorf("report: %w", err)
	}
	if err := collect(report, j.Collect); err != nil {
		return err
	}
	return drain(report)
}

func up() *job.Up {
	var u unix.Utsname
	if err := unix.Uname(&u); err != nil {
		return &job.Up{Kernel: err.Error()}
	}
	text, _ := os.ReadFile("/proc/uptime") // absent: reported as 0
	first, _, _ := strings.Cut(string(text), " ")
	seconds, _ := strconv.ParseFloat(first, 64)
	return &job.Up{Kernel: unix.ByteSliceToString(u.Release[:]), UptimeSeconds: seconds}
}

// run starts the command and reaps everything until it ends. os/exec is not
// used to wait: PID 1 inherits orphans, and must take any child that comes.
func run(j *job.Job) (*job.Exit, error) {
	console, err := openRaw(job.OutputConsole)
	if err != nil {
		return nil, err
	}
	r, w, err := os.Pipe()
	if err != nil {
		return nil, fmt.Errorf("make pipe: %w", err)
	}
	copied := make(chan struct{})
	go func() {
		defer close(copied)
		_, _ = io.Copy(console, r) // ends with the pipe; a console that fails has no one to tell
	}()
	null, err := os.Open(os.DevNull)
	if err != nil {
		return nil, fmt.Errorf("open stdin: %w", err)
	}
	for _, kv := range j.Env { // LookPath reads our own PATH
		k, v, _ := strings.Cut(kv, "=")
		if err := os.Setenv(k, v); err != nil {
			return nil, fmt.Errorf("set %s: %w", k, err)
		}
	}
	path, err := exec.LookPath(j.Argv[0])
	if err == nil {
		var pid int
		pid, err = syscall.ForkExec(path, j.Argv, &syscall.ProcAttr{
			Dir: j.Dir, Env: j.Env,
			Files: []uintptr{null.Fd(), w.Fd(), w.Fd()},
			Sys:   &syscall.SysProcAttr{Setsid: true},
		})
		if err == nil {
			w.Close()
			exit := wait(pid, time.Duration(j.TimeoutSeconds)*time.Second)
			// What it left running may hold the pipe open: give that a second.
			select {
			case <-copied:
			case <-time.After(time.Second):
			}
			return exit, drain(console)
		}
	}
	fmt.Fprintf(w, "weft vm: start %s: %v\n", j.Argv[0], err)
	w.Close()
	<-copied
	return &job.Exit{Status: 127}, drain(console)
}

func wait(pid int, timeout time.Duration) *job.Exit {
	exit := &job.Exit{}
	ended := make(chan struct{})
	timedOut := make(chan bool, 1)
	go func() {
		select {
		case <-ended:
			timedOut <- false
			return
		case <-time.After(timeout):
			timedOut <- true
		}
		// A Go program answers SIGQUIT with the stacks of all goroutines.
		_ = unix.Kill(-pid, unix.SIGQUIT) // gone already: nothing to do
		select {
		case <-ended:
		case <-time.After(5 * time.Second):
			_ = unix.Kill(-pid, unix.SIGKILL)
		}
	}()
	for {
		var status unix.WaitStatus
		got, err := unix.Wait4(-1, &status, 0, nil)
		if errors.Is(err, unix.EINTR) || err == nil && got != pid {
			continue
		}
		switch {
		case err != nil:
			exit.Status = 127
		case status.Signaled():
			exit.Status, exit.Signal = 128+int(status.Signal()), unix.SignalName(status.Signal())
		default:
			exit.Status = status.ExitStatus()
		}
		close(ended)
		exit.TimeOut = <-timedOut
		return exit
	}
}

// collect sends the files as a tar archive with their guest paths.
func collect(w io.Writer, paths []string) error {
	archive := tar.NewWriter(w)
	for _, root := range paths {
		err := filepath.WalkDir(root, func(path string, entry fs.DirEntry, err error) error {
			if errors.Is(err, fs.ErrNotExist) || err == nil && !entry.Type().IsRegular() {
				return nil // the host names what did not come
			}
			if err != nil {
				return err
			}
			text, err := os.ReadFile(path)
			if err != nil {
				return err
			}
			header := &tar.Header{Name: strings.TrimPrefix(path, "/"), Mode: 0o644, Size: int64(len(text)), ModTime: time.Now()}
			if err := archive.WriteHeader(header); err != nil {
				return err
			}
			_, err = archive.Write(text)
			return err
		})
		if err != nil {
			return fmt.Errorf("collect %s: %w", root, err)
		}
	}
	return archive.Close()
}

// openRaw opens a serial line that changes no byte.
func openRaw(name string) (*os.File, error) {
	f, err := os.OpenFile("/dev/"+name, os.O_RDWR|unix.O_NOCTTY, 0)
	if err != nil {
		return nil, fmt.Errorf("open console: %w", err)
	}
	t, err := unix.IoctlGetTermios(int(f.Fd()), unix.TCGETS)
	if err != nil {
		return nil, fmt.Errorf("read mode of %s: %w", name, err)
	}
	t.Iflag, t.Oflag, t.Lflag = 0, 0, 0
	t.Cflag = unix.CS8 | unix.CREAD | unix.CLOCAL | unix.B115200
	if err := unix.IoctlSetTermios(int(f.Fd()), unix.TCSETS, t); err != nil {
		return nil, fmt.Errorf("set mode of %s: %w", name, err)
	}
	return f, nil
}

// drain waits until the line has sent all (tcdrain).
func drain(f *os.File) error {
	if err := unix.IoctlSetInt(int(f.Fd()), unix.TCSBRK, 1); err != nil {
		return fmt.Errorf("drain %s: %w", f.Name(), err)
	}
	return nil
}
