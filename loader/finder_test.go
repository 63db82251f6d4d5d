package loader

import (
	"log/slog"
	"os"
	"os/exec"
	"reflect"
	"slices"
	"sync"
	"testing"
	"time"

	"weft/internal/event"
)

func TestDescribe(t *testing.T) {
	around := func() map[string]string {
		return map[string]string{"service.name": "pod", "service.namespace": "shop", "k8s.pod.name": "pod-1"}
	}
	for name, c := range map[string]struct {
		configured string
		env        map[string]string
		around     map[string]string
		service    string
		resource   map[string]string
	}{
		"the executable, for want of anything": {"", nil, nil, "app", map[string]string{}},
		"what it runs in":                      {"", nil, around(), "pod", map[string]string{"service.namespace": "shop", "k8s.pod.name": "pod-1"}},
		"its own name": {"", map[string]string{"OTEL_SERVICE_NAME": "own"}, around(), "own",
			map[string]string{"service.namespace": "shop", "k8s.pod.name": "pod-1"}},
		"its own attributes": {"", map[string]string{"OTEL_RESOURCE_ATTRIBUTES": "service.name=attr,service.namespace=mine,a=b"}, around(), "attr",
			map[string]string{"service.namespace": "mine", "k8s.pod.name": "pod-1", "a": "b"}},
		"the target's name": {"target", map[string]string{"OTEL_SERVICE_NAME": "own"}, around(), "target",
			map[string]string{"service.namespace": "shop", "k8s.pod.name": "pod-1"}},
	} {
		p := &process{pid: 7, exe: "/bin/app", env: c.env}
		got := p.describe(c.configured, 1, c.around)
		if got.Service != c.service || !reflect.DeepEqual(got.Resource, c.resource) {
			t.Errorf("%s: %q, %v, want %q, %v", name, got.Service, got.Resource, c.service, c.resource)
		}
	}
}

// choice is a Selector that can change its mind.
type choice struct {
	service string
	ok      bool
}

func (c *choice) Select(Candidate) (string, bool) { return c.service, c.ok }
func (*choice) NeedsPorts() bool                  { return false }

// told is a Handler that keeps what it is told of processes.
type told struct{ processes []*event.Process }

func (h *told) Process(p *event.Process) { h.processes = append(h.processes, p) }
func (*told) ProcessExit(uint32, uint64) {}
func (*told) Request(event.Request)      {}
func (*told) Carried(event.Carried)      {}
func (*told) Route(event.Route)          {}
func (*told) Response(event.Response)    {}
func (*told) Tick(time.Time)             {}

// last is what was said last, and how often anything was.
func (h *told) last() (service string, n int) {
	if len(h.processes) == 0 {
		return "", 0
	}
	return h.processes[len(h.processes)-1].Service, len(h.processes)
}

func child(t *testing.T) *exec.Cmd {
	t.Helper()
	cmd := exec.Command("sleep", "60")
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		cmd.Process.Kill() //nolint:errcheck // it may have ended
		cmd.Wait()         //nolint:errcheck // it was killed
	})
	return cmd
}

func TestRelook(t *testing.T) {
	targets := mapsOf(t, "targets")["targets"]
	isTarget := func(pid uint32) bool {
		var v WeftWeftTarget
		err := targets.Lookup(pid, &v)
		return err == nil
	}
	selector, h := &choice{}, &told{}
	around := map[string]string{}
	f := newFinder(Options{Selector: selector, Log: slog.New(slog.DiscardHandler),
		Attributes: func(uint32, string) map[string]string {
			return map[string]string{"service.name": around["service.name"]}
		}}, targets, nil)
	cmd := child(t)
	pid := uint32(cmd.Process.Pid)
	expect := func(what string, selected bool, service string, said int) {
		t.Helper()
		if got, n := h.last(); isTarget(pid) != selected || f.selected() != map[bool]int{true: 1}[selected] || got != service || n != said {
			t.Errorf("%s: selected %t, %q said %d times; want %t, %q, %d times", what, isTarget(pid), got, n, selected, service, said)
		}
	}
	f.relook(h, []uint32{pid, uint32(os.Getpid())})
	expect("nothing matches", false, "", 0)
	selector.ok, around["service.name"] = true, "cart"
	f.relook(h, []uint32{pid, uint32(os.Getpid())})
	expect("a match", true, "cart", 1)
	around["service.name"] = "cart-2"
	f.relook(h, []uint32{pid})
	expect("a match that is described anew", true, "cart-2", 2)
	selector.ok = false
	f.relook(h, []uint32{pid})
	expect("no match any more", false, "cart-2", 2)

	// A child selected by its parent matches nothing itself, and stays.
	f.track(1, 1, "", "parent")
	f.forked(h, ProcessRecord{Op: ProcessFork, PID: pid, PIDStart: 5, ParentPID: 1})
	if err := targets.Put(pid, WeftWeftTarget{StartNs: 5}); err != nil { // as the kernel does at fork
		t.Fatal(err)
	}
	f.drop(1)
	expect("a child", true, "parent", 3)
	f.relook(h, []uint32{pid})
	expect("a child looked at again", true, "parent", 4)
	if p := h.processes[3]; p.PIDStart != 5 || f.tracked[pid].start != 5 {
		t.Errorf("started %d, tracked %d, want the kernel's 5", p.PIDStart, f.tracked[pid].start)
	}
	// Once it matches by itself, it can also cease to.
	selector.ok, selector.service = true, "own"
	f.look(h, pid, 0, nil)
	expect("a child that matches", true, "own", 5)
	selector.ok = false
	f.relook(h, []uint32{pid})
	expect("and ceases to", false, "own", 5)
}

// killer is a Selector that ends the process between the look at it and its
// selection.
type killer struct{ end func() }

func (k *killer) Select(Candidate) (string, bool) { k.end(); return "", true }
func (*killer) NeedsPorts() bool                  { return false }

func TestRelookAtWhatEnds(t *testing.T) {
	targets := mapsOf(t, "targets")["targets"]
	cmd := child(t)
	pid := uint32(cmd.Process.Pid)
	f := newFinder(Options{Log: slog.New(slog.DiscardHandler), Selector: &killer{func() {
		cmd.Process.Kill() //nolint:errcheck // it may have ended
		cmd.Wait()         //nolint:errcheck // it was killed
	}}}, targets, nil)
	f.relook(&told{}, []uint32{pid})
	var v WeftWeftTarget
	if err := targets.Lookup(pid, &v); err == nil || f.selected() != 0 {
		t.Errorf("in the map: %t, tracked %d", err == nil, f.selected())
	}
	f.relook(&told{}, []uint32{pid}) // long gone
}

func TestAgain(t *testing.T) {
	var a again
	var wait sync.WaitGroup
	for i := range uint32(8) {
		wait.Go(func() { a.add([]uint32{i, 1, 2}) })
	}
	wait.Wait()
	if got := a.take(); !slices.Equal(got, []uint32{0, 1, 2, 3, 4, 5, 6, 7}) {
		t.Errorf("got %v", got)
	}
	if got := a.take(); len(got) != 0 {
		t.Errorf("twice: %v", got)
	}
}
