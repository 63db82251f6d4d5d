package kube

import (
	"context"
	"fmt"
	"sync"
	"time"

	"k8s.io/client-go/tools/cache"
)

// store is where the reflector puts what it hears.
type store struct {
	pods   *Pods
	client *client
}

// Transformer is applied to each object as it arrives.
func (s *store) Transformer() cache.TransformFunc { return trim }

// Add takes an object that is new.
func (s *store) Add(o any) error { return s.Update(o) }

// Update takes an object that is new or has changed.
func (s *store) Update(in any) error {
	o, err := trimmed(in)
	if err != nil {
		return err
	}
	s.pods.put(describe(o))
	return nil
}

// Delete takes the last state of an object that is gone.
func (s *store) Delete(in any) error {
	o, err := trimmed(in)
	if err != nil {
		return err
	}
	s.pods.mu.Lock()
	defer s.pods.mu.Unlock()
	s.pods.forget(string(o.UID))
	return nil
}

// Replace takes all objects there are.
func (s *store) Replace(list []any, _ string) error {
	p := s.pods
	found := map[string]bool{}
	for _, in := range list {
		o, err := trimmed(in)
		if err != nil {
			return err
		}
		found[string(o.UID)] = true
		p.put(describe(o))
	}
	p.mu.Lock()
	for uid := range p.byUID {
		if !found[uid] {
			p.forget(uid)
		}
	}
	first := !p.isSynced
	p.isSynced = true
	p.mu.Unlock()
	if !first {
		return nil
	}
	close(p.synced)
	if len(found) == 0 && s.client.pod {
		problem := s.client.noPods()
		p.log.Warn("Kubernetes knows no pods here", "why", problem.Why, "mend", problem.Mend)
		return nil
	}
	p.log.Info("following the pods of this node", "node", s.client.node, "pods", len(found))
	return nil
}

// Resync has nothing to do: nothing is derived that could have gone astray.
func (s *store) Resync() error { return nil }

// trimmed is the object, of which maps and strings will be kept.
func trimmed(in any) (*object, error) {
	out, err := trim(in)
	if err != nil {
		return nil, err
	}
	o, ok := out.(*object)
	if !ok {
		return nil, fmt.Errorf("store pods: got a %T", in)
	}
	return o, nil
}

// put keeps a pod in place of what was known of it.
func (p *Pods) put(pod *Pod) {
	p.mu.Lock()
	before := p.byUID[pod.UID]
	same := before != nil && before.same(pod)
	if !same {
		p.forget(pod.UID)
		p.byUID[pod.UID] = pod
		for _, key := range pod.keys() {
			p.byCgroup[key] = pod
		}
		for _, c := range pod.containers {
			p.byContainer[c.ID] = c
		}
	}
	p.mu.Unlock()
	if !same {
		p.touched.add(pod)
	}
}

// forget drops a pod; mu is held. Its processes, which end or have ended, keep
// what they were described as.
func (p *Pods) forget(uid string) {
	pod := p.byUID[uid]
	if pod == nil {
		return
	}
	delete(p.byUID, uid)
	for _, key := range pod.keys() {
		delete(p.byCgroup, key)
	}
	for _, c := range pod.containers {
		delete(p.byContainer, c.ID)
	}
}

// keys are the names of the pod in cgroup paths.
func (p *Pod) keys() []string {
	if p.mirror != "" {
		return []string{p.UID, p.mirror}
	}
	return []string{p.UID}
}

// gather is how long changes are gathered before the processes they concern are
// looked for: a list comes as one change per pod.
const gather = 50 * time.Millisecond

// touched are pods that have appeared or changed.
type touched struct {
	mu   sync.Mutex
	keys map[string]bool // names in cgroup paths, and containers
	wake chan struct{}
}

func (t *touched) add(pod *Pod) {
	t.mu.Lock()
	if t.keys == nil {
		t.keys = map[string]bool{}
	}
	for _, key := range pod.keys() {
		t.keys[key] = true
	}
	for _, c := range pod.containers {
		t.keys[c.ID] = true
	}
	t.mu.Unlock()
	select {
	case t.wake <- struct{}{}:
	default: // it is due already
	}
}

func (t *touched) take() map[string]bool {
	t.mu.Lock()
	defer t.mu.Unlock()
	keys := t.keys
	t.keys = nil
	return keys
}

// tell hands over the processes of pods that were touched.
func (p *Pods) tell(ctx context.Context, changed func(pids []uint32)) {
	for {
		select {
		case <-ctx.Done():
			return
		case <-p.touched.wake:
		}
		select {
		case <-ctx.Done():
			return
		case <-time.After(gather):
		}
		keys := p.touched.take()
		pids, err := p.processes.within(func(c Cgroup) bool { return keys[c.ContainerID] || keys[c.PodUID] })
		if err != nil {
			p.log.Warn("processes of changed pods are not looked at again", "err", err)
			continue
		}
		if len(pids) > 0 {
			changed(pids)
		}
	}
}
