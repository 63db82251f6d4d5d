package e2e

import (
	"fmt"
	"io"
	"net/http"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"weft/test/e2e/truth"
	"weft/test/e2e/variant"
)

// goRoute is a request to test/apps/gorouters, and the routes it takes by chi, gin and
// gorilla/mux; "-": that router has no such case, "": none matches.
type goRoute struct {
	name, path    string
	chi, gin, mux string
}

var goRoutes = []goRoute{
	{"root", "/", "/", "/", "/"},
	{"root of a subrouter", "/users", "/users", "/users", "/users"},
	{"parameter", "/users/17", "/users/{id:[0-9]+}", "/users/:id", "/users/{id:[0-9]+}"},
	{"nested", "/v1/shops/7/items/9", "/v1/shops/{shop}/items/{item}", "/v1/shops/:shop/items/:item", "/v1/shops/{shop}/items/{item}"},
	{"rest of the path", "/files/a/b.txt", "/files/*", "/files/*path", "/files/"},
	{"context replaced", "/tenant/3", "/tenant/{id}", "/tenant/:id", "/tenant/{id}"},
	{"complete before the handler is", "/large/4", "/large/{id}", "/large/:id", "/large/{id}"},
	{"begun before the handler is done", "/slow/5", "/slow/{id}", "/slow/:id", "/slow/{id}"},
	{"goroutine of its own", "/later/6", "/later/{id}", "-", "-"},
	{"routed again", "/alias/8", "-", "/users/:id", "-"},
	{"gin within", "/gin/items/2", "/gin/items/:id", "-", "/gin/items/:id"},
	{"nowhere", "/nowhere", "", "", ""},
	{"nowhere below", "/v1/nowhere", "/v1/*", "", ""},
	{"not routed at all", "/denied", "", "", ""},
}

// goRouted is a running program of test/apps/gorouters, which serves by each router
// at an address of its own.
type goRouted struct {
	t       *testing.T
	g       *group
	p       *program
	version goVersion
	client  *http.Client
	routers []string // addresses, in the order of goRoute
}

func startGoRouted(t *testing.T, g *group, bin, protocol string, v goVersion) *goRouted {
	t.Helper()
	r := &goRouted{t: t, g: g, version: v, client: goClient(t, map[string]string{"http1": "http1", "h2c": "h2c-std"}[protocol])}
	for range 3 {
		r.routers = append(r.routers, fmt.Sprintf("127.0.0.1:%d", freePort(t)))
	}
	r.p = g.start("gorouters", launch{argv: []string{bin, "-listen", strings.Join(r.routers, ","), "-protocol", protocol}}, nil)
	for _, addr := range r.routers {
		r.p.listens(addr)
	}
	return r
}

// routed is a request that was answered.
type routed struct {
	name, want string
	status     int
}

// get sends one and returns what the router said of it.
func (r *goRouted) get(router int, path, id string) (route string, status int, err error) {
	resp, err := r.client.Get("http://" + r.routers[router] + path + "?id=" + id)
	if err != nil {
		return "", 0, err
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(resp.Body)
	if err != nil {
		return "", 0, err
	}
	route, _, _ = strings.Cut(string(body), "\n")
	// chi before 5.0.8 says /users/ where it now says /users.
	if router == 0 && route != "/" {
		route = strings.TrimSuffix(route, "/")
	}
	return route, resp.StatusCode, nil
}

// send makes n requests of each case to each router, 64 at a time. What the routers
// say must be what the test thinks.
func (r *goRouted) send(prefix string, n int) map[string]routed {
	r.t.Helper()
	type request struct {
		router int
		goRoute
		want string
	}
	var all []request
	for range n {
		for _, c := range goRoutes {
			for router, want := range []string{c.chi, c.gin, c.mux} {
				if want != "-" {
					all = append(all, request{router, c, want})
				}
			}
		}
	}
	out := map[string]routed{}
	var mu sync.Mutex
	var next atomic.Int64
	var wg sync.WaitGroup
	for range goConcurrency(r.t) {
		wg.Go(func() {
			for {
				i := int(next.Add(1)) - 1
				if i >= len(all) || r.t.Failed() {
					return
				}
				q := all[i]
				id := fmt.Sprintf("%s-%d", prefix, i)
				name := []string{"chi", "gin", "mux"}[q.router] + ", " + q.name
				said, status, err := r.get(q.router, q.path, id)
				if err != nil {
					r.t.Errorf("%s: %v", name, err)
					return
				}
				if said != q.want {
					r.t.Errorf("%s: the router says %q, the test %q", name, said, q.want)
				}
				// net/http's own pattern is what is left, and told since Go 1.23.
				if said == "" && r.version.minor >= 23 {
					said = "/"
				}
				mu.Lock()
				out[id] = routed{name, said, status}
				mu.Unlock()
			}
		})
	}
	wg.Wait()
	if r.t.Failed() {
		r.t.FailNow()
	}
	return out
}

// judge holds spans against what was sent.
func (r *goRouted) judge(sent map[string]routed, spans []truth.Span) {
	r.t.Helper()
	wrong := 0
	say := func(format string, args ...any) {
		if wrong++; wrong <= 20 {
			r.t.Errorf(format, args...)
		}
	}
	seen := map[string]bool{}
	for _, s := range spans {
		id := strings.TrimPrefix(s.Attr("url.query"), "id=")
		q, ok := sent[id]
		if !ok || seen[id] || s.Kind != "SERVER" {
			say("a span of nothing that was sent, or a second one: %s %s", s.Kind, id)
			continue
		}
		seen[id] = true
		name := "GET"
		if q.want != "" {
			name += " " + q.want
		}
		if got := s.Attr("http.route"); got != q.want || s.Name != name {
			say("%s (%d): http.route %q, name %q, want %q", q.name, q.status, got, s.Name, q.want)
		}
	}
	if len(seen) != len(sent) {
		say("%d spans for %d requests", len(seen), len(sent))
	}
	r.t.Logf("%d requests, %d spans with a wrong route or none", len(sent), wrong)
}

// TestGoRouters: http.route is what the router itself says, also where the response
// is complete before the handler, or begins after it, in another goroutine, and where
// one router is mounted in another.
func TestGoRouters(t *testing.T) {
	for _, c := range []struct {
		v        variant.Variant
		protocol string
	}{
		{variant.Routers("newest.mod", "", false), "http1"},
		{variant.Routers("newest.mod", "", true), "h2c"},
		{variant.Routers("", "1.19.13", true), "http1"},
		{variant.Routers("", "1.22.12", false), "http1"},
	} {
		t.Run(c.v.Name()+"/"+c.protocol, func(t *testing.T) {
			bin := buildGo(t, c.v)
			g, sink := newGroup(t), startSink(t)
			r := startGoRouted(t, g, bin, c.protocol, parseGo(t, c.v.Toolchain))
			a := startAgent(t, g, sink, agentOptions{})
			for i := 0; ; i++ {
				_, _, err := r.get(2, "/users/1", "probe")
				if err != nil {
					t.Fatal(err)
				}
				sink.Wait(1, patience(t, time.Second))
				if got := sink.Take(); len(got) == 1 && got[0].Attr("http.route") != "" {
					break
				}
				if i == 30 {
					t.Fatal("not followed from within")
				}
			}
			sent := r.send("m", scaled(t, 150))
			sink.Wait(len(sent), patience(t, 8*time.Second))
			time.Sleep(200 * time.Millisecond) // what should not come would come now
			r.judge(sent, sink.Take())
			r.p.kill()
			if lost := a.losses(); len(lost) > 0 {
				t.Errorf("lost: %v", lost)
			}
			a.stop()
		})
	}
}
