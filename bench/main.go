// Command bench measures what tracing costs on this machine, without an agent, with
// weft, and with any other agent that it is given: one traced program between a load
// generator and a service (Go over HTTP/1, HTTP/2, TLS and gRPC, Flask, nginx); a
// client and a server that do nothing but be traced; context that is carried; what a
// probe in a program costs; a soak. It prints
// tables and writes them, with a plot, to docs/performance.md.
//
//	go run ./bench
//	go run ./bench -only go-http1,nginx -rounds 3 -load 2s
//	go run ./bench -quick -peer 'name=other:/opt/other --port {port}' -peer-ready 'other=line:ready'
//
// It needs root and cgroup v2. What is traced lives in a cgroup of its own, and
// nothing is attached outside it but the hooks that are global by nature.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"os/signal"
	"runtime"
	"slices"
	"strings"
	"syscall"
	"time"
)

// settings are what the user sets.
type settings struct {
	weft        string   // path of the agent; "" builds it
	doc         string   // file to write the tables to; "" none
	json        string   // file for the raw results; "" none
	plot        string   // picture of the hops; "" beside doc
	only        []string // sections; none: all
	peers       []peer
	rounds      int           // of every arm
	phase       time.Duration // of measuring, each load of a round
	warm        time.Duration // before each
	conns       int
	header      int           // bytes of a further request header
	rate        float64       // requests per second of the open loop; 0: half of what is reached without weft
	grace       time.Duration // for a peer to end when it is told to
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
		if play := role(args[0]); play != nil {
			return play(os.Stdin, os.Stdout)
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

// role is what a child of this program does; nil: no such role.
func role(name string) func(io.Reader, io.Writer) error {
	plays := map[string]func(io.Reader, io.Writer) error{
		roleClient: client, roleSink: sink, roleRelay: relay, roleGRPCServer: grpcServer, roleGRPCHop: grpcHop, roleTrapped: trapped,
	}
	for _, w := range wires {
		plays[roleServer+w.suffix()] = func(in io.Reader, out io.Writer) error { return server(in, out, w) }
		plays[roleHop+w.suffix()] = func(in io.Reader, out io.Writer) error { return httpHop(in, out, w) }
	}
	return plays[name]
}

// defaults are those of a run whose figures are to be believed; quick ones show that
// everything works.
func defaults() settings {
	return settings{doc: "docs/performance.md", rounds: 7, phase: 3 * time.Second, warm: 700 * time.Millisecond, conns: 32, grace: 10 * time.Second,
		soakRate: 20000, soak: 30 * time.Second, quiet: 1, quietWithin: 2 * time.Minute}
}

func quick(s settings) settings {
	s.doc, s.rounds, s.phase, s.warm, s.soak, s.quietWithin = "", 2, time.Second, 300*time.Millisecond, 3*time.Second, 0
	return s
}

func parse(args []string) (settings, error) {
	s := defaults()
	if slices.ContainsFunc(args, func(a string) bool { return a == "-quick" || a == "--quick" }) {
		s = quick(s)
	}
	f := flag.NewFlagSet("bench", flag.ContinueOnError)
	f.SetOutput(io.Discard) // errors are returned, one line each
	f.Bool("quick", false, "2 rounds of 1 s, a soak of 3 s, no waiting, no document: to see that it works (flags beside it win)")
	f.Func("only", "sections to measure, with commas between (default: all)", func(text string) error {
		s.only = append(s.only, strings.Split(text, ",")...)
		return nil
	})
	f.StringVar(&s.weft, "weft", "", "weft to measure (default: built from ./cmd/agent)")
	f.Func("peer", "another agent: `name=NAME:COMMAND`, run by sh before each of its loads; {port}, {pids}, {cgroup} are those of the traced program, {otlp} is the host:port of the receiver of spans; repeatable", func(text string) error {
		p, err := parsePeer(text)
		s.peers = append(s.peers, p)
		return err
	})
	f.Func("peer-ready", "when it is ready: `NAME=http://…` answers 200, NAME=line:TEXT is printed, NAME=10s has passed (default: 5s); behind its -peer", func(text string) error {
		return parsePeerReady(text, s.peers)
	})
	f.StringVar(&s.doc, "doc", s.doc, "file that gets the tables; empty: none")
	f.StringVar(&s.json, "json", "", "file for raw results, one JSON line a load")
	f.StringVar(&s.plot, "plot", "", "SVG of the hops (default: beside -doc, once all hops were measured)")
	f.IntVar(&s.rounds, "rounds", s.rounds, "rounds of every arm")
	f.DurationVar(&s.phase, "load", s.phase, "measured time of each load of a round")
	f.DurationVar(&s.warm, "warm", s.warm, "load before that, not measured")
	f.IntVar(&s.conns, "conns", s.conns, "connections")
	f.IntVar(&s.header, "header", 0, "bytes of one more request header, such as a cookie")
	f.Float64Var(&s.rate, "rate", 0, "requests/s for latency (default: half of what is reached without an agent)")
	f.Float64Var(&s.soakRate, "soak-rate", s.soakRate, "requests/s of the soak")
	f.DurationVar(&s.soak, "soak", s.soak, "length of the soak")
	f.Float64Var(&s.quiet, "quiet", s.quiet, "wait until the 1-minute load average is below this")
	f.DurationVar(&s.quietWithin, "quiet-within", s.quietWithin, "wait no longer than this")
	if err := f.Parse(args); errors.Is(err, flag.ErrHelp) {
		usageText(f, os.Stdout)
		return s, err
	} else if err != nil {
		return s, fmt.Errorf("%w; see -help", err)
	}
	if _, err := choose(s.only); err != nil {
		return s, err
	}
	for i, p := range s.peers {
		if slices.ContainsFunc(s.peers[:i], func(o peer) bool { return o.name == p.name }) {
			return s, fmt.Errorf("-peer: two of the name %s; give each its own", p.name)
		}
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
		return s, fmt.Errorf("-load %v: give at least 1s, or chance decides", s.phase)
	case s.warm < 0 || s.rate < 0:
		return s, errors.New("-warm and -rate: give 0 or more")
	case s.soak < time.Second || s.soakRate <= 0:
		return s, fmt.Errorf("-soak %v at %g/s: give at least 1s and a rate; -only leaves the soak out", s.soak, s.soakRate)
	case len(s.peers) > 0 && s.doc == defaults().doc:
		s.doc = "" // the page is about weft
	}
	return s, nil
}

// usageText lists sections and the time each takes, too.
func usageText(f *flag.FlagSet, out io.Writer) {
	f.SetOutput(out)
	fmt.Fprintf(out, "usage: go run ./bench [flags]\n\nsections, and what they take by default:\n")
	var all time.Duration
	for _, sec := range sections() {
		d := sec.takes(defaults())
		all += d
		fmt.Fprintf(out, "  %-14s %7s  %s\n", sec.name, minutes(d), sec.about)
	}
	fmt.Fprintf(out, "  %-14s %7s\n\n", "all", minutes(all))
	f.PrintDefaults()
}
