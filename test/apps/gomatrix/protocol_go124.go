//go:build go1.24

package main

import "net/http"

func plainHTTP2() *http.Protocols {
	p := new(http.Protocols)
	p.SetUnencryptedHTTP2(true)
	return p
}

func plainHTTP2Server(srv *http.Server) error {
	srv.Protocols = plainHTTP2()
	return nil
}

func plainHTTP2Client(t *http.Transport) error {
	t.Protocols = plainHTTP2()
	return nil
}
