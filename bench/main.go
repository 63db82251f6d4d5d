// Command bench measures what tracing costs on this machine: a net/http server
// and client on loopback, without weft and with it, interleaved; then relays that
// forward no context, of growing size. It prints tables and writes them to
// docs/performance.md.
//
//	go run ./bench
//
// It needs root and cgroup v2. The server and the client live in a cgroup of
// their own, and nothing is attached outside it but the hooks that are global by
// nature.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"os"
	"os/signal"
	"runtime"
	"syscall"
	"time"
)

// settings are what the user sets.
type settings struct {
	weft        string        // path of the agent; "" builds it
	doc         string        // file to write the table to; "" none
	rounds      int           // of every arm
	phase       time.Duration // of measuring, each load of a round
	warm        time.Duration // before each
	conns       int
	header      int     // bytes of a further request header
	rate        float64 // requests per second of the open loop; 0: half of what is reached without weft
	soakRate    float64
	soak        time.Duration
	quiet       float64 // load average to wait for
	quietWithin time.Duration
}

func main() {
	// Children are told to die with the thread that started them.
	runtime.LockOSThread()
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	if err := run(ctx, os.Args[1:]); err != nil {
		fmt.Fprintln(os.Stderr, "bench:", err)
		os.Exit(1)
	}
}

func run(ctx context.Context, args []string) error {
	if len(args) == 1 {
		switch args[0] {
		case roleServer:
			return server(os.Stdin, os.Stdout)
		case roleClient:
			return client(os.Stdin, os.Stdout)
		case roleSink:
			return sink(os.Stdin, os.Stdout)
		case roleRelay:
			return relay(os.Stdin, os.Stdout)
		}
	}
	s, err := parse(args)
	if errors.Is(err, flag.ErrHelp) {
		return nil
	}
	if err != nil {
		return err
	}
	if os.Geteuid() != 0 {
		return errors.New("tracing needs root: run `sudo make bench`")
	}
	return measure(ctx, s)
}

func parse(args []string) (settings, error) {
	var s settings
	f := flag.NewFlagSet("bench", flag.ContinueOnError)
	f.StringVar(&s.weft, "weft", "", "agent to measure (default: built from ./cmd/agent)")
	f.StringVar(&s.doc, "doc", "docs/performance.md", "file that gets the table; empty: none")
	f.IntVar(&s.rounds, "rounds", 7, "rounds of every arm")
	f.DurationVar(&s.phase, "phase", 4*time.Second, "measured time of each load of a round")
	f.DurationVar(&s.warm, "warm", 700*time.Millisecond, "load before that, not measured")
	f.IntVar(&s.conns, "conns", 32, "connections")
	f.IntVar(&s.header, "header", 0, "bytes of one more request header, such as a cookie")
	f.Float64Var(&s.rate, "rate", 0, "requests/s for latency (default: half of what is reached without weft)")
	f.Float64Var(&s.soakRate, "soak-rate", 20000, "requests/s of the soak")
	f.DurationVar(&s.soak, "soak", 30*time.Second, "length of the soak; 0: none")
	f.Float64Var(&s.quiet, "quiet", 1, "wait until the 1-minute load average is below this")
	f.DurationVar(&s.quietWithin, "quiet-within", 2*time.Minute, "wait no longer than this")
	if err := f.Parse(args); err != nil {
		return s, err
	}
	switch {
	case f.NArg() > 0:
		return s, fmt.Errorf("unknown argument %q; see -help", f.Arg(0))
	case s.rounds < 2:
		return s, fmt.Errorf("-rounds %d: a spread needs at least 2", s.rounds)
	case s.conns < 1:
		return s, fmt.Errorf("-conns %d: give at least 1", s.conns)
	case s.header < 0 || s.header > 8192:
		return s, fmt.Errorf("-header %d: give 0 to 8192 bytes", s.header)
	case s.phase < time.Second:
		return s, fmt.Errorf("-phase %v: give at least 1s, CPU time is counted in 10 ms", s.phase)
	}
	return s, nil
}
