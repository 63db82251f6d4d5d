package e2e

import (
	"fmt"
	"path/filepath"
	"syscall"
	"testing"
	"time"

	"weft/test/e2e/truth"
)

// TestGoExec: of a command of `weft exec` the first request counts, over TLS and
// HTTP/2 too.
func TestGoExec(t *testing.T) {
	bin := buildGo(t, goLocal)
	for _, protocol := range []string{"http1", "https", "h2", "h2x", "h2c"} {
		t.Run(protocol, func(t *testing.T) {
			addr := fmt.Sprintf("127.0.0.1:%d", freePort(t))
			p := weft(t, "exec", "--format", "json", "--", bin, "-role", "back", "-listen", addr, "-protocol", protocol,
				"-control", filepath.Join(t.TempDir(), "control"))
			var stdout output
			p.cmd.Stdout = &stdout
			p.run()
			p.listens(addr)
			time.Sleep(patience(t, 500*time.Millisecond)) // it may have begun before it was attached to
			client := goClient(t, protocol)
			resp, err := client.Get(scheme(protocol) + "://" + addr + "/leaf?id=first&call=a")
			if err != nil {
				t.Fatal(err)
			}
			_ = resp.Body.Close() // it has none
			client.CloseIdleConnections()
			p.wanted.Store(true)
			if err := p.cmd.Process.Signal(syscall.SIGTERM); err != nil {
				t.Fatal(err)
			}
			_ = p.wait(patience(t, 15*time.Second)) // by the signal that was passed on
			spans, _ := splitSpans(t, p.out.String())
			if len(spans) != 1 || spans[0].Kind != truth.Server || spans[0].ID() != "first" {
				t.Errorf("%d spans, want the server's of the first request: %v\n%s", len(spans), spans, p.out.tail())
			}
		})
	}
}
