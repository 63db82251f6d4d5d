package e2e

import (
	"bufio"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"weft/test/e2e/otlpsink"
	"weft/test/e2e/truth"
)

// goEnd is a case of test/apps/goends, and how its two spans must end.
type goEnd struct {
	name           string
	server, client goOutcome
	bare           bool // nothing can be added to its headers
	own            bool // it has a traceparent of its own
}

// goOutcome is http.response.status_code, "" if none came, and error.type, "" for
// success.
type goOutcome struct{ status, failed string }

var (
	wentWell = goOutcome{"200", ""}
	goEnds   = []goEnd{
		{name: "ok", server: wentWell, client: wentWell},
		{name: "post", server: wentWell, client: wentWell},
		{name: "head", server: wentWell, client: wentWell},
		{name: "hints", server: goOutcome{"201", ""}, client: goOutcome{"201", ""}},
		{name: "trailers", server: wentWell, client: wentWell},
		{name: "absent", server: goOutcome{"404", ""}, client: goOutcome{"404", "404"}},
		{name: "fails", server: goOutcome{"503", "503"}, client: goOutcome{"503", "503"}},
		// Answered before its body came: the stream is reset without an error.
		{name: "early", server: goOutcome{"413", ""}, client: goOutcome{"413", "413"}},
		{name: "cancel", server: goOutcome{"", "cancelled"}, client: goOutcome{"", "cancelled"}},
		{name: "deadline", server: goOutcome{"", "cancelled"}, client: goOutcome{"", "timeout"}},
		{name: "timeout", server: goOutcome{"", "cancelled"}, client: goOutcome{"", "timeout"}},
		{name: "panic", server: goOutcome{"", "connection_reset"}, client: goOutcome{"", "connection_reset"}},
		{name: "panic-late", server: goOutcome{"202", "connection_reset"}, client: goOutcome{"202", "connection_reset"}},
		// Read in part and let go, which is the client's right.
		{name: "close", server: goOutcome{"200", "cancelled"}, client: wentWell},
		{name: "many", server: wentWell, client: wentWell},
		{name: "own", server: wentWell, client: wentWell, own: true},
		{name: "own-many", server: wentWell, client: wentWell, own: true},
		{name: "large", server: wentWell, client: wentWell},
		{name: "huge", server: wentWell, client: wentWell, bare: true},
	}
)

// goEndsOwn is what the cases with a traceparent of their own send.
const goEndsOwn = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"

// TestGoStreamEnds looks at the two spans of requests over HTTP/2 that end in every
// way a stream can, and at the traceparent that the server saw. Once the program's
// constants are not in memory when they are needed, as under memory pressure.
func TestGoStreamEnds(t *testing.T) {
	for _, arm := range []string{"h2c", "h2", "h2c-paged-out"} {
		t.Run(arm, func(t *testing.T) {
			protocol, pagedOut := strings.CutSuffix(arm, "-paged-out")
			p, a, sink, control := startGoEnds(t, protocol)
			for _, c := range goEnds {
				t.Run(c.name, func(t *testing.T) {
					if pagedOut {
						went, err := pageOut(p.cmd.Process.Pid)
						if err != nil {
							t.Fatal(err)
						}
						if went == 0 {
							t.Fatal("its constants stayed in memory")
						}
					}
					said := goEndsCall(t, control, c.name)
					sink.Wait(2, patience(t, 8*time.Second))
					c.check(t, sink.Take(), said, protocol)
				})
			}
			if lost := a.losses(); len(lost) > 0 {
				t.Errorf("lost: %v", lost)
			}
			a.stop()
		})
	}
}

// startGoEnds starts test/apps/goends, and weft, until it follows the program from within.
func startGoEnds(t *testing.T, protocol string) (p *program, a *agent, sink *otlpsink.Sink, control string) {
	t.Helper()
	g, sink := newGroup(t), startSink(t)
	control = filepath.Join(t.TempDir(), "control")
	p = g.start("goends", launch{argv: []string{goProgram(t, "./test/apps/goends"), "-protocol", protocol, "-control", control}}, nil)
	p.until(func() error {
		_, err := os.Stat(control)
		return err
	})
	a = startAgent(t, g, sink, agentOptions{})
	// The programs for HTTP/2 are loaded when the first process needs them.
	for i := 0; len(sink.Take()) == 0; i++ {
		if i == 30 {
			t.Fatal("not followed from within")
		}
		goEndsCall(t, control, "ok")
		sink.Wait(2, patience(t, time.Second))
	}
	return p, a, sink, control
}

// TestGoKilled: of a request over HTTP/2 on whose both ends is a program that is killed
// both spans come, as of a connection that was closed, and nothing counts as lost.
func TestGoKilled(t *testing.T) {
	p, a, sink, control := startGoEnds(t, "h2c")
	c, err := net.Dial("unix", control)
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	if _, err := fmt.Fprintln(c, "hang"); err != nil {
		t.Fatal(err)
	}
	a.until(func() error {
		if n := a.metrics()["weft_open_exchanges"]; n != 2 {
			return fmt.Errorf("%v exchanges are open, want 2", n)
		}
		return nil
	})
	p.kill()
	sink.Wait(2, patience(t, 15*time.Second))
	spans := sink.Take()
	if len(spans) != 2 || spans[0].Kind == spans[1].Kind {
		t.Fatalf("%d spans, want a server's and a client's: %+v", len(spans), spans)
	}
	for _, s := range spans {
		if got := s.Attr("error.type"); got != "connection_closed" || s.Attr("http.response.status_code") != "" {
			t.Errorf("%s: error %q, %+v", s.Kind, got, s)
		}
	}
	if lost := a.losses(); len(lost) > 0 {
		t.Errorf("lost: %v", lost)
	}
	a.stop()
}

func goEndsCall(t *testing.T, control, name string) string {
	t.Helper()
	c, err := net.Dial("unix", control)
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	if err := c.SetDeadline(time.Now().Add(patience(t, 20*time.Second))); err != nil {
		t.Fatal(err)
	}
	if _, err := fmt.Fprintln(c, name); err != nil {
		t.Fatal(err)
	}
	said, err := bufio.NewReader(c).ReadString('\n')
	if err != nil {
		t.Fatal(err)
	}
	return strings.TrimSpace(said)
}

func (c goEnd) check(t *testing.T, spans []truth.Span, said, protocol string) {
	t.Helper()
	find := func(kind string) *truth.Span {
		i := slices.IndexFunc(spans, func(s truth.Span) bool { return s.Kind == kind })
		if i < 0 || len(spans) != 2 {
			t.Fatalf("%d spans, want a server's and a client's: %+v (%s)", len(spans), spans, said)
		}
		return &spans[i]
	}
	server, client := find("SERVER"), find("CLIENT")
	for s, want := range map[*truth.Span]goOutcome{server: c.server, client: c.client} {
		got := goOutcome{s.Attr("http.response.status_code"), s.Attr("error.type")}
		if got != want {
			t.Errorf("%s: status and error %q, want %q (%s)", s.Kind, got, want, said)
		}
		if path := s.Attr("url.path") + s.Attr("url.full"); !strings.HasSuffix(path, "/"+c.name) {
			t.Errorf("%s: %q, want /%s", s.Kind, path, c.name)
		}
	}
	if route := server.Attr("http.route"); c.server.failed == "" && route != "/{case}" {
		t.Errorf("http.route %q, want /{case}", route)
	}
	saw, answered := strings.CutPrefix(said, "saw")
	if saw = strings.TrimSpace(saw); !answered {
		saw = ""
	}
	wrote := fmt.Sprintf("00-%s-%s-%02x", client.TraceID, client.SpanID, client.Flags)
	switch {
	case c.own:
		if saw != goEndsOwn || client.Propagation != "own" || server.ParentID != goEndsOwn[36:52] || client.ParentID != goEndsOwn[36:52] {
			t.Errorf("its own traceparent: the server saw %q, client %s of %s, server of %s", saw, client.Propagation, client.ParentID, server.ParentID)
		}
	case client.Propagation == "injected":
		if answered && saw != wrote || c.bare {
			t.Errorf("the server saw %q, the client's span is %q", saw, wrote)
		}
		if server.ParentID != client.SpanID || server.TraceID != client.TraceID {
			t.Errorf("server span of %s %s, want %s %s", server.TraceID, server.ParentID, client.TraceID, client.SpanID)
		}
	case client.Propagation == "refused" && (c.bare || protocol == "h2"):
		// Without writes into memory there is no way through TLS.
		if saw != "" || server.ParentID != "" {
			t.Errorf("refused, but the server saw %q, parent %q", saw, server.ParentID)
		}
	default:
		t.Errorf("propagation %q (%s)", client.Propagation, said)
	}
}
