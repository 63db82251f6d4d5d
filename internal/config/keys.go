package config

import (
	"fmt"
	"net"
	"net/url"
	"strconv"
	"strings"
)

// key is one setting: its dotted path, how a variable of that name is read,
// and where its value goes.
type key struct {
	path string
	form envForm
	set  func(*Config, value)
}

// envForm is how the text of an environment variable becomes a YAML node.
type envForm uint8

const (
	formScalar envForm = iota // the text itself; empty counts as not set
	formList                  // items between commas; empty is the empty list
	formYAML                  // YAML; empty counts as not set
)

// keys lists every setting; the WEFT_* names derive from the paths.
func keys() []key {
	return []key{
		{"targets", formYAML, func(c *Config, v value) { c.Targets = decodeTargets(v) }},
		{"capture", formScalar, func(c *Config, v value) {
			choose(v, &c.Capture, CaptureFentry, CaptureKprobe, CaptureTracepoint)
		}},
		{"propagation.inject", formList, func(c *Config, v value) { c.Propagation.Inject = decodeHeaders(v) }},
		{"propagation.trust", formList, func(c *Config, v value) { c.Propagation.Trust = decodeTrust(v) }},
		{"propagation.egress", formYAML, func(c *Config, v value) { c.Propagation.Egress = decodeEgress(v) }},
		{"baggage.attributes", formList, func(c *Config, v value) { c.Baggage.Attributes = decodeAttributes(v) }},
		{"baggage.set", formYAML, func(c *Config, v value) { c.Baggage.Set = decodeSet(v) }},
		{"sampling.head", formScalar, func(c *Config, v value) { choose(v, &c.Sampling.Head, samplers()...) }},
		{"sampling.ratio", formScalar, func(c *Config, v value) { decodeRatio(v, &c.Sampling.Ratio) }},
		{"sampling.max_per_second", formScalar, func(c *Config, v value) {
			decodeNumber(v, &c.Sampling.MaxPerSecond, "a number from 1 to 1000000, or 0 for no bound",
				func(f float64) bool { return f == 0 || f >= 1 && f <= 1e6 })
		}},
		{"sampling.health_checks", formScalar, func(c *Config, v value) {
			var what string
			if choose(v, &what, "drop", "keep") {
				c.Sampling.HealthChecks = what == "drop"
			}
		}},
		{"sampling.rules", formYAML, func(c *Config, v value) { c.Sampling.Rules = decodeRules(v) }},
		{"sampling.tail", formYAML, func(c *Config, v value) { c.Sampling.Tail = decodeTail(v) }},
		{"export.otlp.endpoint", formScalar, func(c *Config, v value) {
			const want = "an http:// or https:// URL, or host:port"
			if text, ok := v.scalar(want); ok {
				if text != "" && !isEndpoint(text) {
					v.want(want)
					return
				}
				c.Export.OTLP.Endpoint = text
			}
		}},
		{"export.otlp.protocol", formScalar, func(c *Config, v value) {
			choose(v, &c.Export.OTLP.Protocol, ProtocolGRPC, ProtocolHTTP)
		}},
		{"kubernetes.metadata", formScalar, func(c *Config, v value) {
			choose(v, &c.Kubernetes.Metadata, MetadataAuto, MetadataOff)
		}},
		{"kubernetes.kubeconfig", formScalar, func(c *Config, v value) {
			if text, ok := v.scalar("the path of a kubeconfig file"); ok {
				c.Kubernetes.Kubeconfig = text
			}
		}},
		{"kubernetes.node", formScalar, func(c *Config, v value) {
			if text, ok := v.scalar("the name of this node"); ok {
				c.Kubernetes.Node = text
			}
		}},
		{"agent.background", formScalar, func(c *Config, v value) { decodeBool(v, &c.Agent.Background) }},
		{"telemetry.listen", formScalar, func(c *Config, v value) {
			const want = `host:port such as "127.0.0.1:9464", or "off"`
			if text, ok := v.scalar(want); ok {
				if text == "off" {
					text = ""
				}
				if text != "" && !isHostPort(text, true) {
					v.want(want)
					return
				}
				c.Telemetry.Listen = text
			}
		}},
		{"telemetry.bpf_stats", formScalar, func(c *Config, v value) { decodeBool(v, &c.Telemetry.BPFStats) }},
		{"log.level", formScalar, func(c *Config, v value) {
			var level string
			if choose(v, &level, "debug", "info", "warn", "error") {
				if err := c.Log.Level.UnmarshalText([]byte(level)); err != nil {
					v.want("a log level")
				}
			}
		}},
		{"log.format", formScalar, func(c *Config, v value) { choose(v, &c.Log.Format, FormatText, FormatJSON) }},
	}
}

// choose stores the value if it is one of those allowed.
func choose[T ~string](v value, into *T, allowed ...T) bool {
	names := make([]string, len(allowed))
	for i, a := range allowed {
		names[i] = string(a)
	}
	want := "one of " + strings.Join(names, ", ")
	text, ok := v.scalar(want)
	if !ok {
		return false
	}
	for _, a := range allowed {
		if text == string(a) {
			*into = a
			return true
		}
	}
	if n := nearest(text, names); n != "" {
		want += fmt.Sprintf(" (%s?)", n)
	}
	v.want(want)
	return false
}

// decodeNumber stores a number that is allowed; NaN never is.
func decodeNumber(v value, into *float64, want string, allowed func(float64) bool) {
	if text, ok := v.scalar(want); ok {
		f, err := strconv.ParseFloat(text, 64)
		if err != nil || !allowed(f) {
			v.want(want)
			return
		}
		*into = f
	}
}

func decodeBool(v value, into *bool) {
	const want = "true or false"
	if text, ok := v.scalar(want); ok {
		if text != "true" && text != "false" {
			v.want(want)
			return
		}
		*into = text == "true"
	}
}

func decodeGlob(v value, into *Glob) {
	if text, ok := v.scalar("a glob"); ok {
		g, err := CompileGlob(text)
		if err != nil {
			v.fail("%v", err)
			return
		}
		*into = g
	}
}

func decodePorts(v value, into *Ports) {
	if text, ok := v.scalar(`ports such as "8080,9000-9010"`); ok {
		ports, err := ParsePorts(text)
		if err != nil {
			v.fail("%v, got %q", err, text)
			return
		}
		*into = ports
	}
}

func decodeTargets(v value) Targets {
	targets := Targets{}
	for _, item := range v.items(`a list such as [{exe: "/usr/bin/python3*"}]`) {
		targets = append(targets, decodeTarget(item))
	}
	return targets
}

func decodeTarget(v value) Target {
	t := Target{where: v.where()}
	bad := v.problems.count()
	known := v.mapping(map[string]func(value){
		"name": func(v value) {
			if text, ok := v.scalar("a name"); ok {
				if text == "" {
					v.fail("empty name; leave the key out to take the name from the process")
				}
				t.Name = text
			}
		},
		"exe":    func(v value) { decodeGlob(v, &t.Exe) },
		"args":   func(v value) { decodeGlob(v, &t.Args) },
		"cgroup": func(v value) { decodeGlob(v, &t.Cgroup) },
		"port":   func(v value) { decodePorts(v, &t.Ports) },
		"pid": func(v value) {
			const want = "a process id, 1 to 4194304"
			if text, ok := v.scalar(want); ok {
				n, err := strconv.ParseUint(text, 10, 32)
				if err != nil || n < 1 || n > 1<<22 {
					v.want(want)
					return
				}
				t.PID = uint32(n)
			}
		},
		"k8s":     func(v value) { decodeK8s(v, &t.K8s) },
		"exclude": func(v value) { decodeBool(v, &t.Exclude) },
	})
	if known && v.problems.count() == bad && !t.selects() {
		v.fail("no selector; add one of exe, args, port, pid, cgroup, k8s")
	}
	return t
}

// isEndpoint accepts what the OTLP exporters accept: a URL, or host:port as
// gRPC writes it.
func isEndpoint(s string) bool {
	if !strings.Contains(s, "://") {
		return isHostPort(s, false)
	}
	u, err := url.Parse(s)
	if err != nil || u.Hostname() == "" || u.Scheme != "http" && u.Scheme != "https" {
		return false
	}
	return u.Port() == "" || isPort(u.Port())
}

func isHostPort(s string, emptyHost bool) bool {
	host, port, err := net.SplitHostPort(s)
	return err == nil && (host != "" || emptyHost) && !strings.ContainsAny(host, " /") && isPort(port)
}

// isPort accepts 0 too: a listener on port 0 takes a free one.
func isPort(s string) bool {
	_, err := strconv.ParseUint(s, 10, 16)
	return err == nil
}
