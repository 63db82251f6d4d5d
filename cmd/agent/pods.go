package main

import (
	"context"
	"errors"
	"log/slog"
	"slices"
	"strconv"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"weft/internal/config"
	"weft/kube"
)

// firstPods is how long tracing waits for the pods, so that most processes need
// no second look. Those of an API server that is slower get one.
const firstPods = time.Second

func podOptions(c config.Kubernetes, log *slog.Logger) kube.Options {
	return kube.Options{Kubeconfig: c.Kubeconfig, Node: c.Node, UserAgent: "weft/" + version, Log: log}
}

// asksForPods says whether any target selects by k8s.
func asksForPods(targets config.Targets) bool {
	return slices.ContainsFunc(targets, func(t config.Target) bool { return t.K8s.IsSet() })
}

// warnOfPods says where targets ask for pods that nobody follows by configuration.
func (a *agent) warnOfPods(c *config.Config) {
	if asksForPods(c.Targets) && c.Kubernetes.Metadata == config.MetadataOff {
		a.log.Warn("targets with k8s match nothing", "why", "kubernetes.metadata is off", "mend", "set it to auto")
	}
}

// followPods begins to ask the API server, if there is one.
func (a *agent) followPods(ctx context.Context, c *config.Config) error {
	unmatched := func(why, mend string) {
		if asksForPods(c.Targets) {
			a.log.Warn("targets with k8s match nothing", "why", why, "mend", mend)
		}
	}
	if c.Kubernetes.Metadata == config.MetadataOff {
		a.warnOfPods(c)
		return nil
	}
	err := a.pods.Follow(a.loader.Relook)
	var said *kube.Problem
	switch {
	case errors.Is(err, kube.ErrNotInKubernetes):
		unmatched(err.Error(), "run weft as a DaemonSet, or set kubernetes.kubeconfig")
		return nil
	case errors.As(err, &said): // and logged
		return nil
	case err != nil:
		return err
	}
	for _, g := range []struct {
		name, help string
		value      func() float64
	}{
		{"weft_kubernetes_pods", "Pods of this node that are known.", func() float64 { return float64(a.pods.Len()) }},
		{"weft_kubernetes_following", "1 while the API server tells of this node's pods.", func() float64 {
			if a.pods.Following() {
				return 1
			}
			return 0
		}},
	} {
		if err := a.stats.Register(prometheus.NewGaugeFunc(prometheus.GaugeOpts{Name: g.name, Help: g.help}, g.value)); err != nil {
			return err
		}
	}
	select {
	case <-a.pods.Synced():
	case <-time.After(firstPods):
	case <-ctx.Done():
	}
	return nil
}

// attributesOf are the resource attributes of the container a process runs in.
func attributesOf(pods *kube.Pods) func(pid uint32, cgroup string) map[string]string {
	return func(pid uint32, cgroup string) map[string]string {
		c, ok := pods.Find(pid, cgroup)
		if !ok {
			return nil
		}
		return c.Attributes()
	}
}

// addPod says of a candidate in which pod it runs.
func addPod(c *config.Candidate, pods *kube.Pods) {
	found, ok := pods.Find(c.PID, c.Cgroup)
	if !ok {
		return
	}
	c.InPod = found.PodUID != ""
	if p := found.Pod; p != nil {
		c.Pod = &config.Pod{Namespace: p.Namespace, Deployment: p.Deployment, StatefulSet: p.StatefulSet,
			DaemonSet: p.DaemonSet, Container: found.Name, Labels: p.Labels}
	}
}

// kubernetesRow tries what following the pods needs. Tracing does not depend on
// it, and so neither does the verdict.
func (e *examination) kubernetesRow() capability {
	const name = "kubernetes"
	const effect = "of k8s.* spans carry k8s.pod.uid alone, and targets with k8s match nothing"
	if e.config.Kubernetes.Metadata == config.MetadataOff {
		return capability{Name: name, State: stateOK, Why: "not asked: kubernetes.metadata is off"}
	}
	ctx, cancel := context.WithTimeout(e.ctx, 5*time.Second)
	defer cancel()
	pods, node, err := kube.Check(ctx, podOptions(e.config.Kubernetes, slog.New(slog.DiscardHandler)))
	var problem *kube.Problem
	switch {
	case errors.Is(err, kube.ErrNotInKubernetes) && !asksForPods(e.config.Targets):
		return capability{Name: name, State: stateOK, Why: "not asked: " + err.Error()}
	case errors.Is(err, kube.ErrNotInKubernetes):
		return row(name, "", err, effect, "run weft as a DaemonSet, or set kubernetes.kubeconfig")
	case errors.As(err, &problem):
		return capability{Name: name, State: stateMissing, Why: problem.Why, Effect: effect, Mend: problem.Mend}
	}
	return row(name, podCount(pods)+" of node "+node+" can be listed and watched", err, effect, "set kubernetes.kubeconfig to a file that leads to the API server")
}

func podCount(n int) string {
	if n == 1 {
		return "1 pod"
	}
	return strconv.Itoa(n) + " pods"
}
