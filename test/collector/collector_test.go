// Package collector tests deploy/collector with the real OpenTelemetry
// Collector: gateways, samplers, agents and a backend on loopback, running the
// files that are shipped. `make collector` builds the Collector and runs it.
package collector

import (
	"cmp"
	"fmt"
	"math"
	"math/rand/v2"
	"net"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"google.golang.org/protobuf/proto"
	"sigs.k8s.io/yaml"
)

const (
	never     = 1 << 56 // threshold that nothing passes
	seed      = 20260101
	perTest   = 4000 // traces
	decisions = "otelcol_processor_tail_sampling_global_count_traces_sampled"
)

// tiers are the running Collectors and the backend behind them.
type tiers struct {
	sink     *sink
	gateways []*collector
	samplers []*collector
}

// startTiers runs gateways and one sampler for each host. resolver returns the
// gateways' SAMPLERS, given the samplers' addresses.
func startTiers(t *testing.T, config string, gateways int, hosts []string, samePort bool, resolver func(samplers []string) string) *tiers {
	t.Helper()
	var free ports
	all := &tiers{sink: newSink(t)}
	addresses := make([]string, 0, len(hosts))
	if samePort {
		addresses = free.pickAll(t, hosts)
	} else {
		for _, host := range hosts {
			addresses = append(addresses, free.pick(t, host))
		}
	}
	add := func(name, grpc string) *collector {
		return &collector{
			name: name, grpc: grpc, http: free.pick(t, "127.0.0.1"),
			health: free.pick(t, "127.0.0.1"), metrics: free.pick(t, "127.0.0.1"),
		}
	}
	for i, address := range addresses {
		all.samplers = append(all.samplers, add(fmt.Sprintf("sampler-%d", i), address))
	}
	for i := range gateways {
		all.gateways = append(all.gateways, add(fmt.Sprintf("gateway-%d", i), free.pick(t, "127.0.0.1")))
	}
	free.release()
	for _, c := range all.samplers {
		c.start(t, config, "BACKEND="+all.sink.address, "BACKEND_INSECURE=true")
	}
	for _, c := range all.samplers {
		c.ready(t)
	}
	// Now that they listen, nothing has to be sent again.
	for _, c := range all.gateways {
		c.start(t, "gateway.yaml", "SAMPLERS="+resolver(addresses))
	}
	for _, c := range all.gateways {
		c.ready(t)
	}
	return all
}

// decided waits until the samplers have decided n times by themselves, and
// returns how often each.
func (a *tiers) decided(t *testing.T, n int, wait time.Duration) []int {
	t.Helper()
	each := make([]int, len(a.samplers))
	a.samplers[0].until(t, wait+time.Minute, fmt.Sprintf("the number of decisions, %d,", n), func() error {
		total := 0
		for i, c := range a.samplers {
			sum, err := c.sum(decisions)
			if err != nil {
				return err
			}
			each[i] = int(sum)
			total += each[i]
		}
		if total != n {
			return fmt.Errorf("decided %v, %d in all", each, total)
		}
		return nil
	})
	return each
}

// stop ends the tiers in the order of the data, so that all of it arrives.
func (a *tiers) stop(t *testing.T) {
	t.Helper()
	for _, c := range slices.Concat(a.gateways, a.samplers) {
		c.stop(t)
	}
}

// settings are what a shipped sampler file says, so that changing a number there
// changes what is expected here.
type settings struct {
	wait  time.Duration
	slow  time.Duration
	share float64 // 0 to 1
}

// samplerFile is the part of a sampler file that they are in.
type samplerFile struct {
	Processors map[string]struct {
		Wait     string  `json:"decision_wait"`
		Share    float64 `json:"sampling_percentage"`
		Policies []struct {
			Latency       latency
			Probabilistic struct {
				Share float64 `json:"sampling_percentage"`
			}
			Drop struct {
				Sub []struct{ Latency latency } `json:"drop_sub_policy"`
			}
		}
	}
}

type latency struct {
	Threshold int64 `json:"threshold_ms"`
}

func readSettings(t *testing.T, config, sampler string) settings {
	t.Helper()
	var file samplerFile
	if err := yaml.Unmarshal([]byte(read(t, config)), &file); err != nil {
		t.Fatalf("%s: %v", config, err)
	}
	wait, err := time.ParseDuration(file.Processors[sampler].Wait)
	if err != nil {
		t.Fatalf("%s: %s: decision_wait: %v", config, sampler, err)
	}
	s := settings{wait: wait}
	percent, milliseconds := file.Processors["probabilistic_sampler"].Share, int64(0)
	for _, p := range file.Processors[sampler].Policies {
		milliseconds = max(milliseconds, p.Latency.Threshold)
		for _, sub := range p.Drop.Sub {
			milliseconds = max(milliseconds, sub.Latency.Threshold)
		}
		percent = max(percent, p.Probabilistic.Share)
	}
	s.slow, s.share = time.Duration(milliseconds)*time.Millisecond, percent/100
	if s.wait <= 0 || s.slow <= 0 || s.share <= 0 || s.share >= 1 {
		t.Fatalf("%s: %s: want a wait, a latency threshold and a share, got %+v", config, sampler, s)
	}
	return s
}

// verdict is what arrived of the traces that were sent.
type verdict struct {
	sent, kept [kinds]int
	estimate   [kinds]float64 // requests, from the kept traces' ot=th
	variance   [kinds]float64
}

// judge compares what arrived with what was sent, span by span: a trace is there
// whole, as it was, or not at all. want returns the tracestate that the spans of
// a kept trace should have.
func judge(t *testing.T, stories []*story, clients []*client, got map[traceID][]arrival, want func(*story) string) verdict {
	t.Helper()
	var v verdict
	wrong := 0
	complain := func(format string, args ...any) {
		if wrong++; wrong <= 10 {
			t.Errorf(format, args...)
		}
	}
	for _, s := range stories {
		v.sent[s.kind]++
		arrived := got[s.id]
		delete(got, s.id)
		if len(arrived) == 0 {
			if s.kind != ordinary {
				complain("trace %x: %v, and dropped", s.id, s.kind)
			}
			continue
		}
		v.kept[s.kind]++
		if len(arrived) != len(s.spans) {
			complain("trace %x: %v: %d of %d spans arrived", s.id, s.kind, len(arrived), len(s.spans))
		}
		tracestate := want(s)
		for _, p := range s.spans {
			i := slices.IndexFunc(arrived, func(a arrival) bool { return string(a.span.SpanId) == string(p.span.SpanId) })
			if i < 0 {
				complain("trace %x: %v: the span %q of node %d is missing", s.id, s.kind, p.span.Name, p.node)
				continue
			}
			sent := proto.CloneOf(p.span)
			sent.TraceState = tracestate
			if !proto.Equal(arrived[i].span, sent) {
				complain("trace %x: %v: the span %q of node %d changed:\n got %v\nwant %v", s.id, s.kind, p.span.Name, p.node, arrived[i].span, sent)
			}
			if !proto.Equal(arrived[i].resource, clients[p.node].resource) {
				complain("trace %x: the span %q of node %d has resource %v", s.id, p.span.Name, p.node, arrived[i].resource)
			}
		}
		count := never / float64(never-threshold(t, arrived[0].span.TraceState))
		v.estimate[s.kind] += count
		v.variance[s.kind] += count * (count - 1)
	}
	for id, spans := range got {
		complain("trace %x: nobody sent it, %d spans arrived", id, len(spans))
	}
	if wrong > 10 {
		t.Errorf("%d more like these", wrong-10)
	}
	for k := failed; k < kinds; k++ {
		if v.sent[k] == 0 {
			t.Errorf("no trace of kind %v was sent", k)
		}
	}
	t.Logf("by kind: sent %v, kept %v, estimated %.0f", v.sent, v.kept, v.estimate)
	return v
}

// threshold reads ot=th; 0 without.
func threshold(t *testing.T, tracestate string) uint64 {
	t.Helper()
	ot, _ := splitOT(tracestate)
	for _, sub := range ot {
		if hex, found := strings.CutPrefix(sub, "th:"); found {
			th, err := strconv.ParseUint((hex + strings.Repeat("0", 14))[:14], 16, 64)
			if err != nil {
				t.Fatalf("tracestate %q: %v", tracestate, err)
			}
			return th
		}
	}
	return 0
}

// splitOT returns the sub-members of ot, and the other members.
func splitOT(tracestate string) (ot, others []string) {
	for member := range strings.SplitSeq(tracestate, ",") {
		if value, found := strings.CutPrefix(member, "ot="); found {
			ot = strings.Split(value, ";")
		} else if member != "" {
			others = append(others, member)
		}
	}
	return ot, others
}

// TestSampler: sampler.yaml behind two gateways, fixed addresses.
func TestSampler(t *testing.T) {
	t.Parallel()
	shipped := readSettings(t, "sampler.yaml", "tail_sampling")
	all := startTiers(t, "sampler.yaml", 2, []string{"127.0.0.1", "127.0.0.1"}, false, func(samplers []string) string {
		return fmt.Sprintf("{static: {hostnames: [%q, %q]}}", samplers[0], samplers[1])
	})
	a := &author{random: rand.New(rand.NewPCG(seed, 1)), threshold: shipped.slow, base: time.Now(), members: 32}
	stories := a.write(perTest)
	clients := newClients(t, all.gateways)
	a.tell(t, stories, clients)
	each := all.decided(t, len(stories), shipped.wait)
	t.Logf("decisions of each sampler: %v", each)
	for i, n := range each {
		if n < len(stories)/5 {
			t.Errorf("sampler %d decided %d traces of %d: the gateways do not spread them", i, n, len(stories))
		}
	}
	all.stop(t)

	v := judge(t, stories, clients, all.sink.received(), func(s *story) string { return s.tracestate })
	n := float64(v.sent[ordinary])
	within(t, "ordinary traces kept", float64(v.kept[ordinary]), n*shipped.share, n*shipped.share*(1-shipped.share))
	// What README.md warns of: tracestate does not know of the share.
	made := a.made[ordinary]
	if v.estimate[ordinary] > float64(made)*shipped.share*2 {
		t.Errorf("ot=th gives %.0f ordinary requests of %d: the share is known now, mend README.md", v.estimate[ordinary], made)
	}
}

// TestSamplerCounted: sampler-counted.yaml, and the gateway finds its samplers by
// name, as in production: one on each address of localhost.
func TestSamplerCounted(t *testing.T) {
	t.Parallel()
	shipped := readSettings(t, "sampler-counted.yaml", "tail_sampling/certain")
	if rest := readSettings(t, "sampler-counted.yaml", "tail_sampling/rest"); rest != shipped {
		t.Errorf("sampler-counted.yaml: rest has %+v, certain %+v", rest, shipped)
	}
	hosts, err := net.LookupHost("localhost")
	if err != nil {
		t.Fatal(err)
	}
	slices.Sort(hosts)
	hosts = slices.Compact(hosts)
	all := startTiers(t, "sampler-counted.yaml", 1, hosts, true, func(samplers []string) string {
		_, port, _ := net.SplitHostPort(samplers[0])
		return fmt.Sprintf("{dns: {hostname: localhost, port: %q, interval: 5s}}", port)
	})
	// One for ot, which is added where there is none, and one less than W3C allows:
	// the probabilistic sampler refuses 32 (README.md).
	a := &author{random: rand.New(rand.NewPCG(seed, 2)), threshold: shipped.slow, base: time.Now(), members: 31}
	stories := a.write(perTest)
	clients := newClients(t, all.gateways)
	a.tell(t, stories, clients)

	// The processor's threshold has four digits.
	share := uint64(math.Round((1-shipped.share)*(1<<16))) << 40
	inShare := 0
	for _, s := range stories {
		if s.random >= max(share, s.head) {
			inShare++
		}
	}
	// Every trace is decided once by certain, those of the share by rest too.
	all.decided(t, len(stories)+inShare, shipped.wait)
	all.stop(t)

	got := all.sink.received()
	for _, s := range stories {
		if kept := s.random >= max(share, s.head); s.kind == ordinary && kept != (len(got[s.id]) > 0) {
			t.Errorf("trace %x: randomness %014x, threshold %014x: kept is %v", s.id, s.random, share, !kept)
		}
	}
	v := judge(t, stories, clients, got, func(s *story) string {
		if s.kind != ordinary {
			return s.tracestate
		}
		ot, others := splitOT(s.tracestate)
		ot = slices.DeleteFunc(ot, func(sub string) bool { return strings.HasPrefix(sub, "th:") })
		ot = append(ot, "th:"+strings.TrimRight(fmt.Sprintf("%014x", max(share, s.head)), "0"))
		return strings.Join(append([]string{"ot=" + strings.Join(ot, ";")}, others...), ",")
	})
	for k, made := range a.made {
		within(t, fmt.Sprintf("%v requests by ot=th", kind(k)), v.estimate[k], float64(made), v.variance[k])
	}
}

// within wants a sum of independent chances inside five standard deviations.
func within(t *testing.T, what string, got, want, variance float64) {
	t.Helper()
	spread := 5 * math.Sqrt(variance)
	t.Logf("%s: %.0f, want %.0f ± %.0f", what, got, want, spread)
	if cmp.Compare(math.Abs(got-want), spread) > 0 {
		t.Errorf("%s: %.0f, want %.0f ± %.0f", what, got, want, spread)
	}
}
