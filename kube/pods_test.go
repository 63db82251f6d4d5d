package kube

import (
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"k8s.io/klog/v2"

	"weft/kube/kubetest"
)

// followed are the processes that Follow's callback got.
type followed struct {
	mu   sync.Mutex
	pids []uint32
}

func (f *followed) add(pids []uint32) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.pids = append(f.pids, pids...)
}

func (f *followed) has(pid uint32) bool {
	f.mu.Lock()
	defer f.mu.Unlock()
	return slices.Contains(f.pids, pid)
}

// follow follows the server's node-a.
func follow(t *testing.T, s *kubetest.Server, proc string) (*Pods, *followed, *logLines) {
	t.Helper()
	lines, got := &logLines{}, &followed{}
	p := New(Options{Kubeconfig: s.Kubeconfig(), Node: "node-a", UserAgent: "weft/test", Proc: proc, Log: lines.logger()})
	if err := p.Follow(got.add); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(p.Close)
	return p, got, lines
}

// eventually waits for what must come about; how long it took is returned.
func eventually(t *testing.T, what string, true func() bool) time.Duration {
	t.Helper()
	start := time.Now()
	for time.Since(start) < 2*time.Minute {
		if true() {
			return time.Since(start)
		}
		time.Sleep(5 * time.Millisecond)
	}
	t.Fatalf("not within two minutes: %s", what)
	return 0
}

// promptly is eventually, and fails if it takes longer than no retry or resync
// would explain: usually it is milliseconds, on a busy machine seconds.
func promptly(t *testing.T, what string, true func() bool) {
	t.Helper()
	if took := eventually(t, what, true); took > 8*time.Second {
		t.Errorf("%s took %v, want it at once", what, took)
	}
}

func TestFollow(t *testing.T) {
	for _, old := range []bool{false, true} {
		t.Run(fmt.Sprintf("old=%t", old), func(t *testing.T) {
			s := kubetest.New(t)
			s.SetOld(old)
			cart, db := sample(t, "deployment"), sample(t, "statefulset")
			elsewhere := sample(t, "cronjob")
			elsewhere["spec"].(map[string]any)["nodeName"] = "node-b"
			s.Put(cart)
			s.Put(elsewhere)
			cartUID, dbUID := kubetest.Field(cart, "metadata", "uid").(string), kubetest.Field(db, "metadata", "uid").(string)
			proc := fakeProc(t, map[string]string{"1": "0::/init.scope\n", "100": inPod(cartUID, ident("a")), "200": inPod(dbUID, ident("d"))})
			p, got, lines := follow(t, s, proc)

			promptly(t, "the first list", func() bool { return got.has(100) })
			if p.Len() != 1 || !p.Following() {
				t.Errorf("%d pods, following %t", p.Len(), p.Following())
			}
			if lists := s.Count(verbList); (lists > 0) != old {
				t.Errorf("%d lists, from an old server: %t", lists, old)
			}

			// A pod is known before its containers are reported.
			statuses := db["status"].(map[string]any)["containerStatuses"]
			delete(db["status"].(map[string]any), "containerStatuses")
			s.Put(db)
			promptly(t, "a pod that appears", func() bool { return got.has(200) })
			path := "/kubepods/burstable/pod" + dbUID + "/" + ident("d")
			if c, _ := p.Find(200, path); c.Pod == nil || c.Pod.StatefulSet != "db" || c.Name != "" {
				t.Errorf("%+v", c)
			}
			db["status"].(map[string]any)["containerStatuses"] = statuses
			s.Put(db)
			promptly(t, "its container", func() bool { c, _ := p.Find(200, path); return c.Name == "postgres" })

			// A change that touches nothing weft looks at is nobody's business.
			got.mu.Lock()
			before := len(got.pids)
			got.mu.Unlock()
			db["status"].(map[string]any)["podIP"] = "10.244.1.99"
			s.Put(db)
			db["metadata"].(map[string]any)["labels"].(map[string]any)["tier"] = "gold"
			s.Put(db)
			promptly(t, "a label that changes", func() bool { c, _ := p.Find(200, path); return c.Pod.Labels["tier"] == "gold" })
			promptly(t, "its process", func() bool { got.mu.Lock(); defer got.mu.Unlock(); return len(got.pids) > before })

			s.Remove(db)
			promptly(t, "a pod that goes", func() bool { return p.Len() == 1 })
			if c, ok := p.Find(200, path); !ok || c.Pod != nil || c.ID != ident("d") {
				t.Errorf("still known: %+v, %t", c, ok)
			}
			if w := lines.with("level=WARN"); w != nil {
				t.Errorf("%q", w)
			}
			if n := lines.with("following the pods of this node"); len(n) != 1 || !strings.Contains(n[0], "pods=1") {
				t.Errorf("%q", n)
			}
		})
	}
}

// A StatefulSet's next pod has the same name.
func TestSameNameAnotherPod(t *testing.T) {
	s := kubetest.New(t)
	db := sample(t, "statefulset")
	s.Put(db)
	p, _, _ := follow(t, s, t.TempDir())
	promptly(t, "the first", func() bool { return p.Len() == 1 })
	next := kubetest.Clone(db)
	next["metadata"].(map[string]any)["uid"] = uid
	s.Remove(db)
	s.Put(next)
	promptly(t, "the second", func() bool {
		c, _ := p.Find(1, "/kubepods/pod"+uid+"/"+id)
		return c.Pod != nil && p.Len() == 1
	})
}

func TestForbidden(t *testing.T) {
	for _, c := range []struct {
		name   string
		denied []string
		old    bool
		says   string // "": all is well
	}{
		{"nothing allowed", []string{verbList, verbWatch}, false, "system:serviceaccount:weft:weft may not"},
		{"no watch", []string{verbWatch}, false, "system:serviceaccount:weft:weft may not watch pods"},
		{"no list, which a server that streams does not need", []string{verbList}, false, ""},
		{"no list", []string{verbList}, true, "system:serviceaccount:weft:weft may not list pods"},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel() // it waits for retries
			s := kubetest.New(t)
			s.Put(sample(t, "deployment"))
			s.SetOld(c.old)
			for _, verb := range c.denied {
				s.Allow(verb, false)
			}
			p, _, lines := follow(t, s, t.TempDir())
			if c.says == "" {
				eventually(t, "the pods", p.Following)
				if w := lines.with("level=WARN"); w != nil {
					t.Errorf("%q", w)
				}
				return
			}
			eventually(t, "a line", func() bool { return lines.with("level=WARN") != nil })
			w := lines.with("level=WARN")
			if !strings.Contains(w[0], c.says) || !strings.Contains(w[0], "ClusterRole with the verbs list and watch on pods") {
				t.Errorf("%q", w)
			}
			if p.Following() {
				t.Error("following")
			}
			// It is tried again, and said once.
			asked := s.Count(verbWatch)
			eventually(t, "another attempt", func() bool { return s.Count(verbWatch) > asked+1 })
			if w := lines.with("level=WARN"); len(w) != 1 {
				t.Errorf("%d lines: %q", len(w), w)
			}
			s.Allow(verbList, true)
			s.Allow(verbWatch, true)
			eventually(t, "the pods, once it is allowed", func() bool { return p.Following() && p.Len() == 1 })
		})
	}
}

func TestUnauthorized(t *testing.T) {
	t.Parallel() // it waits for retries
	s := kubetest.New(t)
	s.SetToken("another")
	p, _, lines := follow(t, s, t.TempDir())
	eventually(t, "a line", func() bool { return lines.with("does not accept weft's credentials") != nil })
	s.SetToken(kubetest.Token)
	eventually(t, "the pods", p.Following)
}

func TestUnreachableThenBack(t *testing.T) {
	t.Parallel() // it waits for retries
	s := kubetest.New(t)
	cart, db := sample(t, "deployment"), sample(t, "statefulset")
	s.Put(cart)
	config := s.Kubeconfig()
	s.Stop()
	lines, got := &logLines{}, &followed{}
	dbUID := kubetest.Field(db, "metadata", "uid").(string)
	p := New(Options{Kubeconfig: config, Node: "node-a", Log: lines.logger(),
		Proc: fakeProc(t, map[string]string{"200": inPod(dbUID, ident("d"))})})
	if err := p.Follow(got.add); err != nil {
		t.Fatal(err)
	}
	defer p.Close()
	eventually(t, "a line", func() bool { return lines.with("level=WARN") != nil })
	if w := lines.with("level=WARN"); !strings.Contains(w[0], "connection refused") || !strings.Contains(w[0], s.Address()) || !strings.Contains(w[0], "watch pods") {
		t.Errorf("%q", w)
	}
	s.Start()
	eventually(t, "the pods", func() bool { return p.Following() && p.Len() == 1 })

	// Gone again in mid-watch: what is known stays; what changes meanwhile is
	// followed afterwards.
	s.Stop()
	eventually(t, "a second line", func() bool { return len(lines.with("level=WARN")) == 2 })
	if p.Len() != 1 || p.Following() {
		t.Errorf("%d pods, following %t", p.Len(), p.Following())
	}
	s.Remove(cart)
	s.Put(db)
	s.Start()
	eventually(t, "what changed", func() bool { return got.has(200) && p.Len() == 1 })
	eventually(t, "a word of it", func() bool { return lines.with("Kubernetes answers again") != nil })
	if w := lines.with("level=WARN"); len(w) != 2 {
		t.Errorf("%q", w)
	}
}

func TestSilentServer(t *testing.T) {
	t.Parallel() // it waits for retries
	s := kubetest.New(t)
	s.SetMute(true)
	p, _, lines := follow(t, s, t.TempDir())
	eventually(t, "a line", func() bool { return lines.with("does not answer") != nil })
	start := time.Now()
	p.Close()
	if took := time.Since(start); took > 5*time.Second {
		t.Errorf("Close took %v", took)
	}
}

func TestSetup(t *testing.T) {
	t.Setenv("KUBERNETES_SERVICE_HOST", "")
	p := New(Options{Log: slog.New(slog.DiscardHandler)})
	defer p.Close()
	if err := p.Follow(nil); !errors.Is(err, ErrNotInKubernetes) {
		t.Errorf("%v", err)
	}
	var problem *Problem
	bad := filepath.Join(t.TempDir(), "kubeconfig")
	for text, want := range map[string]string{"": "invalid configuration", "clusters: 7": "clusters"} {
		if err := os.WriteFile(bad, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		err := New(Options{Kubeconfig: bad, Log: slog.New(slog.DiscardHandler)}).Follow(nil)
		if err == nil || errors.As(err, &problem) || !strings.Contains(err.Error(), "kubernetes.kubeconfig: read "+bad) || !strings.Contains(err.Error(), want) {
			t.Errorf("%q: %v", text, err)
		}
	}
	if err := New(Options{Kubeconfig: bad + ".none", Log: slog.New(slog.DiscardHandler)}).Follow(nil); err == nil || !errors.Is(err, os.ErrNotExist) {
		t.Errorf("%v", err)
	}
	// A pod without a token.
	if _, err := os.Stat("/var/run/secrets/kubernetes.io"); err == nil {
		return // this is one with a token
	}
	t.Setenv("KUBERNETES_SERVICE_HOST", "127.0.0.1")
	t.Setenv("KUBERNETES_SERVICE_PORT", "1")
	var lines logLines
	if err := New(Options{Log: lines.logger()}).Follow(nil); !errors.As(err, &problem) || !strings.Contains(problem.Mend, "automountServiceAccountToken") {
		t.Errorf("%v", err)
	}
	if w := lines.with("level=WARN"); len(w) != 1 {
		t.Errorf("%q", w)
	}
}

func TestCheck(t *testing.T) {
	s := kubetest.New(t)
	s.Put(sample(t, "deployment"))
	o := Options{Kubeconfig: s.Kubeconfig(), Node: "node-a"}
	check := func() (int, string) {
		n, node, err := Check(t.Context(), o)
		if err == nil {
			if node != "node-a" {
				t.Errorf("node %q", node)
			}
			return n, ""
		}
		return n, err.Error()
	}
	if n, why := check(); n != 1 || why != "" {
		t.Errorf("%d pods, %s", n, why)
	}
	s.Allow(verbWatch, false)
	if _, why := check(); strings.Contains(why, "may not list pods") || !strings.Contains(why, "may not watch pods; bind") {
		t.Errorf("%s", why)
	}
	s.Allow(verbList, false)
	if _, why := check(); !strings.Contains(why, "may not list pods; system:serviceaccount:weft:weft may not watch pods; bind") {
		t.Errorf("%s", why)
	}
	s.Stop()
	if _, why := check(); strings.Count(why, "connection refused") != 1 {
		t.Errorf("%s", why)
	}
}

// TestMemory holds the cost of a full node: 200 pods with three containers each,
// and with the ballast that real objects have.
func TestMemory(t *testing.T) {
	const pods, limit = 200, 20 << 20
	for _, old := range []bool{false, true} {
		s := kubetest.New(t)
		s.SetOld(old)
		size := 0
		for i := range pods {
			o := sample(t, "deployment")
			meta := o["metadata"].(map[string]any)
			meta["uid"] = fmt.Sprintf("5f2c1a9e-3b7d-4c1e-9a52-%012x", i)
			meta["name"] = fmt.Sprintf("cart-6c7d9f5b8d-%05d", i)
			meta["annotations"] = map[string]any{"kubectl.kubernetes.io/last-applied-configuration": strings.Repeat(`{"a":"b"}`, 500)}
			for j, c := range o["status"].(map[string]any)["containerStatuses"].([]any) {
				c.(map[string]any)["containerID"] = fmt.Sprintf("containerd://%064x", i*10+j)
			}
			env := []any{}
			for j := range 100 {
				env = append(env, map[string]any{"name": fmt.Sprintf("VARIABLE_%d", j), "value": strings.Repeat("x", 50)})
			}
			o["spec"].(map[string]any)["containers"].([]any)[0].(map[string]any)["env"] = env
			s.Put(o)
			size += len(fmt.Sprint(o))
		}
		lines := &logLines{}
		p := New(Options{Kubeconfig: s.Kubeconfig(), Node: "node-a", Proc: t.TempDir(), Log: lines.logger()})
		before := heap()
		if err := p.Follow(func([]uint32) {}); err != nil {
			t.Fatal(err)
		}
		eventually(t, strconv.Itoa(pods)+" pods", func() bool { return p.Len() == pods })
		eventually(t, "the log line", func() bool { return lines.with("following") != nil })
		cost := heap() - before
		t.Logf("old=%t: %d pods of %d KiB each: %.2f MiB of heap kept", old, pods, size/pods>>10, float64(cost)/(1<<20))
		if cost > limit {
			t.Errorf("%d pods cost %d bytes, want at most %d", pods, cost, limit)
		}
		if size < 2<<20 {
			t.Errorf("the objects are only %d bytes: nothing to trim", size)
		}
		p.Close()
		runtime.KeepAlive(p)
	}
}

// heap is what is live, the test server included: its objects are there before.
func heap() int64 {
	var m runtime.MemStats
	for range 3 {
		runtime.GC()
	}
	runtime.ReadMemStats(&m)
	return int64(m.HeapAlloc)
}

// client-go prints through klog what is refused, and traces of what takes more
// than ten seconds: nothing of it may reach stderr.
func TestClientGoIsSilent(t *testing.T) {
	read, write, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	stderr := os.Stderr
	os.Stderr = write
	defer func() { os.Stderr = stderr }()
	s := kubetest.New(t)
	s.Allow(verbList, false)
	s.Allow(verbWatch, false)
	p, _, lines := follow(t, s, t.TempDir())
	eventually(t, "a line", func() bool { return lines.with("level=WARN") != nil })
	p.Close()
	klog.Error("a trace of ten lines")
	klog.Flush()
	os.Stderr = stderr
	write.Close()
	if said, err := io.ReadAll(read); err != nil || len(said) > 0 {
		t.Errorf("%v: %s", err, said)
	}
}
