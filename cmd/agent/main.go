// Command weft keeps one request in one trace while it crosses programs nobody
// instrumented. This package is the only place where the parts are wired.
package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/signal"
	"strings"
	"syscall"

	"github.com/alecthomas/kong"

	"weft/export"
)

// Exit statuses of the contract in docs/cli.md.
const (
	exitOK       = 0
	exitError    = 1
	exitUsage    = 2
	exitNotFound = 127 // weft exec: CMD does not exist, as shells say it
	exitNotExec  = 126 // weft exec: CMD cannot be executed
)

type cli struct {
	Run     runCmd     `cmd:"" help:"Trace the processes the configuration selects, until SIGTERM or SIGINT."`
	Exec    execCmd    `cmd:"" help:"Run a command and print the traces of it and its descendants."`
	Doctor  doctorCmd  `cmd:"" help:"Say what this host supports, capability by capability."`
	Inspect inspectCmd `cmd:"" help:"Say what weft sees in a running process or an ELF file."`
	Version versionCmd `cmd:"" help:"Print version, commit, Go and supported kernels."`
}

// exitStatus is an error that carries an exit status; what it wraps, if
// anything, is printed on one line.
type exitStatus struct {
	status int
	err    error
}

func (e *exitStatus) Error() string {
	if e.err == nil {
		return fmt.Sprintf("exit status %d", e.status)
	}
	return e.err.Error()
}

func (e *exitStatus) Unwrap() error { return e.err }

func usage(err error) error { return &exitStatus{exitUsage, err} }

func main() {
	if err := export.CompressFast(); err != nil {
		os.Exit(report(os.Stderr, err))
	}
	os.Exit(run(os.Args[1:], os.Stdout, os.Stderr))
}

func run(args []string, stdout, stderr io.Writer) int {
	var c cli
	exited := -1
	parser, err := kong.New(&c, kong.Name("weft"),
		kong.Description("Keeps one request in one trace while it crosses programs nobody instrumented."),
		kong.UsageOnError(), kong.Writers(stdout, stderr),
		kong.Exit(func(status int) { exited = status }))
	if err != nil {
		return report(stderr, err)
	}
	parsed, err := parser.Parse(args)
	if exited >= 0 { // --help
		return exited
	}
	if err != nil {
		return report(stderr, usage(fmt.Errorf("%w; see `weft --help`", err)))
	}
	// The parser takes what it reads for UTF-8. The command's arguments are its own.
	if n := len(c.Exec.Command); n > 0 {
		c.Exec.Command = args[len(args)-n:]
	}
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGTERM, syscall.SIGINT)
	defer stop()
	parsed.BindTo(ctx, (*context.Context)(nil))
	parsed.Bind(&streams{out: stdout, err: stderr})
	return report(stderr, parsed.Run())
}

// streams are where commands print.
type streams struct{ out, err io.Writer }

// report prints an error, a line for each of those joined, and returns the exit
// status.
func report(w io.Writer, err error) int {
	if err == nil {
		return exitOK
	}
	status := exitError
	var carried *exitStatus
	if errors.As(err, &carried) {
		status = carried.status
		if carried.err == nil {
			return status
		}
	}
	for line := range strings.Lines(err.Error()) {
		fmt.Fprintf(w, "weft: %s\n", visible(strings.TrimRight(line, "\n"))) //nolint:errcheck // nowhere to report it
	}
	return status
}
