package e2e

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"testing"
	"time"
)

// TestMain records what weft finds on this machine before anything else uses
// it, whichever tests were chosen: results without it say little. The tests run
// even where that fails, and the whole then counts as failed.
func TestMain(m *testing.M) {
	err := recordDoctor(os.Getenv("WEFT_E2E_DOCTOR"), os.Getenv("WEFT_BIN"))
	status := m.Run()
	if err != nil {
		fmt.Fprintf(os.Stderr, "e2e: record weft doctor: %v\n", err)
		status = max(status, 1)
	}
	os.Exit(status)
}

// recordDoctor writes what `weft doctor --json` prints to file, and makes the
// folder of it, which WEFT_E2E_RESULTS usually shares. Without a file it does
// nothing. What the doctor finds is no failure here.
func recordDoctor(file, weft string) error {
	if file == "" {
		return nil
	}
	if weft == "" {
		return errors.New("WEFT_E2E_DOCTOR is set and WEFT_BIN is not: set it to the weft to ask")
	}
	if err := os.MkdirAll(filepath.Dir(file), 0o755); err != nil {
		return err
	}
	// Loading programs can take half a minute where the machine is emulated.
	ctx, cancel := context.WithTimeout(context.Background(), 5*time.Minute)
	defer cancel()
	cmd := exec.CommandContext(ctx, weft, "doctor", "--json")
	cmd.Env = weftEnv()
	cmd.Stderr = os.Stderr
	text, err := cmd.Output()
	var exit *exec.ExitError
	if err != nil && !errors.As(err, &exit) || len(text) == 0 {
		return fmt.Errorf("%s doctor --json: %w", weft, errors.Join(err, ctx.Err()))
	}
	return os.WriteFile(file, text, 0o644)
}
