package config

import (
	"regexp"
	"slices"
	"strings"

	"go.yaml.in/yaml/v3"
)

const (
	envPrefix = "WEFT_"
	envConfig = "WEFT_CONFIG" // path of the file, where no flag gives one

	envSampler    = "OTEL_TRACES_SAMPLER"
	envSamplerArg = "OTEL_TRACES_SAMPLER_ARG"
)

// EnvName is the variable of a key: "log.level" is WEFT_LOG_LEVEL.
func EnvName(path string) string {
	return envPrefix + strings.ToUpper(strings.ReplaceAll(path, ".", "_"))
}

// foreign are names with our prefix that are not ours to read: Kubernetes
// announces a Service called weft or weft-… to every pod of its namespace
// (WEFT_SERVICE_HOST, WEFT_PORT_4317_TCP, …), and the project's own tests and
// VM runner use a few.
var foreign = regexp.MustCompile(`^WEFT_(([A-Z0-9_]+_)?(SERVICE_HOST|SERVICE_PORT(_[A-Z0-9_]+)?|` +
	`PORT(_\d+_(TCP|UDP|SCTP)(_(PROTO|PORT|ADDR))?)?)|BIN|(VM|TEST|E2E)_[A-Z0-9_]+)$`)

func lookup(environ []string, name string) string {
	for _, kv := range environ {
		if k, v, _ := strings.Cut(kv, "="); k == name {
			return v
		}
	}
	return ""
}

// decodeEnv applies WEFT_* variables over what the file said, in the order of
// their names so that messages come out the same each time.
func decodeEnv(cfg *Config, p *problems, environ []string) {
	byName := map[string]key{}
	names := []string{envConfig}
	for _, k := range keys() {
		byName[EnvName(k.path)] = k
		names = append(names, EnvName(k.path))
	}
	for _, kv := range slices.Sorted(slices.Values(environ)) {
		name, text, _ := strings.Cut(kv, "=")
		if !strings.HasPrefix(name, envPrefix) || name == envConfig {
			continue
		}
		k, known := byName[name]
		if !known {
			if !foreign.MatchString(name) {
				p.add(&Error{Where: name, Problem: "unknown variable; " + suggest(name, names)})
			}
			continue
		}
		if root := envNode(k.form, name, text, p); root != nil {
			path := ""
			if k.form == formYAML {
				path = k.path // what is inside needs its place named
			}
			k.set(cfg, value{source: name, isEnv: true, problems: p}.child(root, path))
		}
	}
}

// decodeOTel applies the standard sampler variables of weft's own environment
// over everything else, as the exporters do with theirs. The argument counts
// only beside a sampler that takes one, and is 1 where it is not given
// (OpenTelemetry SDK environment variables, general).
func decodeOTel(cfg *Config, p *problems, environ []string) {
	variable := func(name string) (value, bool) {
		text := strings.TrimSpace(lookup(environ, name))
		node := &yaml.Node{Kind: yaml.ScalarNode, Tag: "!!str", Value: text}
		return value{node: node, source: name, isEnv: true, problems: p}, text != ""
	}
	sampler, set := variable(envSampler)
	if !set {
		return
	}
	sampler.node.Value = strings.ToLower(sampler.node.Value)
	if !choose(sampler, &cfg.Sampling.Head, samplers()...) {
		return
	}
	switch cfg.Sampling.Head {
	case SamplerTraceIDRatio, SamplerParentBasedTraceIDRatio:
		cfg.Sampling.Ratio = 1
		if arg, set := variable(envSamplerArg); set {
			decodeRatio(arg, &cfg.Sampling.Ratio)
		}
	}
}

// envNode makes a variable look as its key does in the file; nil: not set.
func envNode(form envForm, name, text string, p *problems) *yaml.Node {
	text = strings.TrimSpace(text)
	scalar := func(s string) *yaml.Node {
		return &yaml.Node{Kind: yaml.ScalarNode, Tag: "!!str", Value: s}
	}
	switch form {
	case formScalar:
		if text == "" {
			return nil
		}
		return scalar(text)
	case formList:
		list := &yaml.Node{Kind: yaml.SequenceNode}
		if text == "" {
			return list
		}
		for item := range strings.SplitSeq(text, ",") {
			list.Content = append(list.Content, scalar(strings.TrimSpace(item)))
		}
		return list
	default: // formYAML
		node := parseYAML(name, []byte(text), p)
		if node != nil && node.Kind == yaml.ScalarNode && node.ShortTag() == "!!null" {
			return nil
		}
		return node
	}
}
