package kube

import (
	"context"
	"errors"
	"fmt"
	"net/url"
	"os"
	"regexp"
	"strings"
	"sync"

	"github.com/go-logr/logr"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/fields"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/runtime/serializer"
	"k8s.io/apimachinery/pkg/watch"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/clientcmd"
	"k8s.io/klog/v2"
)

// ErrNotInKubernetes says that there is no API server to ask: weft does not run
// in a pod, and no kubeconfig is named.
var ErrNotInKubernetes = errors.New("not in a pod, and kubernetes.kubeconfig is not set")

// What weft may need to do with the API, and all that it ever does.
const (
	verbList  = "list"
	verbWatch = "watch"
	resource  = "pods"
)

// Problem is why the API server gives nothing.
type Problem struct {
	Why  string // what is missing, with verb and resource where it is a right
	Mend string

	kind problemKind
}

type problemKind uint8

const (
	problemSetup     problemKind = iota // nobody can be asked
	problemForbidden                    // a right is missing
	problemRefused                      // the credentials are
	problemUnreachable
	problemSilent
)

func (p *Problem) Error() string { return p.Why + "; " + p.Mend }

// user is who was refused, in a message of the API server.
var user = regexp.MustCompile(`User "([^"]+)"`)

// explain makes a Problem of what a request returned.
func explain(host, verb string, err error) *Problem {
	var transport *url.Error
	switch {
	case apierrors.IsForbidden(err):
		who := "weft"
		if m := user.FindStringSubmatch(err.Error()); m != nil {
			who = m[1]
		}
		return &Problem{kind: problemForbidden, Why: fmt.Sprintf("%s may not %s %s", who, verb, resource),
			Mend: "bind it to a ClusterRole with the verbs list and watch on pods (docs/kubernetes.md)"}
	case apierrors.IsUnauthorized(err):
		return &Problem{kind: problemRefused, Why: fmt.Sprintf("%s does not accept weft's credentials: %s %s: 401", host, verb, resource),
			Mend: "mount a service account token of this cluster, or renew the kubeconfig"}
	case errors.As(err, &transport):
		err = transport.Err // without the long query
	}
	return &Problem{kind: problemUnreachable, Why: fmt.Sprintf("%s: %s %s: %v", host, verb, resource, err),
		Mend: "see that this node reaches the API server; weft tries again by itself"}
}

// client asks the API server for the pods of one node.
type client struct {
	rest *rest.RESTClient
	host string
	node string
	pod  bool // weft itself is a pod of this node
}

// silence keeps client-go from printing to stderr in a format of its own. klog
// has one logger per process; what it would say, client reports by itself.
var silence = sync.OnceFunc(func() { klog.SetLogger(logr.Discard()) })

// connect prepares a client; it talks to nobody yet. Only a kubeconfig that
// cannot be read is not a Problem or ErrNotInKubernetes: that is the user's.
func connect(o Options) (*client, error) {
	silence()
	c := &client{node: o.Node}
	config, err := c.config(o.Kubeconfig)
	if err != nil {
		return nil, err
	}
	if c.node == "" {
		if c.pod {
			return nil, &Problem{Why: "the name of this node is not known",
				Mend: "set WEFT_KUBERNETES_NODE from the pod's field spec.nodeName (docs/kubernetes.md)"}
		}
		name, err := os.Hostname()
		if err != nil {
			return nil, &Problem{Why: fmt.Sprintf("the name of this node is not known: %v", err), Mend: "set kubernetes.node"}
		}
		c.node = strings.ToLower(name)
	}
	config.UserAgent = o.UserAgent
	config.APIPath = "/api"
	config.GroupVersion = &schema.GroupVersion{Version: "v1"}
	config.ContentType, config.AcceptContentTypes = runtime.ContentTypeJSON, runtime.ContentTypeJSON
	config.NegotiatedSerializer = serializer.NewCodecFactory(newScheme()).WithoutConversion()
	config.WarningHandler = rest.NoWarnings{}
	if c.rest, err = rest.RESTClientFor(config); err != nil {
		return nil, fmt.Errorf("prepare Kubernetes client: %w", err)
	}
	c.host = config.Host
	return c, nil
}

func (c *client) config(kubeconfig string) (*rest.Config, error) {
	if kubeconfig != "" {
		config, err := clientcmd.BuildConfigFromFlags("", kubeconfig)
		if err != nil {
			return nil, fmt.Errorf("kubernetes.kubeconfig: read %s: %w", kubeconfig, err)
		}
		if config.ExecProvider != nil {
			return nil, fmt.Errorf("kubernetes.kubeconfig: %s runs %q for its credentials, and weft runs no program of others; name a file with a token or a certificate",
				kubeconfig, config.ExecProvider.Command)
		}
		return config, nil
	}
	config, err := rest.InClusterConfig()
	switch {
	case errors.Is(err, rest.ErrNotInCluster):
		return nil, ErrNotInKubernetes
	case err != nil:
		return nil, &Problem{Why: fmt.Sprintf("the pod's service account cannot be used: %v", err),
			Mend: "set automountServiceAccountToken: true, or kubernetes.metadata: off"}
	}
	c.pod = true
	return config, nil
}

// request is one for the pods of this node; the API server sends no others.
func (c *client) request(o metav1.ListOptions) *rest.Request {
	o.FieldSelector = fields.OneTermEqualSelector("spec.nodeName", c.node).String()
	return c.rest.Get().Resource(resource).VersionedParams(&o, metav1.ParameterCodec)
}

func (c *client) list(ctx context.Context, o metav1.ListOptions) (*objects, error) {
	var found objects
	if err := c.request(o).Do(ctx).Into(&found); err != nil {
		return nil, err
	}
	return &found, nil
}

func (c *client) watch(ctx context.Context, o metav1.ListOptions) (watch.Interface, error) {
	o.Watch = true
	return c.request(o).Watch(ctx)
}

// noPods explains that a node without even weft's own pod is not this one.
func (c *client) noPods() *Problem {
	return &Problem{Why: fmt.Sprintf("node %q has no pods, not even weft's own", c.node),
		Mend: "set WEFT_KUBERNETES_NODE from the pod's field spec.nodeName (docs/kubernetes.md)"}
}

// Check tries what following the pods needs, once: how many pods of which node
// there are. Every Problem there is comes as one; other errors are as Follow's.
func Check(ctx context.Context, o Options) (pods int, node string, err error) {
	c, err := connect(o)
	if err != nil {
		return 0, "", err
	}
	var problems []*Problem
	found, err := c.list(ctx, metav1.ListOptions{ResourceVersion: "0"})
	switch {
	case err != nil:
		problems = append(problems, explain(c.host, verbList, err))
	case len(found.Items) == 0 && c.pod:
		problems = append(problems, c.noPods())
	default:
		pods = len(found.Items)
	}
	// Another right; the rest is as with list, and is said once.
	seconds := int64(1)
	w, err := c.watch(ctx, metav1.ListOptions{TimeoutSeconds: &seconds})
	switch {
	case err == nil:
		w.Stop()
	case problems == nil || apierrors.IsForbidden(err):
		problems = append(problems, explain(c.host, verbWatch, err))
	}
	if problems == nil {
		return pods, c.node, nil
	}
	all := *problems[0]
	for _, p := range problems[1:] {
		all.Why += "; " + p.Why
	}
	return 0, c.node, &all
}
