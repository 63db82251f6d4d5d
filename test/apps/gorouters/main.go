// Gorouters serves the same routes by three routers: chi, gin and gorilla/mux. Each
// answer begins with a line that says which route the router itself says it took.
package main

import (
	"context"
	"flag"
	"fmt"
	"net"
	"net/http"
	"os"
	"strconv"
	"strings"
)

func main() {
	listen := flag.String("listen", "", "addresses of chi, gin and gorilla/mux, with commas between")
	protocol := flag.String("protocol", "http1", "http1 or h2c")
	flag.Parse()
	if err := run(strings.Split(*listen, ","), *protocol); err != nil {
		fmt.Fprintln(os.Stderr, "gorouters:", err)
		os.Exit(1)
	}
}

func run(listen []string, protocol string) error {
	routers := []http.Handler{byChi(), byGin(), byMux()}
	if len(listen) != len(routers) {
		return fmt.Errorf("-listen: %d addresses, want %d", len(listen), len(routers))
	}
	failed := make(chan error)
	for i, router := range routers {
		// Below a pattern of net/http's own, which is not the route.
		top := http.NewServeMux()
		top.Handle("/", router)
		server := &http.Server{Handler: top}
		if protocol == "h2c" {
			if err := plainHTTP2(server); err != nil {
				return err
			}
		}
		l, err := net.Listen("tcp", listen[i])
		if err != nil {
			return fmt.Errorf("listen: %w", err)
		}
		go func() { failed <- server.Serve(l) }()
	}
	return <-failed
}

// answer writes the route, and behind it what the path asks for: many bytes of a known
// length, so that the response is complete before its handler has returned, or pieces,
// so that it begins before.
func answer(w http.ResponseWriter, path, route string) {
	switch {
	case strings.Contains(path, "/large/"):
		const size = 200 << 10
		w.Header().Set("Content-Length", strconv.Itoa(size))
		text := []byte(fmt.Sprintf("%-*s", size, route+"\n"))
		for len(text) > 0 {
			n := len(text)
			if n > 32<<10 {
				n = 32 << 10
			}
			if _, err := w.Write(text[:n]); err != nil {
				return
			}
			text = text[n:]
		}
	case strings.Contains(path, "/slow/"):
		for _, piece := range []string{route, "\n", "more\n"} {
			if _, err := fmt.Fprint(w, piece); err != nil {
				return
			}
			w.(http.Flusher).Flush()
		}
	default:
		fmt.Fprintln(w, route)
	}
}

type tenant struct{}

// tenantOf gives a request a context of its own, as middleware does.
func tenantOf(r *http.Request) *http.Request {
	return r.WithContext(context.WithValue(r.Context(), tenant{}, r.URL.Path))
}

func withTenant(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) { next.ServeHTTP(w, tenantOf(r)) })
}

// denied answers by itself, before anything is routed.
func denied(w http.ResponseWriter, r *http.Request) bool {
	if r.URL.Path != "/denied" {
		return false
	}
	w.WriteHeader(http.StatusUnauthorized)
	fmt.Fprintln(w)
	return true
}
