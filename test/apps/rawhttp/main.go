// Command rawhttp speaks HTTP/1 by plain blocking system calls, to put bytes
// on the wire as a test wants them.
//
//	rawhttp server ADDR…                                  answers and reports what came
//	rawhttp client                                        runs steps from standard input
//	rawhttp load ADDR CONNECTIONS SEED DURATION [PAUSE]   random requests, checked
package main

import (
	"fmt"
	"os"
	"strconv"
	"time"
)

func main() {
	if err := run(os.Args[1:]); err != nil {
		fmt.Fprintln(os.Stderr, "rawhttp:", err)
		os.Exit(1)
	}
}

func run(args []string) error {
	switch {
	case len(args) >= 2 && args[0] == "server":
		return serve(args[1:])
	case len(args) == 1 && args[0] == "client":
		return runSteps(os.Stdin, os.Stdout)
	case (len(args) == 5 || len(args) == 6) && args[0] == "load":
		connections, err := strconv.Atoi(args[2])
		if err != nil {
			return fmt.Errorf("number of connections: %w", err)
		}
		seed, err := strconv.ParseUint(args[3], 10, 64)
		if err != nil {
			return fmt.Errorf("seed: %w", err)
		}
		duration, err := time.ParseDuration(args[4])
		if err != nil {
			return fmt.Errorf("duration: %w", err)
		}
		var pause time.Duration
		if len(args) == 6 {
			if pause, err = time.ParseDuration(args[5]); err != nil {
				return fmt.Errorf("pause: %w", err)
			}
		}
		return load(os.Stdout, args[1], connections, seed, duration, pause)
	}
	return fmt.Errorf("usage: rawhttp server ADDR… | client | load ADDR CONNECTIONS SEED DURATION [PAUSE]")
}
