package config

import (
	"log/slog"
	"slices"
	"strings"
	"testing"
)

func parsed(t *testing.T, text string) *Config {
	t.Helper()
	c, err := Parse("weft.yaml", []byte(text), nil)
	if err != nil {
		t.Fatal(err)
	}
	return c
}

func TestReload(t *testing.T) {
	const before = `
targets: [{port: "8080"}]
log: {level: info}
`
	tests := []struct {
		name, after string
		restart     []string
		applied     func(*Config) bool
	}{
		{"nothing", before, nil, func(c *Config) bool { return c.Log.Level == slog.LevelInfo }},
		{"at once", `
targets: [{port: "9090"}]
propagation: {inject: [], trust: []}
baggage: {attributes: [user_id], set: {user_id: {header: X-User-Id}}}
sampling: {ratio: 0.5, rules: [{path: /a, ratio: 0}], tail: {ratio: 0.5}}
log: {level: debug}
`, nil, func(c *Config) bool {
			return c.Log.Level == slog.LevelDebug && c.Targets[0].Ports[0].Low == 9090 && c.Sampling.Ratio == 0.5 &&
				len(c.Sampling.Rules) == 1 && len(c.Propagation.Inject) == 0 && len(c.Baggage.Attributes) == 1 &&
				len(c.Baggage.Set) == 1 && c.Sampling.Tail.Enabled
		}},
		{"after a restart", `
targets: [{port: "8080"}]
capture: kprobe
export: {otlp: {endpoint: "http://collector:4317"}}
kubernetes: {node: other}
agent: {background: false}
telemetry: {listen: "127.0.0.1:1"}
log: {format: json}
`, []string{"agent", "capture", "export", "kubernetes", "log.format", "telemetry"}, func(c *Config) bool {
			return c.Capture == CaptureAny && c.Export.OTLP.Endpoint == "" &&
				c.Kubernetes.Node == "" && c.Telemetry.Listen == "127.0.0.1:9464" && c.Log.Format == FormatText
		}},
		{"some of each", `
targets: [{port: "8080"}]
capture: kprobe
sampling: {ratio: 0.25}
`, []string{"capture"}, func(c *Config) bool { return c.Capture == CaptureAny && c.Sampling.Ratio == 0.25 }},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			applied, restart := parsed(t, before).Reload(parsed(t, tt.after))
			if !slices.Equal(restart, tt.restart) {
				t.Errorf("needs a restart: %q, want %q", restart, tt.restart)
			}
			if !tt.applied(applied) {
				t.Errorf("in force: %+v", applied)
			}
			// Once in force, the same file changes nothing at once any more.
			if _, again := applied.Reload(parsed(t, tt.after)); !slices.Equal(again, tt.restart) {
				t.Errorf("the second time: %q", again)
			}
		})
	}
}

// TestReloadKnowsEveryKey: a key that is added must be decided about.
func TestReloadKnowsEveryKey(t *testing.T) {
	at := []string{"targets", "propagation.", "baggage.", "sampling.", "log.level"}
	restart := []string{"agent.", "capture", "export.", "kubernetes.", "telemetry.", "log.format"}
	for _, k := range keys() {
		known := 0
		for _, prefix := range slices.Concat(at, restart) {
			if strings.HasPrefix(k.path, prefix) {
				known++
			}
		}
		if known != 1 {
			t.Errorf("%s: not decided whether it needs a restart", k.path)
		}
	}
}
