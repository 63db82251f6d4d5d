package export

import (
	"fmt"
	"strings"
	"testing"
	"time"
)

func TestResolveOTLP(t *testing.T) {
	const p = "OTEL_EXPORTER_OTLP_"
	for name, tc := range map[string]struct {
		options OTLPOptions
		env     map[string]string
		want    string // description, or "off: " and why
		tls     bool
		check   func(*OTLPSettings) string // "" is right
	}{
		"nothing set":               {want: "off: no endpoint"},
		"disabled":                  {options: OTLPOptions{Endpoint: "http://a:1"}, env: map[string]string{"OTEL_SDK_DISABLED": "TRUE"}, want: "off: OTEL_SDK_DISABLED=true"},
		"none":                      {options: OTLPOptions{Endpoint: "http://a:1"}, env: map[string]string{"OTEL_TRACES_EXPORTER": "none"}, want: "off: OTEL_TRACES_EXPORTER=none"},
		"asked for, default":        {env: map[string]string{"OTEL_TRACES_EXPORTER": "otlp"}, want: "grpc http://localhost:4317"},
		"asked for, default HTTP":   {env: map[string]string{"OTEL_TRACES_EXPORTER": "otlp", p + "PROTOCOL": "http/protobuf"}, want: "http/protobuf http://localhost:4318/v1/traces"},
		"config":                    {options: OTLPOptions{Endpoint: "http://a:1"}, want: "grpc http://a:1"},
		"config, host and port":     {options: OTLPOptions{Endpoint: "a:1"}, want: "grpc http://a:1"},
		"config, address and port":  {options: OTLPOptions{Endpoint: "127.0.0.1:4317"}, want: "grpc http://127.0.0.1:4317"},
		"config, IPv6":              {options: OTLPOptions{Endpoint: "http://[::1]"}, want: "grpc http://[::1]:4317"},
		"config, TLS, no port":      {options: OTLPOptions{Endpoint: "https://a"}, want: "grpc https://a:4317", tls: true},
		"HTTP, no port":             {options: OTLPOptions{Endpoint: "https://a/base/", Protocol: ProtocolHTTP}, want: "http/protobuf https://a:443/base/v1/traces", tls: true},
		"HTTP by its port":          {options: OTLPOptions{Endpoint: "a:4318"}, want: "http/protobuf http://a:4318/v1/traces"},
		"4318 but gRPC asked for":   {options: OTLPOptions{Endpoint: "http://a:4318", Protocol: ProtocolGRPC}, want: "grpc http://a:4318"},
		"socket file":               {options: OTLPOptions{Endpoint: "unix:///run/otel.sock"}, want: "grpc unix:///run/otel.sock"},
		"environment wins":          {options: OTLPOptions{Endpoint: "http://a:1", Protocol: ProtocolGRPC}, env: map[string]string{p + "ENDPOINT": "http://b:2", p + "PROTOCOL": "http/protobuf"}, want: "http/protobuf http://b:2/v1/traces"},
		"traces win over general":   {env: map[string]string{p + "ENDPOINT": "http://b:2", p + "TRACES_ENDPOINT": "http://c:3/own", p + "PROTOCOL": "grpc", p + "TRACES_PROTOCOL": "http/protobuf"}, want: "http/protobuf http://c:3/own"},
		"traces endpoint, no path":  {env: map[string]string{p + "TRACES_ENDPOINT": "http://c:3", p + "PROTOCOL": "http/protobuf"}, want: "http/protobuf http://c:3/"},
		"environment, no scheme":    {env: map[string]string{p + "ENDPOINT": "b:2"}, want: "grpc https://b:2", tls: true},
		"environment, insecure":     {env: map[string]string{p + "ENDPOINT": "b:2", p + "INSECURE": "true"}, want: "grpc http://b:2"},
		"scheme wins over insecure": {env: map[string]string{p + "ENDPOINT": "https://b:2", p + "INSECURE": "true"}, want: "grpc https://b:2", tls: true},
		"config made secure":        {options: OTLPOptions{Endpoint: "a:1"}, env: map[string]string{p + "TRACES_INSECURE": "false"}, want: "grpc https://a:1", tls: true},
		"defaults": {options: OTLPOptions{Endpoint: "a:1"}, want: "grpc http://a:1", check: func(s *OTLPSettings) string {
			return differs(s, "10s 1s 16384 512 false map[]")
		}},
		"configured": {
			options: OTLPOptions{Endpoint: "a:1", Timeout: time.Second, Delay: time.Minute, QueueSize: 9, BatchSize: 99, Compression: "gzip", Headers: map[string]string{"A": "1"}},
			want:    "grpc http://a:1", check: func(s *OTLPSettings) string { return differs(s, "1s 1m0s 9 9 true map[a:1]") },
		},
		"all by environment": {
			options: OTLPOptions{Endpoint: "a:1", Timeout: time.Second, Delay: time.Minute, QueueSize: 9, BatchSize: 9, Compression: "gzip", Headers: map[string]string{"A": "1", "B": "2"}},
			env: map[string]string{
				p + "TIMEOUT": "250", p + "COMPRESSION": "none", p + "HEADERS": "b=x%2Cy,, c = =z ",
				"OTEL_BSP_SCHEDULE_DELAY": "40", "OTEL_BSP_MAX_QUEUE_SIZE": "77", "OTEL_BSP_MAX_EXPORT_BATCH_SIZE": "7",
			},
			want: "grpc http://a:1", check: func(s *OTLPSettings) string { return differs(s, "250ms 40ms 77 7 false map[a:1 b:x,y c:=z]") },
		},
		"compression of traces": {
			env:  map[string]string{p + "ENDPOINT": "http://a:1", p + "COMPRESSION": "none", p + "TRACES_COMPRESSION": "gzip"},
			want: "grpc http://a:1", check: func(s *OTLPSettings) string { return differs(s, "10s 1s 16384 512 true map[]") },
		},
	} {
		t.Run(name, func(t *testing.T) {
			clearEnv(t)
			for k, v := range tc.env {
				t.Setenv(k, v)
			}
			s, err := ResolveOTLP(tc.options)
			if err != nil {
				t.Fatal(err)
			}
			got := s.String()
			if s.Off != "" {
				got = "off: " + s.Off
			}
			if got != tc.want || (s.TLS != nil) != tc.tls {
				t.Errorf("got %q (TLS %v), want %q (TLS %v)", got, s.TLS != nil, tc.want, tc.tls)
			}
			if tc.check != nil {
				if bad := tc.check(s); bad != "" {
					t.Error(bad)
				}
			}
		})
	}
}

func differs(s *OTLPSettings, want string) string {
	got := fmt.Sprint(s.Timeout, s.Delay, " ", s.QueueSize, " ", s.BatchSize, " ", s.Gzip, " ", s.Headers)
	got = strings.Join(strings.Fields(got), " ")
	if got != want {
		return fmt.Sprintf("got %q, want %q", got, want)
	}
	return ""
}

// Every mistake is one line that names the place and the way out.
func TestResolveOTLPMistakes(t *testing.T) {
	const p = "OTEL_EXPORTER_OTLP_"
	ca := newAuthority(t)
	secure := map[string]string{p + "ENDPOINT": "https://a:1"}
	for name, tc := range map[string]struct {
		options OTLPOptions
		env     map[string]string
		want    string
	}{
		"exporter":        {env: map[string]string{"OTEL_TRACES_EXPORTER": "zipkin"}, want: `OTEL_TRACES_EXPORTER: unknown exporter "zipkin"; use otlp or none`},
		"protocol":        {options: OTLPOptions{Endpoint: "a:1", Protocol: "http"}, want: `export.otlp.protocol: unknown protocol "http"; use grpc or http/protobuf`},
		"env protocol":    {options: OTLPOptions{Endpoint: "a:1"}, env: map[string]string{p + "TRACES_PROTOCOL": "http/json"}, want: p + `TRACES_PROTOCOL: unknown protocol "http/json"; use grpc or http/protobuf`},
		"no port":         {options: OTLPOptions{Endpoint: "collector"}, want: `export.otlp.endpoint: "collector" has no port; write`},
		"no host":         {env: map[string]string{p + "ENDPOINT": "http://:4317"}, want: p + `ENDPOINT: "http://:4317" has no host; write`},
		"scheme":          {options: OTLPOptions{Endpoint: "tcp://a:1"}, want: `"tcp://a:1" has an unknown scheme`},
		"not a URL":       {options: OTLPOptions{Endpoint: "http://a:b c"}, want: `"http://a:b c" is not a URL`},
		"socket file":     {options: OTLPOptions{Endpoint: "unix:///x", Protocol: ProtocolHTTP}, want: "only grpc can use"},
		"timeout":         {options: OTLPOptions{Endpoint: "a:1"}, env: map[string]string{p + "TIMEOUT": "5s"}, want: p + `TIMEOUT: "5s" is not a number of milliseconds`},
		"delay":           {options: OTLPOptions{Endpoint: "a:1"}, env: map[string]string{"OTEL_BSP_SCHEDULE_DELAY": "0"}, want: `OTEL_BSP_SCHEDULE_DELAY: "0" is not`},
		"queue":           {options: OTLPOptions{Endpoint: "a:1"}, env: map[string]string{"OTEL_BSP_MAX_QUEUE_SIZE": "-1"}, want: `OTEL_BSP_MAX_QUEUE_SIZE: "-1" is not a number of spans`},
		"batch":           {options: OTLPOptions{Endpoint: "a:1"}, env: map[string]string{"OTEL_BSP_MAX_EXPORT_BATCH_SIZE": "many"}, want: `OTEL_BSP_MAX_EXPORT_BATCH_SIZE: "many" is not`},
		"compression":     {options: OTLPOptions{Endpoint: "a:1"}, env: map[string]string{p + "COMPRESSION": "zstd"}, want: `COMPRESSION: unknown compression "zstd"; use gzip or none`},
		"header":          {options: OTLPOptions{Endpoint: "a:1"}, env: map[string]string{p + "HEADERS": "ok=1,Bearer secret"}, want: p + "HEADERS: entry 2 is not name=value"},
		"own header":      {options: OTLPOptions{Endpoint: "a:1"}, env: map[string]string{p + "HEADERS": "Content-Type=secret"}, want: p + "HEADERS: entry 1 is not"},
		"header escape":   {options: OTLPOptions{Endpoint: "a:1"}, env: map[string]string{p + "HEADERS": "k=secret%"}, want: `the value of "k" has a broken %-escape`},
		"CA, no TLS":      {options: OTLPOptions{Endpoint: "http://a:1", CAFile: ca.ca}, want: "is set, but grpc http://a:1 is not TLS; use https:// or unset it"},
		"CA gone":         {options: OTLPOptions{CAFile: ca.gone}, env: secure, want: "gone.pem: no such file or directory; name a readable PEM file"},
		"CA not PEM":      {env: map[string]string{p + "ENDPOINT": "https://a:1", p + "CERTIFICATE": ca.notPEM}, want: p + "CERTIFICATE: " + ca.notPEM + " holds no PEM certificate"},
		"key without":     {options: OTLPOptions{KeyFile: ca.keyPEM}, env: secure, want: "set both"},
		"key of no other": {options: OTLPOptions{CertFile: ca.ca, KeyFile: ca.keyPEM}, env: secure, want: "name a PEM certificate and its key"},
	} {
		t.Run(name, func(t *testing.T) {
			clearEnv(t)
			for k, v := range tc.env {
				t.Setenv(k, v)
			}
			_, err := ResolveOTLP(tc.options)
			if err == nil || !strings.Contains(err.Error(), tc.want) {
				t.Fatalf("got  %v\nwant …%s…", err, tc.want)
			}
			if strings.Contains(err.Error(), "\n") || strings.Contains(err.Error(), "secret") {
				t.Errorf("more than one line, or a secret: %v", err)
			}
		})
	}
}
