package loader

import (
	"runtime/debug"
	"testing"
)

// gcPercent is GOGC now.
func gcPercent() int {
	now := debug.SetGCPercent(100)
	debug.SetGCPercent(now)
	return now
}

func TestThrift(t *testing.T) {
	t.Setenv("GOGC", "")
	before := debug.SetGCPercent(170)
	defer debug.SetGCPercent(before)
	var all thrift
	first, second := all.begin(), all.begin()
	if got := gcPercent(); got != thriftPercent {
		t.Errorf("%d while objects are loaded, want %d", got, thriftPercent)
	}
	first()
	first()
	if got := gcPercent(); got != thriftPercent {
		t.Errorf("%d while another is loaded, want %d", got, thriftPercent)
	}
	second()
	if got := gcPercent(); got != 170 {
		t.Errorf("%d afterwards, want 170", got)
	}
	t.Setenv("GOGC", "100")
	end := all.begin()
	if got := gcPercent(); got != 170 {
		t.Errorf("%d where the user sets GOGC", got)
	}
	end()
}
