// Package kube knows the pods of this node: which one a process runs in, and what
// the API server says of it. Of the API it needs the verbs list and watch on pods,
// and without them what a cgroup's path says. It alone imports k8s.io.
package kube

import (
	"context"
	"errors"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"time"

	"github.com/go-logr/logr"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/util/wait"
	"k8s.io/apimachinery/pkg/watch"
	"k8s.io/client-go/tools/cache"
)

// Options say whose pods to follow, and as whom.
type Options struct {
	Kubeconfig string // "": the service account of the pod that weft runs in
	Node       string // "": the host's name, where weft is not a pod itself
	UserAgent  string
	Proc       string // where procfs is mounted; "": /proc
	Log        *slog.Logger
}

// Pods are the pods of this node. Before Follow, and as long as the API server
// gives nothing, there are none, and only cgroup paths speak. It is safe for
// concurrent use.
type Pods struct {
	options   Options
	log       *slog.Logger
	processes processes
	hybrid    bool // cgroup v1 hierarchies are mounted too

	mu          sync.RWMutex
	byUID       map[string]*Pod
	byCgroup    map[string]*Pod // uid, or hash of a static pod
	byContainer map[string]Container
	problems    map[string]*Problem // by verb
	isSynced    bool

	synced  chan struct{} // closed when the pods are known for the first time
	touched touched
	stop    context.CancelFunc // nil: not following
	telling sync.WaitGroup
}

// New returns Pods that know none yet.
func New(o Options) *Pods {
	if o.Proc == "" {
		o.Proc = "/proc"
	}
	p := &Pods{options: o, log: o.Log, processes: processes{o.Proc},
		byUID: map[string]*Pod{}, byCgroup: map[string]*Pod{}, byContainer: map[string]Container{},
		problems: map[string]*Problem{}, synced: make(chan struct{}), touched: touched{wake: make(chan struct{}, 1)}}
	p.hybrid = hasV1(filepath.Join(o.Proc, "self", "cgroup"))
	return p
}

// hasV1 says whether a process is in hierarchies other than v2's too.
func hasV1(file string) bool {
	data, err := os.ReadFile(file)
	if err != nil {
		return false
	}
	for line := range strings.Lines(string(data)) {
		if !strings.HasPrefix(line, "0:") {
			return true
		}
	}
	return false
}

// Find says in which container a process runs, given its cgroup v2 path; false
// if in none. Pod is nil for a pod that is not known, or not yet.
func (p *Pods) Find(pid uint32, cgroup string) (Container, bool) {
	c := ParseCgroup(cgroup)
	if !c.inContainer() && p.hybrid {
		c = p.processes.cgroup(pid)
	}
	if !c.inContainer() {
		return Container{}, false
	}
	p.mu.RLock()
	defer p.mu.RUnlock()
	if found, ok := p.byContainer[c.ContainerID]; ok {
		return found, true
	}
	return Container{ID: c.ContainerID, PodUID: c.PodUID, Pod: p.byCgroup[c.PodUID]}, true
}

// Len is the number of pods known.
func (p *Pods) Len() int {
	p.mu.RLock()
	defer p.mu.RUnlock()
	return len(p.byUID)
}

// Following says whether the API server tells of this node's pods now.
func (p *Pods) Following() bool {
	p.mu.RLock()
	defer p.mu.RUnlock()
	return p.isSynced && len(p.problems) == 0
}

// Synced is closed once the pods are known for the first time.
func (p *Pods) Synced() <-chan struct{} { return p.synced }

// Retries of the API server. The first ones are quick: a rolling update of it
// takes moments.
const (
	retryFirst = 500 * time.Millisecond
	retryLast  = 15 * time.Second
	// silentAfter is when the user is told that the first answer is missing.
	silentAfter = 10 * time.Second
)

// Follow begins to follow the pods, until Close; call it once. changed gets the processes
// of pods that have appeared or changed, from one goroutine, the last call before
// Close returns. The error is ErrNotInKubernetes, a *Problem that stays until it
// is mended, or that of a kubeconfig that cannot be used. What may pass (rights,
// reachability) is no error: it is logged when it changes, and retried.
func (p *Pods) Follow(changed func(pids []uint32)) error {
	c, err := connect(p.options)
	var setup *Problem
	if errors.As(err, &setup) {
		p.note(verbList, setup)
	}
	if err != nil {
		return err
	}
	// For client-go's log lines, see silence.
	ctx, stop := context.WithCancel(logr.NewContext(context.Background(), logr.Discard()))
	p.stop = stop
	// The reflector is an informer's inner half. The other half keeps whole
	// objects beside what is made of them, which is all that is needed here.
	reflector := cache.NewReflectorWithOptions(p.listWatch(c), &object{}, &store{pods: p, client: c}, cache.ReflectorOptions{
		Name:    "pods of " + c.node,
		Backoff: &wait.Backoff{Duration: retryFirst, Cap: retryLast, Factor: 2, Jitter: 0.5, Steps: 10},
	})
	// Not waited for at Close: it may sleep between two attempts.
	go reflector.RunWithContext(ctx)
	p.telling.Go(func() { p.tell(ctx, changed) })
	p.telling.Go(func() { p.listen(ctx, c) })
	return nil
}

// listen says so if the first answer does not come.
func (p *Pods) listen(ctx context.Context, c *client) {
	select {
	case <-ctx.Done():
	case <-p.synced:
	case <-time.After(silentAfter):
		p.mu.RLock()
		known := len(p.problems) > 0
		p.mu.RUnlock()
		if !known {
			p.note(verbList, &Problem{kind: problemSilent, Why: c.host + " does not answer",
				Mend: "see that this node reaches the API server; weft goes on waiting"})
		}
	}
}

// Close ends following; what is known stays.
func (p *Pods) Close() {
	if p.stop != nil {
		p.stop()
		p.telling.Wait()
	}
}

// listWatch is what the reflector calls; it takes note of how that went.
func (p *Pods) listWatch(c *client) *cache.ListWatch {
	return &cache.ListWatch{
		ListWithContextFunc: func(ctx context.Context, o metav1.ListOptions) (runtime.Object, error) {
			found, err := c.list(ctx, o)
			if err != nil {
				p.failed(ctx, c, verbList, err)
				return nil, err
			}
			p.note(verbList, nil)
			return found, nil
		},
		WatchFuncWithContext: func(ctx context.Context, o metav1.ListOptions) (watch.Interface, error) {
			w, err := c.watch(ctx, o)
			switch {
			case err == nil:
				// Nothing is listed where a watch begins with what there is.
				p.note(verbList, nil)
				p.note(verbWatch, nil)
			case o.SendInitialEvents != nil && (apierrors.IsInvalid(err) || apierrors.IsBadRequest(err)):
				// An older API server: the reflector will list instead.
			default:
				p.failed(ctx, c, verbWatch, err)
			}
			return w, err
		},
	}
}

func (p *Pods) failed(ctx context.Context, c *client, verb string, err error) {
	// Too old a version is nobody's fault: the reflector lists anew.
	if ctx.Err() == nil && !apierrors.IsResourceExpired(err) && !apierrors.IsGone(err) {
		p.note(verb, explain(c.host, verb, err))
	}
}

// note keeps what became of a verb, nil for success, and logs when the kind of
// trouble changes: retries go on for as long as it lasts.
func (p *Pods) note(verb string, problem *Problem) {
	p.mu.Lock()
	before := p.problem()
	if problem == nil {
		delete(p.problems, verb)
	} else {
		p.problems[verb] = problem
	}
	after, synced := p.problem(), p.isSynced
	p.mu.Unlock()
	switch {
	case after != nil && (before == nil || before.kind != after.kind):
		p.log.Warn("tracing goes on without news from Kubernetes", "why", after.Why, "mend", after.Mend)
	case after == nil && before != nil && synced:
		p.log.Info("Kubernetes answers again")
	}
}

// problem is the one to talk about, nil if there is none.
func (p *Pods) problem() *Problem {
	if list := p.problems[verbList]; list != nil {
		return list
	}
	return p.problems[verbWatch]
}
