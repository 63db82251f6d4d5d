package selfstats

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"syscall"
	"time"

	"github.com/prometheus/client_golang/prometheus/promhttp"
)

// Ready reports whether every selected running process is attached, and if
// not, why. A reason for being ready is said too.
type Ready func() (ok bool, reason string)

// Server serves /metrics, /healthz and /readyz. A nil *Server is one that is
// turned off; its methods do nothing.
type Server struct {
	http     *http.Server
	listener net.Listener
	done     chan struct{}
}

// Server listens on listen ("127.0.0.1:9464"; "" turns it off and returns
// nil) and serves until ctx is done or Close is called. It returns once the
// address is bound; its error is one line that says how to mend it.
func (s *Stats) Server(ctx context.Context, listen string, ready Ready, log *slog.Logger) (*Server, error) {
	if listen == "" {
		return nil, nil
	}
	l, err := (&net.ListenConfig{}).Listen(ctx, "tcp", listen)
	if err != nil {
		return nil, listenError(listen, err)
	}

	mux := http.NewServeMux()
	mux.Handle("GET /metrics", promhttp.HandlerFor(s.registry, promhttp.HandlerOpts{
		// A collector that fails must not hide the counters of the others.
		ErrorHandling: promhttp.ContinueOnError,
		ErrorLog:      slog.NewLogLogger(log.Handler(), slog.LevelWarn),
	}))
	mux.HandleFunc("GET /healthz", func(w http.ResponseWriter, _ *http.Request) {
		answer(w, http.StatusOK, "ok")
	})
	mux.HandleFunc("GET /readyz", func(w http.ResponseWriter, _ *http.Request) {
		ok, reason := ready()
		if !ok {
			answer(w, http.StatusServiceUnavailable, reason)
			return
		}
		if reason == "" {
			reason = "ready"
		}
		answer(w, http.StatusOK, reason)
	})

	srv := &Server{
		http: &http.Server{
			Handler:           mux,
			ReadHeaderTimeout: 5 * time.Second,
			ErrorLog:          slog.NewLogLogger(log.Handler(), slog.LevelDebug),
		},
		listener: l,
		done:     make(chan struct{}),
	}
	stop := context.AfterFunc(ctx, func() { _ = srv.http.Close() })
	go func() {
		defer close(srv.done)
		defer stop()
		if err := srv.http.Serve(l); !errors.Is(err, http.ErrServerClosed) {
			log.Error("telemetry endpoints stopped", "listen", listen, "error", err)
		}
	}()
	return srv, nil
}

// Addr returns the bound address ("127.0.0.1:9464"), "" when turned off.
func (s *Server) Addr() string {
	if s == nil {
		return ""
	}
	return s.listener.Addr().String()
}

// Close stops serving and waits, up to ctx, for requests being answered.
func (s *Server) Close(ctx context.Context) error {
	if s == nil {
		return nil
	}
	if err := s.http.Shutdown(ctx); err != nil {
		_ = s.http.Close()
		return fmt.Errorf("stop telemetry endpoints: %w", err)
	}
	<-s.done
	return nil
}

func answer(w http.ResponseWriter, status int, text string) {
	w.Header().Set("Content-Type", "text/plain; charset=utf-8")
	w.Header().Set("Cache-Control", "no-store")
	w.WriteHeader(status)
	_, _ = fmt.Fprintln(w, text)
}

// listenError turns what the kernel says into one line with a way out.
func listenError(listen string, err error) error {
	const mend = `set telemetry.listen to a free address or "" to turn it off`
	switch {
	case errors.Is(err, syscall.EADDRINUSE):
		return fmt.Errorf("listen on %s: %w; %s", listen, syscall.EADDRINUSE, mend)
	case errors.Is(err, syscall.EACCES):
		return fmt.Errorf("listen on %s: permission denied; ports below 1024 need root: %s", listen, mend)
	case errors.Is(err, syscall.EADDRNOTAVAIL):
		return fmt.Errorf("listen on %s: this host does not have that address; %s", listen, mend)
	}
	return fmt.Errorf("listen on %s: %w; %s", listen, err, mend)
}
