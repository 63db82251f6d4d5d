package replay

import (
	"flag"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"weft/correlate"
)

var update = flag.Bool("update", false, "rewrite the golden files in testdata")

// Every testdata/NAME.events is replayed and compared with NAME.golden.json.
func TestReplay(t *testing.T) {
	files, err := filepath.Glob("testdata/*.events")
	if err != nil {
		t.Fatal(err)
	}
	if len(files) < 3 {
		t.Fatalf("%d event files found", len(files))
	}
	for _, file := range files {
		name := strings.TrimSuffix(file, ".events")
		t.Run(filepath.Base(name), func(t *testing.T) {
			r := Run(t, correlate.Options{MaxAge: time.Minute}, Feed(t, file))
			Golden(t, name+".golden.json", *update, r)
		})
	}
}

// Two runs give the same bytes, or a golden file would mean nothing.
func TestReplayDeterministic(t *testing.T) {
	feed := Feed(t, "testdata/two_services.events")
	first := Run(t, correlate.Options{}, feed).render(t)
	for range 20 {
		if again := Run(t, correlate.Options{}, feed).render(t); string(again) != string(first) {
			t.Fatal(firstDifference(again, first))
		}
	}
}
