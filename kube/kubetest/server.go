// Package kubetest is an API server for tests: as much of one as asks for pods.
package kubetest

import (
	"encoding/json"
	"encoding/pem"
	"fmt"
	"maps"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"
)

// Server answers for pods as the real one does: TLS and HTTP/2, list and
// watch, field selector, rights, bookmarks. It holds objects
// whole, so that what weft leaves out is there to be left out.
type Server struct {
	t testing.TB

	mu      sync.Mutex
	pods    map[string]map[string]any // by uid
	version int
	events  []apiEvent
	changed chan struct{} // closed and replaced at each event
	allowed map[string]bool
	token   string
	old     bool // knows nothing of sendInitialEvents
	mute    bool // accepts, and never answers
	asked   map[string]int

	address string
	http    *httptest.Server
	down    chan struct{} // closed when the present http server goes down
}

type apiEvent struct {
	version int
	Type    string         `json:"type"`
	Object  map[string]any `json:"object"`
}

// Token is what the kubeconfig shows.
const Token = "a-token"

// The verbs there are.
const (
	List  = "list"
	Watch = "watch"
)

// New starts a server that allows everything and holds nothing. The test's end
// stops it.
func New(t testing.TB) *Server {
	t.Helper()
	s := &Server{t: t, pods: map[string]map[string]any{}, version: 2000, changed: make(chan struct{}),
		allowed: map[string]bool{List: true, Watch: true}, token: Token, asked: map[string]int{}, address: "127.0.0.1:0"}
	s.Start()
	t.Cleanup(s.Stop)
	return s
}

// Start starts it again where it was.
func (s *Server) Start() {
	s.t.Helper()
	listener, err := (&net.ListenConfig{}).Listen(s.t.Context(), "tcp", s.address)
	if err != nil {
		s.t.Fatal(err)
	}
	s.address = listener.Addr().String()
	s.down = make(chan struct{})
	s.http = httptest.NewUnstartedServer(s.handler(s.down))
	s.http.Listener.Close() //nolint:errcheck // the one that httptest made
	s.http.Listener, s.http.EnableHTTP2 = listener, true
	s.http.StartTLS()
}

// Stop closes its port and all connections. What it holds stays.
func (s *Server) Stop() {
	if s.http == nil {
		return
	}
	close(s.down)
	s.http.CloseClientConnections()
	s.http.Close()
	s.http = nil
}

// Kubeconfig is a file that leads to the server.
func (s *Server) Kubeconfig() string {
	s.t.Helper()
	ca := pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: s.http.Certificate().Raw})
	path := filepath.Join(s.t.TempDir(), "kubeconfig")
	text := fmt.Sprintf(`apiVersion: v1
kind: Config
clusters: [{name: test, cluster: {server: "https://%s", certificate-authority-data: %q}}]
users: [{name: weft, user: {token: %s}}]
contexts: [{name: test, context: {cluster: test, user: weft}}]
current-context: test
`, s.address, base64(ca), Token)
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		s.t.Fatal(err)
	}
	return path
}

func base64(b []byte) string {
	text, err := json.Marshal(b) // as JSON has bytes
	if err != nil {
		panic(err)
	}
	return strings.Trim(string(text), `"`)
}

// Allow says whether requests of a verb are allowed.
func (s *Server) Allow(verb string, allowed bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.allowed[verb] = allowed
}

// SetToken sets the only token that is accepted.
func (s *Server) SetToken(token string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.token = token
}

// SetOld makes it one from before watches that begin with what there is.
func (s *Server) SetOld(old bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.old = old
}

// SetMute makes it accept requests and answer none.
func (s *Server) SetMute(mute bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.mute = mute
}

// Address is its host:port.
func (s *Server) Address() string { return s.address }

// Count is how often a verb was asked for.
func (s *Server) Count(verb string) int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.asked[verb]
}

// Put adds a pod, or changes it.
func (s *Server) Put(pod map[string]any) { s.event("", pod) }

// Remove deletes a pod.
func (s *Server) Remove(pod map[string]any) { s.event("DELETED", pod) }

func (s *Server) event(kind string, pod map[string]any) {
	s.mu.Lock()
	defer s.mu.Unlock()
	pod = Clone(pod)
	uid := Field(pod, "metadata", "uid").(string)
	s.version++
	pod["metadata"].(map[string]any)["resourceVersion"] = strconv.Itoa(s.version)
	_, known := s.pods[uid]
	switch {
	case kind == "DELETED":
		delete(s.pods, uid)
	case known:
		kind = "MODIFIED"
	default:
		kind = "ADDED"
	}
	if kind != "DELETED" {
		s.pods[uid] = pod
	}
	s.events = append(s.events, apiEvent{s.version, kind, pod})
	close(s.changed)
	s.changed = make(chan struct{})
}

// Clone is a deep copy of an object.
func Clone(o map[string]any) map[string]any {
	b, err := json.Marshal(o)
	if err != nil {
		panic(err)
	}
	var c map[string]any
	if err := json.Unmarshal(b, &c); err != nil {
		panic(err)
	}
	return c
}

// Field is what an object holds there, nil if nothing.
func Field(o map[string]any, path ...string) any {
	var v any = o
	for _, p := range path {
		m, ok := v.(map[string]any)
		if !ok {
			return nil
		}
		v = m[p]
	}
	return v
}

func (s *Server) handler(down chan struct{}) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		q := r.URL.Query()
		verb := List
		if q.Get("watch") == "true" || q.Get("watch") == "1" {
			verb = Watch
		}
		s.mu.Lock()
		s.asked[verb]++
		mute, allowed, token, old := s.mute, s.allowed[verb], s.token, s.old
		s.mu.Unlock()
		node, selected := strings.CutPrefix(q.Get("fieldSelector"), "spec.nodeName=")
		switch {
		case mute:
			select {
			case <-down:
			case <-r.Context().Done():
			}
		case r.URL.Path != "/api/v1/pods" || r.Method != http.MethodGet || !selected:
			s.t.Errorf("asked for %s %s", r.Method, r.URL)
			status(w, http.StatusNotFound, "NotFound", "the server could not find the requested resource")
		case r.Header.Get("Authorization") != "Bearer "+token:
			status(w, http.StatusUnauthorized, "Unauthorized", "Unauthorized")
		case !allowed:
			status(w, http.StatusForbidden, "Forbidden", fmt.Sprintf(
				`pods is forbidden: User "system:serviceaccount:weft:weft" cannot %s resource "pods" in API group "" at the cluster scope`, verb))
		case verb == List:
			s.list(w, node)
		case old && q.Has("sendInitialEvents"):
			status(w, http.StatusUnprocessableEntity, "Invalid",
				`ListOptions.meta.k8s.io "" is invalid: sendInitialEvents: Forbidden: sendInitialEvents is forbidden for watch unless the WatchList feature gate is enabled`)
		default:
			s.watch(w, r, node, down)
		}
	})
}

func status(w http.ResponseWriter, code int, reason, message string) {
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(code)
	json.NewEncoder(w).Encode(map[string]any{"kind": "Status", "apiVersion": "v1", "metadata": map[string]any{}, //nolint:errcheck // the client may be gone
		"status": "Failure", "message": message, "reason": reason, "details": map[string]any{"kind": "pods"}, "code": code})
}

func (s *Server) list(w http.ResponseWriter, node string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	items := []map[string]any{}
	for _, uid := range slices.Sorted(maps.Keys(s.pods)) {
		if Field(s.pods[uid], "spec", "nodeName") == node {
			items = append(items, s.pods[uid])
		}
	}
	w.Header().Set("Content-Type", "application/json")
	json.NewEncoder(w).Encode(map[string]any{"kind": "PodList", "apiVersion": "v1", //nolint:errcheck // the client may be gone
		"metadata": map[string]any{"resourceVersion": strconv.Itoa(s.version)}, "items": items})
}

func (s *Server) watch(w http.ResponseWriter, r *http.Request, node string, down chan struct{}) {
	w.Header().Set("Content-Type", "application/json")
	encoder := json.NewEncoder(w)
	q := r.URL.Query()
	from, _ := strconv.Atoi(q.Get("resourceVersion"))
	send := func(e apiEvent) {
		if e.Type == "BOOKMARK" || Field(e.Object, "spec", "nodeName") == node {
			encoder.Encode(e) //nolint:errcheck // the client may be gone
		}
	}
	if q.Get("sendInitialEvents") == "true" {
		s.mu.Lock()
		for _, uid := range slices.Sorted(maps.Keys(s.pods)) {
			send(apiEvent{Type: "ADDED", Object: s.pods[uid]})
		}
		from = s.version
		s.mu.Unlock()
		send(apiEvent{Type: "BOOKMARK", Object: map[string]any{"kind": "Pod", "apiVersion": "v1", "metadata": map[string]any{
			"resourceVersion": strconv.Itoa(from), "annotations": map[string]any{"k8s.io/initial-events-end": "true"}}}})
	}
	w.WriteHeader(http.StatusOK)
	w.(http.Flusher).Flush()
	end := make(<-chan time.Time)
	if seconds, err := strconv.Atoi(q.Get("timeoutSeconds")); err == nil {
		end = time.After(time.Duration(seconds) * time.Second)
	}
	for {
		s.mu.Lock()
		changed := s.changed
		for _, e := range s.events {
			if e.version > from {
				from = e.version
				send(e)
			}
		}
		s.mu.Unlock()
		w.(http.Flusher).Flush()
		select {
		case <-changed:
		case <-down:
			return
		case <-end:
			return
		case <-r.Context().Done():
			return
		}
	}
}

// ReadObject reads an object from a file.
func ReadObject(t testing.TB, file string) map[string]any {
	t.Helper()
	b, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	var o map[string]any
	if err := json.Unmarshal(b, &o); err != nil {
		t.Fatal(err)
	}
	return o
}
