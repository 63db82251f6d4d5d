package e2e

import "testing"

// TestGoTLS judges HTTP/1 over TLS: the spans everywhere, the headers where the kernel
// lets a program's memory be written.
func TestGoTLS(t *testing.T) { goMixed(t, goLocal, "https", scaled(t, 200)) }
