//go:build !go1.24

package main

import (
	"errors"
	"net/http"
)

var errNoPlainHTTP2 = errors.New("h2c-std: net/http has it from Go 1.24 on")

func plainHTTP2Server(*http.Server) error { return errNoPlainHTTP2 }

func plainHTTP2Client(*http.Transport) error { return errNoPlainHTTP2 }
