// Gofast is a server and a client of HTTP/1 that are not net/http's.
package main

import (
	"fmt"
	"os"

	"github.com/valyala/fasthttp"
)

// It listens on the first address and asks the second for what it is asked for, if
// there is one.
func main() {
	next := ""
	if len(os.Args) > 2 {
		next = os.Args[2]
	}
	server := fasthttp.Server{Handler: func(ctx *fasthttp.RequestCtx) {
		if next == "" {
			fmt.Fprintf(ctx, "%s\n", ctx.Request.Header.Peek("Traceparent"))
			return
		}
		status, body, err := fasthttp.Get(nil, "http://"+next+string(ctx.RequestURI()))
		if err != nil {
			ctx.Error(err.Error(), fasthttp.StatusBadGateway)
			return
		}
		ctx.SetStatusCode(status)
		_, _ = ctx.Write(body)
	}}
	if err := server.ListenAndServe(os.Args[1]); err != nil {
		fmt.Fprintln(os.Stderr, "gofast:", err)
		os.Exit(1)
	}
}
