//go:build go1.24

package main

import "net/http"

func plainHTTP2(s *http.Server) error {
	s.Protocols = new(http.Protocols)
	s.Protocols.SetUnencryptedHTTP2(true)
	return nil
}
