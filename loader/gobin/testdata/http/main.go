// A client and a server of HTTP/1 and of the bundled HTTP/2, over TLS too.
package main

import (
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"os"
)

func main() {
	handler := http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		io.WriteString(w, "ok")
	})
	for _, secure := range []bool{false, true} {
		s := httptest.NewUnstartedServer(handler)
		if s.EnableHTTP2 = secure; secure {
			s.StartTLS()
		} else {
			s.Start()
		}
		r, err := s.Client().Get(s.URL)
		if err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
		fmt.Println(r.Proto, r.Status)
		s.Close()
	}
}
