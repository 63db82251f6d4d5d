package main

import (
	"net/http"
	"time"

	"github.com/go-chi/chi/v5"
)

func byChi() http.Handler {
	route := func(w http.ResponseWriter, r *http.Request) {
		answer(w, r.URL.Path, chi.RouteContext(r.Context()).RoutePattern())
	}
	r := chi.NewRouter()
	r.Use(func(next http.Handler) http.Handler {
		return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			if !denied(w, r) {
				next.ServeHTTP(w, r)
			}
		})
	})
	r.Get("/", route)
	r.Route("/users", func(r chi.Router) {
		r.Get("/", route)
		r.Get("/{id:[0-9]+}", route)
	})
	shops := chi.NewRouter()
	shops.Use(withTenant)
	shops.Route("/shops/{shop}", func(r chi.Router) {
		r.Group(func(r chi.Router) {
			r.Use(withTenant)
			r.Get("/items/{item}", route)
		})
	})
	r.Mount("/v1", shops)
	r.Get("/files/*", route)
	r.With(withTenant).Get("/tenant/{id}", route)
	r.Get("/large/{id}", route)
	r.Get("/slow/{id}", route)
	later := chi.NewRouter()
	later.Get("/{id}", route)
	r.Mount("/later", http.TimeoutHandler(later, time.Minute, "")) // in a goroutine of its own
	r.Mount("/gin", ginBelow())
	r.NotFound(func(w http.ResponseWriter, r *http.Request) {
		w.WriteHeader(http.StatusNotFound)
		route(w, r)
	})
	return r
}
