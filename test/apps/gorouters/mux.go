package main

import (
	"net/http"

	"github.com/gorilla/mux"
)

func byMux() http.Handler {
	route := func(w http.ResponseWriter, r *http.Request) {
		template := ""
		if matched := mux.CurrentRoute(r); matched != nil {
			template, _ = matched.GetPathTemplate()
		}
		answer(w, r.URL.Path, template)
	}
	r := mux.NewRouter()
	r.HandleFunc("/", route)
	r.HandleFunc("/users", route)
	r.HandleFunc("/users/{id:[0-9]+}", route)
	v1 := r.PathPrefix("/v1").Subrouter()
	v1.Use(withTenant)
	shops := v1.PathPrefix("/shops/{shop}").Subrouter()
	shops.Use(withTenant)
	shops.HandleFunc("/items/{item}", route).Methods(http.MethodGet)
	r.PathPrefix("/files/").HandlerFunc(route)
	r.Handle("/tenant/{id}", withTenant(http.HandlerFunc(route)))
	r.HandleFunc("/large/{id}", route)
	r.HandleFunc("/slow/{id}", route)
	r.PathPrefix("/gin/").Handler(ginBelow())
	r.NotFoundHandler = http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		w.WriteHeader(http.StatusNotFound)
		route(w, r)
	})
	return http.HandlerFunc(func(w http.ResponseWriter, req *http.Request) {
		if !denied(w, req) {
			r.ServeHTTP(w, req)
		}
	})
}
