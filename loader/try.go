package loader

import (
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
)

// TryCapture loads and attaches the programs of one way of capture as tracing
// would, and undoes it. No process is selected meanwhile.
func TryCapture(way Capture) error {
	c, err := load(Options{Capture: way, Log: slog.New(slog.DiscardHandler)}, way)
	if err != nil {
		return err
	}
	return c.close()
}

// Injection is how the injection path passed its self-test.
type Injection struct {
	// Receiving says that this kernel's FIONREAD is wrong in a sockmap, and
	// that the receive program mends it (bpf/inject/receive.h).
	Receiving bool
	// Liveness is nil if a request sent after the deadline went out unedited,
	// as every request does soon after a killed agent's last renewal.
	Liveness error
}

// TryInject loads the injecting programs beside those of one way of capture,
// puts a loopback pair of this process through the self-test that tracing starts
// with, then lets the deadline pass, and undoes it all. An error says why
// requests would be observed only.
func TryInject(way Capture) (_ Injection, err error) {
	log := slog.New(slog.DiscardHandler)
	coll, err := load(Options{Capture: way, Policy: Policy{Inject: HeaderTraceparent}, Sampling: Sampling{Ratio: 1}, Log: log}, way)
	if err != nil {
		return Injection{}, err
	}
	l := &Loader{log: log, coll: coll}
	defer func() {
		err = errors.Join(err, l.detach())
		err = errors.Join(err, coll.close())
	}()
	if err := l.startInjecting(); err != nil {
		return Injection{}, err
	}
	l.inject.stopRenewing()
	return Injection{Receiving: l.inject.receiving, Liveness: l.testDeadline()}, nil
}

// testDeadline sends a request that the self-test saw edited, after the
// deadline.
func (l *Loader) testDeadline() (err error) {
	targets, self := l.coll.Maps["targets"], uint32(os.Getpid())
	quiet := WeftWeftTarget{Flags: uint32(WeftWeftTargetFlagWEFT_TARGET_QUIET)}
	if err := targets.Put(self, quiet); err != nil {
		return fmt.Errorf("select own process: %w", err)
	}
	defer targets.Delete(self) //nolint:errcheck // the map goes next
	if err := l.inject.deadline(0); err != nil {
		return err
	}
	p, err := newPair(l.inject)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, p.close()) }()
	sent := fmt.Sprintf(selfTestHead, 0)
	if _, err := p.client.Write([]byte(sent)); err != nil {
		return fmt.Errorf("send: %w", err)
	}
	if err := p.client.CloseWrite(); err != nil {
		return fmt.Errorf("end sending: %w", err)
	}
	got, err := io.ReadAll(p.server)
	if err != nil {
		return fmt.Errorf("receive: %w", err)
	}
	if string(got) != sent {
		return errors.New("a request was edited after the deadline")
	}
	return nil
}
