package config

import (
	"reflect"
	"slices"
)

// Reload is what can be put into force of next while this configuration is: next,
// with this one's values of the keys that are read only where tracing begins. Of
// these it names those that next changes, in order.
func (c *Config) Reload(next *Config) (*Config, []string) {
	out := *next
	var restart []string
	keep := func(key string, now, want any, restore func()) {
		if !reflect.DeepEqual(now, want) {
			restart = append(restart, key)
			restore()
		}
	}
	keep("capture", c.Capture, next.Capture, func() { out.Capture = c.Capture })
	keep("export", c.Export, next.Export, func() { out.Export = c.Export })
	keep("kubernetes", c.Kubernetes, next.Kubernetes, func() { out.Kubernetes = c.Kubernetes })
	keep("agent", c.Agent, next.Agent, func() { out.Agent = c.Agent })
	keep("telemetry", c.Telemetry, next.Telemetry, func() { out.Telemetry = c.Telemetry })
	keep("log.format", c.Log.Format, next.Log.Format, func() { out.Log.Format = c.Log.Format })
	slices.Sort(restart)
	return &out, restart
}
