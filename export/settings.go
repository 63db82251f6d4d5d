package export

import (
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"net"
	"net/url"
	"os"
	"path"
	"strconv"
	"strings"
	"time"

	"golang.org/x/net/http/httpguts"
)

// Protocols of OTLP, named as in OTEL_EXPORTER_OTLP_PROTOCOL.
const (
	ProtocolGRPC = "grpc"
	ProtocolHTTP = "http/protobuf"
)

const configEndpoint = "export.otlp.endpoint"

// Defaults of OTLPOptions.
const (
	DefaultQueueSize = 16384
	DefaultBatchSize = 512
	DefaultDelay     = time.Second
	DefaultTimeout   = 10 * time.Second
	// DefaultFlush bounds Close when its context has no deadline.
	DefaultFlush = 5 * time.Second
)

// OTLPOptions are what the configuration says; the standard environment
// variables win over each of them. A zero field takes its default.
type OTLPOptions struct {
	// Endpoint is a URL (http: plaintext, https: TLS, unix: gRPC over a socket
	// file) or host:port, which is plaintext unless CAFile is set. "" with no
	// endpoint in the environment turns OTLP off.
	Endpoint    string
	Protocol    string            // grpc or http/protobuf; "": by the port, 4318 is HTTP, else gRPC
	Headers     map[string]string // sent with every request
	CAFile      string            // PEM; "": the host's roots
	CertFile    string            // PEM, client certificate, needs KeyFile
	KeyFile     string            // PEM
	Timeout     time.Duration     // of one request
	Compression string            // gzip or none (default, as the specification has it)
	QueueSize   int               // spans kept while the receiver is away
	BatchSize   int               // spans per request
	Delay       time.Duration     // longest wait for a batch to fill
}

// OTLPSettings are options and environment resolved: what NewOTLP does.
type OTLPSettings struct {
	// Off says why nothing is to be exported; "" when something is.
	Off string

	Target      string // host:port, or unix:… for gRPC
	Path        string // of the URL, HTTP only
	Protocol    string // ProtocolGRPC or ProtocolHTTP
	TLS         *tls.Config
	Headers     map[string]string
	Timeout     time.Duration
	Gzip        bool
	QueueSize   int
	BatchSize   int
	Delay       time.Duration
	description string
}

// String names the receiver for logs: "grpc http://localhost:4317".
func (s *OTLPSettings) String() string { return s.description }

// ResolveOTLP merges options with the standard environment: OTEL_SDK_DISABLED,
// OTEL_TRACES_EXPORTER, OTEL_EXPORTER_OTLP_TRACES_* before
// OTEL_EXPORTER_OTLP_*, OTEL_BSP_*. It reads certificate files. It checks what
// the OTLP clients would log and ignore, so that a typing error does not
// become a silent default: every error is one line that names the variable.
func ResolveOTLP(o OTLPOptions) (*OTLPSettings, error) {
	s := &OTLPSettings{}
	exporters := envValue("OTEL_TRACES_EXPORTER").text
	switch {
	case strings.EqualFold(envValue("OTEL_SDK_DISABLED").text, "true"):
		s.Off = "OTEL_SDK_DISABLED=true"
		return s, nil
	case exporters == "none":
		s.Off = "OTEL_TRACES_EXPORTER=none"
		return s, nil
	case exporters != "" && exporters != "otlp":
		return nil, fmt.Errorf("OTEL_TRACES_EXPORTER: unknown exporter %q; use otlp or none", exporters)
	}

	endpoint := setting("ENDPOINT", configEndpoint, o.Endpoint)
	if endpoint.text == "" && exporters == "" {
		s.Off = "no endpoint"
		return s, nil
	}
	var err error
	var secure bool
	if s.Protocol, err = protocol(o.Protocol, endpoint.text); err != nil {
		return nil, err
	}
	if secure, err = s.setTarget(endpoint, o.CAFile); err != nil {
		return nil, err
	}
	if s.TLS, err = tlsConfig(o, secure, s); err != nil {
		return nil, err
	}
	if s.Headers, err = headers(o.Headers); err != nil {
		return nil, err
	}
	if s.Gzip, err = gzipOn(o.Compression); err != nil {
		return nil, err
	}
	timeout := setting("TIMEOUT", "", "")
	if s.Timeout, err = timeout.duration(o.Timeout, DefaultTimeout); err != nil {
		return nil, err
	}
	if s.Delay, err = envValue("OTEL_BSP_SCHEDULE_DELAY").duration(o.Delay, DefaultDelay); err != nil {
		return nil, err
	}
	if s.QueueSize, err = envValue("OTEL_BSP_MAX_QUEUE_SIZE").count(o.QueueSize, DefaultQueueSize); err != nil {
		return nil, err
	}
	if s.BatchSize, err = envValue("OTEL_BSP_MAX_EXPORT_BATCH_SIZE").count(o.BatchSize, DefaultBatchSize); err != nil {
		return nil, err
	}
	s.BatchSize = min(s.BatchSize, s.QueueSize)
	return s, nil
}

// value is a text with the name of where it came from, for error messages.
type value struct{ name, text string }

func envValue(name string) value {
	return value{name, strings.TrimSpace(os.Getenv(name))}
}

// setting reads the variable for traces, then the one for all signals, then
// the configuration.
func setting(suffix, configKey, config string) value {
	for _, prefix := range []string{"OTEL_EXPORTER_OTLP_TRACES_", "OTEL_EXPORTER_OTLP_"} {
		if v := envValue(prefix + suffix); v.text != "" {
			return v
		}
	}
	return value{configKey, strings.TrimSpace(config)}
}

func (v value) duration(config, fallback time.Duration) (time.Duration, error) {
	if v.text == "" {
		if config > 0 {
			return config, nil
		}
		return fallback, nil
	}
	ms, err := strconv.ParseUint(v.text, 10, 31)
	if err != nil || ms == 0 {
		return 0, fmt.Errorf("%s: %q is not a number of milliseconds above 0; write for example 5000", v.name, v.text)
	}
	return time.Duration(ms) * time.Millisecond, nil
}

func (v value) count(config, fallback int) (int, error) {
	if v.text == "" {
		if config > 0 {
			return config, nil
		}
		return fallback, nil
	}
	n, err := strconv.ParseUint(v.text, 10, 24)
	if err != nil || n == 0 {
		return 0, fmt.Errorf("%s: %q is not a number of spans from 1 to 16777215; write for example 2048", v.name, v.text)
	}
	return int(n), nil
}

func protocol(config, endpoint string) (string, error) {
	v := setting("PROTOCOL", "export.otlp.protocol", config)
	switch v.text {
	case ProtocolGRPC, ProtocolHTTP:
		return v.text, nil
	case "":
		if u, err := url.Parse(endpoint); err == nil && u.Port() == "4318" || strings.HasSuffix(endpoint, ":4318") {
			return ProtocolHTTP, nil
		}
		return ProtocolGRPC, nil
	}
	return "", fmt.Errorf("%s: unknown protocol %q; use grpc or http/protobuf", v.name, v.text)
}

// setTarget fills Target, Path and the description, and says whether the
// connection is to be TLS. The scheme decides. A variable without one is TLS
// unless OTEL_EXPORTER_OTLP_INSECURE=true, as the standard has it; a configured
// host:port is plaintext unless that variable or a CA file says otherwise.
func (s *OTLPSettings) setTarget(endpoint value, caFile string) (secure bool, err error) {
	if endpoint.text == "" {
		endpoint.text = "http://localhost:4317"
		if s.Protocol == ProtocolHTTP {
			endpoint.text = "http://localhost:4318"
		}
	}
	const mend = "write http://HOST:PORT, https://HOST:PORT or HOST:PORT"
	bad := func(why string) (bool, error) {
		return false, fmt.Errorf("%s: %q %s; %s", endpoint.name, endpoint.text, why, mend)
	}

	if !strings.Contains(endpoint.text, "://") && !strings.HasPrefix(endpoint.text, "unix:") {
		secure = endpoint.name != configEndpoint || caFile != ""
		if insecure := setting("INSECURE", "", "").text; insecure != "" {
			secure = !strings.EqualFold(insecure, "true")
		}
		scheme := "http"
		if secure {
			scheme = "https"
		}
		if _, _, err := net.SplitHostPort(endpoint.text); err != nil {
			return bad("has no port")
		}
		endpoint.text = scheme + "://" + endpoint.text
	}
	u, err := url.Parse(endpoint.text)
	if err != nil {
		return bad("is not a URL")
	}
	switch u.Scheme {
	case "http", "https":
		secure = u.Scheme == "https"
	case "unix":
		if s.Protocol != ProtocolGRPC {
			return bad("is a socket file, which only grpc can use")
		}
		s.Target, s.description = u.String(), s.Protocol+" "+u.String()
		return false, nil
	default:
		return bad("has an unknown scheme")
	}
	if u.Hostname() == "" {
		return bad("has no host")
	}
	s.Target = u.Host
	if u.Port() == "" {
		// The clients would take the scheme's port; OTLP has its own for gRPC.
		port := map[bool]string{true: "443", false: "80"}[secure]
		if s.Protocol == ProtocolGRPC {
			port = "4317"
		}
		s.Target = net.JoinHostPort(u.Hostname(), port)
	}
	if s.Protocol == ProtocolHTTP {
		s.Path = u.Path
		if endpoint.name != "OTEL_EXPORTER_OTLP_TRACES_ENDPOINT" {
			// A general endpoint is the base of the signal's path; one for
			// traces is used as it is.
			s.Path = path.Join("/", u.Path, "v1/traces")
		} else if s.Path == "" {
			s.Path = "/"
		}
	}
	s.description = s.Protocol + " " + u.Scheme + "://" + s.Target + s.Path
	return secure, nil
}

func tlsConfig(o OTLPOptions, secure bool, s *OTLPSettings) (*tls.Config, error) {
	ca := setting("CERTIFICATE", "export.otlp CA file", o.CAFile)
	cert := setting("CLIENT_CERTIFICATE", "export.otlp certificate file", o.CertFile)
	key := setting("CLIENT_KEY", "export.otlp key file", o.KeyFile)
	if !secure {
		for _, v := range []value{ca, cert, key} {
			if v.text != "" {
				return nil, fmt.Errorf("%s: is set, but %s is not TLS; use https:// or unset it", v.name, s)
			}
		}
		return nil, nil
	}
	config := &tls.Config{MinVersion: tls.VersionTLS12}
	if ca.text != "" {
		pem, err := os.ReadFile(ca.text)
		if err != nil {
			return nil, fmt.Errorf("%s: %w; name a readable PEM file", ca.name, err)
		}
		config.RootCAs = x509.NewCertPool()
		if !config.RootCAs.AppendCertsFromPEM(pem) {
			return nil, fmt.Errorf("%s: %s holds no PEM certificate; name the CA that signed the receiver's", ca.name, ca.text)
		}
	}
	if (cert.text == "") != (key.text == "") {
		return nil, errors.New("OTLP client certificate: set both OTEL_EXPORTER_OTLP_CLIENT_CERTIFICATE and OTEL_EXPORTER_OTLP_CLIENT_KEY, or neither")
	}
	if cert.text != "" {
		pair, err := tls.LoadX509KeyPair(cert.text, key.text)
		if err != nil {
			return nil, fmt.Errorf("%s, %s: %w; name a PEM certificate and its key", cert.name, key.name, err)
		}
		config.Certificates = []tls.Certificate{pair}
	}
	return config, nil
}

// headers are those of the configuration, and over them those of
// OTEL_EXPORTER_OTLP_TRACES_HEADERS, else of OTEL_EXPORTER_OTLP_HEADERS, whose
// values are percent-decoded. Values never appear in errors: they are secrets.
func headers(config map[string]string) (map[string]string, error) {
	out := make(map[string]string, len(config))
	for k, v := range config {
		out[strings.ToLower(k)] = v
	}
	v := setting("HEADERS", "", "")
	if v.text == "" {
		return out, nil
	}
	for i, pair := range strings.Split(v.text, ",") {
		if strings.TrimSpace(pair) == "" {
			continue
		}
		key, val, ok := strings.Cut(pair, "=")
		key = strings.ToLower(strings.TrimSpace(key))
		if !ok || !validHeader(key) {
			return nil, fmt.Errorf("%s: entry %d is not name=value; write name1=value1,name2=value2", v.name, i+1)
		}
		val, err := url.PathUnescape(strings.TrimSpace(val))
		if err != nil {
			return nil, fmt.Errorf("%s: the value of %q has a broken %%-escape; write %%25 for a percent sign", v.name, key)
		}
		out[key] = val
	}
	return out, nil
}

// validHeader refuses what the client sets itself.
func validHeader(name string) bool {
	switch name {
	case "host", "content-type", "content-length", "content-encoding":
		return false
	}
	return httpguts.ValidHeaderFieldName(name)
}

func gzipOn(config string) (bool, error) {
	v := setting("COMPRESSION", "export.otlp compression", config)
	switch v.text {
	case "gzip":
		return true, nil
	case "none", "":
		return false, nil
	}
	return false, fmt.Errorf("%s: unknown compression %q; use gzip or none", v.name, v.text)
}
