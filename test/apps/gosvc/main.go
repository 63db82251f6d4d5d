// Command gosvc is a plain net/http service that nobody instrumented.
//
//	GET /call?id=ID  calls $DOWNSTREAM?id=ID and returns what it answered.
//	GET /leaf?id=ID  answers with the header lines it received.
//	GET /fan?to=URL&to=URL…  calls each and returns their statuses. A header
//	    X-Own-NAME of the request becomes the header NAME of each call.
//
// KEEPALIVE=1 keeps connections to the downstream, otherwise every call opens
// one.
package main

import (
	"context"
	"encoding/json"
	"io"
	"log"
	"net/http"
	"net/url"
	"os"
	"strings"
)

type report struct {
	ID      string      `json:"id"`
	Headers [][2]string `json:"headers"`
}

func main() {
	client := &http.Client{Transport: &http.Transport{
		DisableKeepAlives:   os.Getenv("KEEPALIVE") != "1",
		MaxIdleConnsPerHost: 64,
	}}
	mux := http.NewServeMux()
	mux.HandleFunc("GET /ready", func(w http.ResponseWriter, _ *http.Request) {
		_, _ = io.WriteString(w, "ok")
	})
	mux.HandleFunc("GET /leaf", leaf)
	mux.HandleFunc("GET /call", func(w http.ResponseWriter, r *http.Request) {
		if err := call(w, r, client, os.Getenv("DOWNSTREAM")); err != nil {
			http.Error(w, err.Error(), http.StatusBadGateway)
		}
	})
	mux.HandleFunc("GET /fan", func(w http.ResponseWriter, r *http.Request) {
		if err := fan(w, r, client); err != nil {
			http.Error(w, err.Error(), http.StatusBadGateway)
		}
	})
	log.Fatal(http.ListenAndServe("127.0.0.1:"+os.Getenv("PORT"), mux))
}

func leaf(w http.ResponseWriter, r *http.Request) {
	rep := report{ID: r.URL.Query().Get("id")}
	for name, values := range r.Header {
		for _, v := range values {
			rep.Headers = append(rep.Headers, [2]string{name, v})
		}
	}
	w.Header().Set("Content-Type", "application/json")
	_ = json.NewEncoder(w).Encode(rep)
}

func call(w http.ResponseWriter, r *http.Request, client *http.Client, downstream string) error {
	target := downstream + "?id=" + url.QueryEscape(r.URL.Query().Get("id"))
	req, err := http.NewRequestWithContext(r.Context(), http.MethodGet, target, nil)
	if err != nil {
		return err
	}
	resp, err := client.Do(req)
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(resp.Body)
	if err != nil {
		return err
	}
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(resp.StatusCode)
	_, err = w.Write(body)
	return err
}

func fan(w http.ResponseWriter, r *http.Request, client *http.Client) error {
	own := http.Header{}
	for name, values := range r.Header {
		if to, found := strings.CutPrefix(name, "X-Own-"); found {
			own[to] = values
		}
	}
	var statuses []int
	for _, to := range r.URL.Query()["to"] {
		status, err := fetch(r.Context(), client, to, own)
		if err != nil {
			return err
		}
		statuses = append(statuses, status)
	}
	return json.NewEncoder(w).Encode(statuses)
}

func fetch(ctx context.Context, client *http.Client, to string, header http.Header) (int, error) {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, to, nil)
	if err != nil {
		return 0, err
	}
	req.Header = header.Clone()
	resp, err := client.Do(req)
	if err != nil {
		return 0, err
	}
	defer resp.Body.Close()
	_, err = io.Copy(io.Discard, resp.Body)
	return resp.StatusCode, err
}
