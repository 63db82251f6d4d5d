//go:build !go1.24

package main

import (
	"errors"
	"net/http"
)

func plainHTTP2(*http.Server) error { return errors.New("h2c: net/http has it from Go 1.24 on") }
