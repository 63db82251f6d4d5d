// Package g finds where the runtime keeps the current goroutine.
package g

// Current is the address of the goroutine.
func Current() uintptr
