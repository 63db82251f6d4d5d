// Command demo is a tiny shop to trace: a customer, a shop and its stock, three
// processes that speak plain HTTP and know nothing of tracing.
//
//	weft exec -- demo
//
// The shop serves every request on a thread of its own with blocking system
// calls, as Flask, Puma or PHP-FPM do. The customer looks round for DEMO_PAUSE
// first (500ms if that is not set): a Go program is followed from within a moment
// after it started.
package main

import (
	"context"
	"fmt"
	"net"
	"net/http"
	"os"
	"os/exec"
	"os/signal"
	"runtime"
	"syscall"
	"time"
)

const usage = `usage: demo                      run the shop, buy a few things, stop
       demo shop ADDR STOCK_ADDR   only the shop
       demo stock ADDR             only the stock
`

func main() {
	var err error
	switch args := os.Args[1:]; {
	case len(args) == 0:
		err = visit()
	case len(args) == 3 && args[0] == "shop":
		err = serve(args[1], shop(args[2]))
	case len(args) == 2 && args[0] == "stock":
		err = serve(args[1], stock)
	default:
		fmt.Fprint(os.Stderr, usage)
		os.Exit(2)
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, "demo:", err)
		os.Exit(1)
	}
}

// visit starts both services and is their customer.
func visit() error {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	shopAddr, err := freeAddress()
	if err != nil {
		return err
	}
	stockAddr, err := freeAddress()
	if err != nil {
		return err
	}
	for _, service := range [][]string{{"stock", stockAddr}, {"shop", shopAddr, stockAddr}} {
		cmd, err := start(ctx, service)
		if cmd != nil {
			defer end(cmd)
		}
		if err != nil {
			return err
		}
	}
	pause := 500 * time.Millisecond
	if text := os.Getenv("DEMO_PAUSE"); text != "" {
		if pause, err = time.ParseDuration(text); err != nil {
			return fmt.Errorf("DEMO_PAUSE: %w; a duration is written like 500ms or 2s", err)
		}
	}
	select {
	case <-ctx.Done():
		return ctx.Err()
	case <-time.After(pause):
	}
	// One thread, so that it is one customer.
	runtime.LockOSThread()
	for _, item := range []string{"loom", "yarn", "dodo"} {
		status, body, err := get(shopAddr, "/buy?item="+item)
		if err != nil {
			return fmt.Errorf("buy %s: %w", item, err)
		}
		fmt.Printf("buy %s: %d %s\n", item, status, body)
	}
	return nil
}

// start runs this program again as a service and waits until it listens. The
// service dies with ctx and with this process.
func start(ctx context.Context, args []string) (*exec.Cmd, error) {
	service, address := args[0], args[1]
	self, err := os.Executable()
	if err != nil {
		return nil, fmt.Errorf("find own executable: %w", err)
	}
	cmd := exec.CommandContext(ctx, self, args...)
	cmd.Stderr = os.Stderr
	cmd.Env = append(os.Environ(), "OTEL_SERVICE_NAME="+service)
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	// Pdeathsig follows the thread that forked: keep it.
	runtime.LockOSThread()
	if err := cmd.Start(); err != nil {
		return nil, fmt.Errorf("start %s: %w", service, err)
	}
	for deadline := time.Now().Add(5 * time.Second); ; {
		conn, err := net.Dial("tcp", address)
		if err == nil {
			return cmd, conn.Close()
		}
		if time.Now().After(deadline) {
			return cmd, fmt.Errorf("%s does not listen on %s: %w", service, address, err)
		}
		select {
		case <-ctx.Done():
			return cmd, ctx.Err()
		case <-time.After(10 * time.Millisecond):
		}
	}
}

// end stops a service. How it ended says nothing: it was killed.
func end(cmd *exec.Cmd) {
	_ = cmd.Process.Kill()
	_ = cmd.Wait()
}

// freeAddress is a loopback address nobody listens on.
func freeAddress() (string, error) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return "", fmt.Errorf("find a free port: %w", err)
	}
	return l.Addr().String(), l.Close()
}

// shop sells what the stock has: it looks, then takes.
func shop(stockAddr string) handler {
	return func(r *http.Request) (int, string, error) {
		item := r.URL.Query().Get("item")
		if r.URL.Path != "/buy" || item == "" {
			return http.StatusNotFound, "only /buy?item=…", nil
		}
		work(2 * time.Millisecond)
		status, _, err := get(stockAddr, "/items/"+item)
		if err != nil {
			return 0, "", err
		}
		if status == http.StatusNotFound {
			return http.StatusNotFound, "no " + item + " in this shop", nil
		}
		work(time.Millisecond)
		status, body, err := get(stockAddr, "/take/"+item)
		if err != nil {
			return 0, "", err
		}
		return status, body, nil
	}
}

// stock has looms, and had yarn.
func stock(r *http.Request) (int, string, error) {
	switch r.URL.Path {
	case "/items/loom", "/items/yarn":
		work(3 * time.Millisecond)
		return http.StatusOK, "known", nil
	case "/take/loom":
		work(6 * time.Millisecond)
		return http.StatusOK, "here is your loom", nil
	case "/take/yarn":
		work(time.Millisecond)
		return http.StatusServiceUnavailable, "yarn is out of stock", nil
	}
	return http.StatusNotFound, "no such item", nil
}

// work passes time on this thread.
func work(d time.Duration) { time.Sleep(d) }
