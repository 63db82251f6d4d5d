// Package config reads what the user sets: a YAML file, and the environment
// over it. Every mistake is reported on one line that says where it is and how
// to mend it.
//
// The YAML nodes are walked by a table of keys (see keys.go) instead of being
// unmarshalled into structs, because only nodes still know their line.
package config

import (
	"fmt"
	"io"
	"log/slog"
	"net/netip"
	"os"
	"strings"
	"time"
)

// Config is everything the user can set. Packages take the part they need.
type Config struct {
	Targets     Targets
	Capture     Capture
	Propagation Propagation
	Baggage     Baggage
	Sampling    Sampling
	Export      Export
	Kubernetes  Kubernetes
	Agent       Agent
	Telemetry   Telemetry
	Log         Log

	file string // where it was read from, for RequireTargets; empty: no file
}

// Capture names a way to see sends and receives; empty means the first one
// that loads and attaches.
type Capture string

// Ways of capture, in the order in which they are tried.
const (
	CaptureAny        Capture = ""
	CaptureFentry     Capture = "fentry"
	CaptureKprobe     Capture = "kprobe"
	CaptureTracepoint Capture = "tracepoint"
)

// Header is a propagated HTTP header.
type Header string

// Headers that propagation.inject may name.
const (
	HeaderTraceparent Header = "traceparent"
	HeaderTracestate  Header = "tracestate"
	HeaderBaggage     Header = "baggage"
)

// Propagation says what is written into departing requests, and whose inbound
// context is believed.
type Propagation struct {
	// Inject lists the headers to write; empty observes only. No rule of Egress
	// lets out more.
	Inject []Header
	// Trust lists the networks whose inbound context is believed, sorted; empty
	// trusts nobody.
	Trust []netip.Prefix
	// Egress narrows Inject by destination: the user's rules, in order. What
	// applies is EgressRules.
	Egress []EgressRule
}

// Injects says whether the header is to be written.
func (p Propagation) Injects(h Header) bool {
	for _, have := range p.Inject {
		if have == h {
			return true
		}
	}
	return false
}

// EgressRule says which headers may leave to one network. An IPv6 network never
// covers an IPv4 address, not even ::/0; v4-mapped networks are stored as IPv4.
type EgressRule struct {
	CIDR        netip.Prefix
	Ports       Ports    // of the peer, at most 4 ranges; empty: all
	Inject      []Header // nil: as Propagation.Inject
	BaggageKeys []string // the only keys that may leave, sorted; nil: all
}

// Baggage says which members of baggage are looked at, and which are made.
type Baggage struct {
	Attributes []string    // keys that become span attributes, sorted
	Set        []SetHeader // sorted by key
}

// SetHeader makes a baggage member of a request header, where the request
// arrives.
type SetHeader struct {
	Key    string
	Header string // field name in lower case
}

// Sampler is a head sampler, named as in OTEL_TRACES_SAMPLER.
type Sampler string

// The head samplers.
const (
	SamplerAlwaysOn                Sampler = "always_on"
	SamplerAlwaysOff               Sampler = "always_off"
	SamplerTraceIDRatio            Sampler = "traceidratio"
	SamplerParentBasedAlwaysOn     Sampler = "parentbased_always_on"
	SamplerParentBasedAlwaysOff    Sampler = "parentbased_always_off"
	SamplerParentBasedTraceIDRatio Sampler = "parentbased_traceidratio"
)

// ParentBased says whether a request that arrives with context keeps its
// sampled flag.
func (s Sampler) ParentBased() bool { return strings.HasPrefix(string(s), "parentbased_") }

// RootRatio is the share of roots to sample, 0 to 1, given the configured
// ratio: 1 and 0 for the samplers that do not look at it.
func (s Sampler) RootRatio(ratio float64) float64 {
	switch s {
	case SamplerAlwaysOn, SamplerParentBasedAlwaysOn:
		return 1
	case SamplerAlwaysOff, SamplerParentBasedAlwaysOff:
		return 0
	default:
		return ratio
	}
}

// Sampling says which traces are kept: at their start in the kernel, and, with
// Tail, once more when their spans are known.
type Sampling struct {
	Head  Sampler
	Ratio float64 // 0 to 1; read by the traceidratio samplers
	// MaxPerSecond bounds sampled roots per service; 0 is no bound.
	MaxPerSecond float64
	// HealthChecks samples GET and HEAD requests without a parent for
	// HealthCheckPaths out. It comes after Rules.
	HealthChecks bool
	Rules        []SamplingRule // for requests without a parent; the first match decides
	Tail         Tail
}

// SamplingRule sets the share of some requests in place of the head sampler's.
// What is set must all match.
type SamplingRule struct {
	Service Glob   // on service.name
	Method  string // upper case; empty: any
	Path    string // the request target begins with it; empty: any
	Ratio   float64
}

// Tail keeps or drops this node's part of a trace when it is complete. A trace
// is kept if one of the conditions holds; of the rest, Ratio.
type Tail struct {
	Enabled        bool
	Errors         bool          // a span with an error
	SlowerThan     time.Duration // a span at least this slow; 0: off
	SlowerQuantile float64       // a span slower than this running quantile of its route; 0: off
	RarePerMinute  int           // a span name seen at most this often a minute; 0: off
	Ratio          float64       // share of the rest
	Wait           time.Duration // from a trace's last span until it is decided
	MaxSpans       int           // spans held; when full the oldest traces are decided early
}

// Protocol is an OTLP transport, named as in OTEL_EXPORTER_OTLP_PROTOCOL.
type Protocol string

// The OTLP transports.
const (
	ProtocolGRPC Protocol = "grpc"
	ProtocolHTTP Protocol = "http/protobuf"
)

// Export says where spans go. The standard OTEL_EXPORTER_OTLP_* variables win
// over it; package export reads those.
type Export struct{ OTLP OTLP }

// OTLP is an OpenTelemetry receiver.
type OTLP struct {
	Endpoint string // http(s) URL or host:port; empty: the default of the exporter
	Protocol Protocol
}

// Agent is weft as a process among those that it traces.
type Agent struct {
	// Background has it wait for its turn rather than interrupt them, and use
	// a part of the CPUs only.
	Background bool
}

// Telemetry is weft's own HTTP listener: /metrics, /healthz, /readyz.
type Telemetry struct {
	Listen string // host:port; empty: no listener
	// BPFStats makes the kernel count the run time of BPF programs, which
	// costs each run of each of the host's about 20 ns.
	BPFStats bool
}

// Format is a layout of log lines.
type Format string

// The log formats.
const (
	FormatText Format = "text"
	FormatJSON Format = "json"
)

// Log is weft's own log, on stderr.
type Log struct {
	Level  slog.Level
	Format Format
}

// Default is the configuration with nothing set.
func Default() *Config {
	return &Config{
		Propagation: Propagation{
			Inject: []Header{HeaderTraceparent, HeaderTracestate, HeaderBaggage},
			Trust:  defaultTrust(),
		},
		Sampling:   Sampling{Head: SamplerParentBasedTraceIDRatio, Ratio: 1, HealthChecks: true},
		Export:     Export{OTLP: OTLP{Protocol: ProtocolGRPC}},
		Kubernetes: Kubernetes{Metadata: MetadataAuto},
		Agent:      Agent{Background: true},
		Telemetry:  Telemetry{Listen: "127.0.0.1:9464"},
		Log:        Log{Level: slog.LevelInfo, Format: FormatText},
	}
}

// Load reads the file at path, then the WEFT_* variables of environ ("K=V", as
// os.Environ gives them) over it, then OTEL_TRACES_SAMPLER over both. With an empty path the file is the one
// WEFT_CONFIG names; if that is empty too there is no file. All mistakes are
// joined into one error, one line each.
func Load(path string, environ []string) (*Config, error) {
	if path == "" {
		path = lookup(environ, envConfig)
	}
	var data []byte
	if path != "" {
		var err error
		if data, err = readFile(path); err != nil {
			return nil, fmt.Errorf("read config: %w", err)
		}
	}
	return Parse(path, data, environ)
}

// maxFile bounds a configuration file, in bytes; full.yaml has 3,000.
const maxFile = 1 << 20

// readFile reads a file of bounded length: a wrong name may be that of a disk, or of
// /dev/zero.
func readFile(path string) (_ []byte, err error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	defer f.Close() //nolint:errcheck // read only
	data, err := io.ReadAll(io.LimitReader(f, maxFile+1))
	if err == nil && len(data) > maxFile {
		err = fmt.Errorf("%s is longer than 1 MiB; is it the right file?", path)
	}
	return data, err
}

// Parse is Load for a file already read; name stands for it in error messages.
func Parse(name string, data []byte, environ []string) (*Config, error) {
	cfg := Default()
	cfg.file = name
	var p problems
	decodeFile(cfg, &p, name, data)
	decodeEnv(cfg, &p, environ)
	decodeOTel(cfg, &p, environ)
	p.crossCheck(cfg)
	if err := p.err(); err != nil {
		return nil, err
	}
	return cfg, nil
}

// RequireTargets refuses a configuration that selects no process, as `run`
// does; `exec` selects its own command and does not call it.
func (c *Config) RequireTargets() error {
	for i := range c.Targets {
		if !c.Targets[i].Exclude {
			return nil
		}
	}
	where := c.file
	if where == "" {
		where = "config"
	}
	what := "no targets, so no process would be traced"
	if len(c.Targets) > 0 {
		what = "every target is an exclude, so no process would be traced"
	}
	return &Error{Where: where, Problem: what +
		`; add for example  targets: [{exe: "/usr/bin/python3*", port: "8080"}]  or set WEFT_TARGETS='[{port: "8080"}]'`}
}
