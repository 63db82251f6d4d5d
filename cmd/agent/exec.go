package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"strconv"
	"syscall"
	"time"

	"github.com/prometheus/procfs"

	"weft/export"
	"weft/internal/config"
	"weft/internal/selfstats"
	"weft/loader"
)

type execCmd struct {
	OTLP    string   `name:"otlp" help:"Send spans to this OTLP endpoint too." placeholder:"URL"`
	Format  string   `help:"How traces are printed: tree or json (one span per line)." enum:"tree,json" default:"tree"`
	Config  string   `help:"YAML configuration file." placeholder:"FILE" type:"path"`
	Verbose bool     `short:"v" help:"Say how each parent was decided."`
	Record  string   `help:"Write the kernel's raw records to this file, to be replayed in a test." placeholder:"FILE" type:"path"`
	Command []string `arg:"" passthrough:"" help:"Command to run, after --." name:"cmd"`
}

// Run is `weft exec`: it exits with CMD's status.
func (e *execCmd) Run(ctx context.Context, s *streams) error {
	command := e.Command
	if len(command) > 0 && command[0] == "--" {
		command = command[1:]
	}
	if len(command) == 0 {
		return usage(errors.New("exec: no command; write it after --, e.g. weft exec -- python3 app.py"))
	}
	c, err := config.Load(e.Config, os.Environ())
	if err != nil {
		return usage(err)
	}
	path, err := exec.LookPath(command[0])
	if err != nil && !errors.Is(err, exec.ErrDot) {
		return notFound(command[0], err)
	}
	if err := requirePrivilege("exec"); err != nil {
		return err
	}
	if os.Getenv("WEFT_LOG_LEVEL") == "" && e.Config == "" {
		c.Log.Level = slogWarn // the command's own output is what matters here
	}
	log := newLogger(s.err, c.Log)
	warnOfAgent(log)
	logConditions(ctx, log, slog.LevelInfo) // its own children weft sees without most of them
	stats := selfstats.New()
	sinks, err := e.sinks(c, stats, s)
	if err != nil {
		return usage(err)
	}
	// Nothing scrapes a laptop's command line: no listener unless asked for.
	if os.Getenv("WEFT_TELEMETRY_LISTEN") == "" && e.Config == "" {
		c.Telemetry.Listen = ""
	}
	var record io.Writer
	if e.Record != "" {
		f, err := os.Create(e.Record)
		if err != nil {
			return usage(fmt.Errorf("exec: --record: %w", err))
		}
		defer f.Close() //nolint:errcheck // the loader reports what it could not write
		record = f
	}
	a, err := newAgent(ctx, c, nil, role{}, sinks, record, stats, log)
	if err != nil {
		return err
	}
	status, err := e.trace(a, path, command, s)
	err = errors.Join(err, a.close())
	if rows, serr := stats.Summary(); serr == nil && len(rows) > 0 {
		a.summary(s)
	}
	err = errors.Join(err, a.loader.Close())
	if status != exitOK { // CMD's comes before weft's own
		return &exitStatus{status: status, err: err}
	}
	return err
}

func notFound(name string, err error) error {
	if errors.Is(err, os.ErrPermission) {
		return &exitStatus{exitNotExec, fmt.Errorf("exec: %s is not executable", name)}
	}
	return &exitStatus{exitNotFound, fmt.Errorf("exec: %s: command not found", name)}
}

func (e *execCmd) sinks(c *config.Config, stats *selfstats.Stats, s *streams) (export.Fanout, error) {
	sinks, err := otlpSinks(c, stats, newLogger(s.err, c.Log), e.OTLP)
	if err != nil {
		return nil, err
	}
	if e.Format == "tree" {
		return append(sinks, export.NewTree(s.err, export.TreeOptions{Verbose: e.Verbose}, stats)), nil
	}
	convert, err := export.NewConverter(export.ConverterOptions{Version: version})
	if err != nil {
		return nil, err
	}
	return append(sinks, export.NewJSON(s.err, convert, stats)), nil
}

// trace runs the command in a cgroup of its own, so that socket programs touch
// nothing else, and returns its exit status.
func (e *execCmd) trace(a *agent, path string, command []string, s *streams) (int, error) {
	group, err := newGroup(a.log)
	if err != nil && !errors.Is(err, loader.ErrNoCgroup2) {
		return exitError, err
	}
	defer group.remove()
	unfollow, err := a.loader.FollowChildren(group.path)
	if err != nil {
		return exitError, err
	}
	ctx, stop := context.WithCancel(context.Background())
	defer stop()
	traced := make(chan error, 1)
	go func() { traced <- a.loader.Run(ctx) }()

	cmd := exec.Command(path, command[1:]...) //nolint:gosec // running it is the purpose
	cmd.Args[0] = command[0]
	cmd.Stdin, cmd.Stdout, cmd.Stderr = os.Stdin, s.out, s.err
	if group.dir != nil {
		cmd.SysProcAttr = &syscall.SysProcAttr{UseCgroupFD: true, CgroupFD: int(group.dir.Fd())}
	}
	// The terminal sends SIGINT to the whole foreground group; others are
	// passed on. weft stays until the command ends.
	signals := make(chan os.Signal, 16)
	signal.Notify(signals, syscall.SIGINT, syscall.SIGTERM, syscall.SIGHUP, syscall.SIGQUIT, syscall.SIGUSR1, syscall.SIGUSR2)
	defer signal.Stop(signals)
	// A reader that goes away (`2>&1 | head`) must not end weft before it has
	// cleaned up. Notified rather than ignored: CMD must not inherit that.
	signal.Notify(make(chan os.Signal, 1), syscall.SIGPIPE)
	select {
	case <-a.loader.PrepareGo(path): // its first requests count
	case <-signals:
		stop()
		return exitError, errors.Join(errors.New("interrupted before the command began"), unfollow(), <-traced)
	}
	err = cmd.Start()
	err = errors.Join(err, unfollow())
	if err != nil {
		stop()
		return exitNotExec, errors.Join(fmt.Errorf("start %s: %w", command[0], err), <-traced)
	}
	go func() {
		for sig := range signals {
			if sig != syscall.SIGINT || !isForeground() {
				cmd.Process.Signal(sig) //nolint:errcheck // it may have ended
			}
		}
	}()
	err = cmd.Wait()
	close(signals)
	// Connections that its end closed are reported within moments.
	time.Sleep(50 * time.Millisecond)
	stop()
	var exited *exec.ExitError
	if errors.As(err, &exited) {
		err = nil
	}
	return statusOf(cmd.ProcessState), errors.Join(err, <-traced)
}

// statusOf is the command's status as a shell would give it.
func statusOf(p *os.ProcessState) int {
	if p == nil {
		return exitError
	}
	if w, ok := p.Sys().(syscall.WaitStatus); ok && w.Signaled() {
		return 128 + int(w.Signal())
	}
	return p.ExitCode()
}

// group is a cgroup v2 below weft's own; the zero group is none.
type group struct {
	path string // within the hierarchy
	full string
	dir  *os.File
}

func newGroup(log *slog.Logger) (*group, error) {
	mount, err := loader.Cgroup2Mount()
	if err != nil {
		return &group{}, err
	}
	self, err := procfs.Self()
	if err != nil {
		return &group{}, fmt.Errorf("open /proc/self: %w", err)
	}
	all, err := self.Cgroups()
	if err != nil {
		return &group{}, fmt.Errorf("read own cgroup: %w", err)
	}
	own := "/"
	for _, g := range all {
		if g.HierarchyID == 0 {
			own = g.Path
		}
	}
	g := &group{path: filepath.Join(own, "weft-exec-"+strconv.Itoa(os.Getpid()))}
	g.full = filepath.Join(mount, g.path)
	if err := os.Mkdir(g.full, 0o755); err != nil && !errors.Is(err, os.ErrExist) {
		// Delegation forbids it, or the mount is read-only. weft's own cgroup
		// does as well: programs there that are not selected pay for a hook
		// that returns at once.
		log.Warn("the command gets no cgroup of its own; hooks are put on weft's", "cgroup", own, "err", err)
		return &group{path: own, full: filepath.Join(mount, own)}, nil
	}
	if g.dir, err = os.Open(g.full); err != nil {
		return &group{}, fmt.Errorf("open the command's cgroup: %w", err)
	}
	return g, nil
}

// remove removes the cgroup; descendants that live on (daemons) move to its
// parent first.
func (g *group) remove() {
	if g.dir == nil {
		return
	}
	g.dir.Close() //nolint:errcheck // read only
	moveProcesses(g.full, filepath.Dir(g.full))
	for range 20 { // exiting processes leave a moment later
		if os.Remove(g.full) == nil {
			return
		}
		time.Sleep(10 * time.Millisecond)
	}
}
