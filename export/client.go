package export

import (
	"compress/gzip"
	"context"
	"errors"
	"fmt"
	"net/http"
	"regexp"
	"strconv"
	"sync"
	"time"

	"go.opentelemetry.io/otel/exporters/otlp/otlptrace"
	"go.opentelemetry.io/otel/exporters/otlp/otlptrace/otlptracegrpc"
	"go.opentelemetry.io/otel/exporters/otlp/otlptrace/otlptracehttp"
	"google.golang.org/genproto/googleapis/rpc/errdetails"
	"google.golang.org/grpc"
	"google.golang.org/grpc/backoff"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials"
	grpcgzip "google.golang.org/grpc/encoding/gzip"
	"google.golang.org/grpc/status"
)

// The OTLP clients apply the environment first and options after it, so that
// options win; with malformed variables they log and go on with a default.
// Both are the wrong way round for an agent, so OTLPSettings holds everything
// resolved and every setting is passed as an option. Their retry is off: it
// gives up after a time and says nothing while it lasts, and the sender here
// keeps the spans anyway.

// verdict of a failed upload.
type verdict struct {
	retry bool          // the receiver may take these spans later
	wait  time.Duration // the receiver asked for at least this
}

// newClient returns a client and the judge of its errors. Only one goroutine
// may use them.
func newClient(s *OTLPSettings) (otlptrace.Client, func(error) verdict) {
	if s.Protocol == ProtocolHTTP {
		return newHTTPClient(s)
	}
	return newGRPCClient(s), judgeGRPC
}

// CompressFast makes gzip over gRPC cheap rather than small, in the whole process
// (the library has one level for all): a third of the time for a tenth more
// bytes. Call it before the first exporter is made.
func CompressFast() error {
	if err := grpcgzip.SetLevel(gzip.BestSpeed); err != nil {
		return fmt.Errorf("set gzip level: %w", err)
	}
	return nil
}

func newGRPCClient(s *OTLPSettings) otlptrace.Client {
	// Reconnect as often as batches are retried; the default of grpc grows to
	// two minutes, long after the receiver is back.
	reconnect := backoff.DefaultConfig
	reconnect.MaxDelay = maxBackoff
	opts := []otlptracegrpc.Option{
		otlptracegrpc.WithEndpoint(s.Target),
		otlptracegrpc.WithHeaders(s.Headers),
		otlptracegrpc.WithTimeout(s.Timeout),
		otlptracegrpc.WithRetry(otlptracegrpc.RetryConfig{Enabled: false}),
		// A limit is checked by walking the whole batch once more, a tenth of
		// the agent's time; the batch size bounds it already.
		otlptracegrpc.WithMaxRequestSize(0),
		otlptracegrpc.WithDialOption(grpc.WithConnectParams(grpc.ConnectParams{
			Backoff: reconnect, MinConnectTimeout: s.Timeout,
		})),
	}
	if s.Gzip { // there is no option for none, which is what the client does without
		opts = append(opts, otlptracegrpc.WithCompressor("gzip"))
	}
	if s.TLS != nil {
		opts = append(opts, otlptracegrpc.WithTLSCredentials(credentials.NewTLS(s.TLS)))
	} else {
		opts = append(opts, otlptracegrpc.WithInsecure())
	}
	return otlptracegrpc.NewClient(opts...)
}

// judgeGRPC follows the OTLP specification's table of retryable codes.
func judgeGRPC(err error) verdict {
	if errors.Is(err, context.DeadlineExceeded) || errors.Is(err, context.Canceled) {
		return verdict{retry: true}
	}
	st, _ := status.FromError(err)
	var wait time.Duration
	asked := false
	for _, d := range st.Details() {
		if info, ok := d.(*errdetails.RetryInfo); ok {
			wait, asked = info.GetRetryDelay().AsDuration(), true
		}
	}
	switch st.Code() {
	case codes.Canceled, codes.DeadlineExceeded, codes.Aborted,
		codes.OutOfRange, codes.Unavailable, codes.DataLoss:
		return verdict{retry: true, wait: wait}
	case codes.ResourceExhausted:
		return verdict{retry: asked, wait: wait}
	}
	return verdict{}
}

func newHTTPClient(s *OTLPSettings) (otlptrace.Client, func(error) verdict) {
	transport := &http.Transport{
		Proxy:               http.ProxyFromEnvironment,
		TLSClientConfig:     s.TLS,
		TLSHandshakeTimeout: s.Timeout,
		ForceAttemptHTTP2:   true,
		MaxIdleConnsPerHost: 1, // one sender
		IdleConnTimeout:     90 * time.Second,
	}
	last := &lastResponse{next: transport}
	opts := []otlptracehttp.Option{
		otlptracehttp.WithEndpoint(s.Target),
		otlptracehttp.WithURLPath(s.Path),
		otlptracehttp.WithHeaders(s.Headers),
		otlptracehttp.WithRetry(otlptracehttp.RetryConfig{Enabled: false}),
		otlptracehttp.WithHTTPClient(&http.Client{Transport: last, Timeout: s.Timeout}),
	}
	if s.Gzip {
		opts = append(opts, otlptracehttp.WithCompression(otlptracehttp.GzipCompression))
	} else {
		opts = append(opts, otlptracehttp.WithCompression(otlptracehttp.NoCompression))
	}
	if s.TLS == nil {
		opts = append(opts, otlptracehttp.WithInsecure())
	}
	return &httpClient{otlptracehttp.NewClient(opts...), transport}, last.judge
}

// httpClient closes idle connections on Stop, which the client leaves open.
type httpClient struct {
	otlptrace.Client
	transport *http.Transport
}

func (c *httpClient) Stop(ctx context.Context) error {
	err := c.Client.Stop(ctx)
	c.transport.CloseIdleConnections()
	return err
}

// lastResponse remembers what the receiver answered, because the client's
// errors tell a refusal from a pause only in their text.
type lastResponse struct {
	next http.RoundTripper

	mu     sync.Mutex
	status int // 0: the request got no answer
	wait   time.Duration
}

func (l *lastResponse) RoundTrip(r *http.Request) (*http.Response, error) {
	resp, err := l.next.RoundTrip(r)
	l.mu.Lock()
	defer l.mu.Unlock()
	l.status, l.wait = 0, 0
	if err == nil {
		l.status, l.wait = resp.StatusCode, retryAfter(resp.Header.Get("Retry-After"))
	}
	return resp, err
}

// judge follows the OTLP specification: 429, 502, 503 and 504 pass, and so
// does everything that got no answer at all.
func (l *lastResponse) judge(error) verdict {
	l.mu.Lock()
	defer l.mu.Unlock()
	switch l.status {
	case 0, http.StatusTooManyRequests, http.StatusBadGateway,
		http.StatusServiceUnavailable, http.StatusGatewayTimeout:
		return verdict{retry: true, wait: l.wait}
	}
	return verdict{}
}

// retryAfter reads seconds or a date, RFC 9110 §10.2.3.
func retryAfter(v string) time.Duration {
	if n, err := strconv.ParseUint(v, 10, 31); err == nil {
		return time.Duration(n) * time.Second
	}
	if t, err := http.ParseTime(v); err == nil {
		return max(0, time.Until(t))
	}
	return 0
}

// partial matches how both clients report a receiver that took a batch but
// refused some of its spans. Their error type is internal to them; a test
// against both holds this text in place.
var partial = regexp.MustCompile(`OTLP partial success: .* \((\d+) spans rejected\)`)

// partialSuccess returns how many spans the receiver refused, and false when
// err is not a partial success.
func partialSuccess(err error) (rejected int, ok bool) {
	m := partial.FindStringSubmatch(err.Error())
	if m == nil {
		return 0, false
	}
	n, _ := strconv.Atoi(m[1])
	return n, true
}
