package footprint

import (
	"errors"
	"io/fs"
	"math"
	"os"
	"os/exec"
	"strings"
	"testing"
	"time"

	"github.com/cilium/ebpf"
)

func series(values ...float64) []Sample {
	start := time.Unix(1000, 0)
	var out []Sample
	for i, v := range values {
		out = append(out, Sample{At: start.Add(time.Duration(i) * time.Second), RSS: uint64(v), FDs: int(v)})
	}
	return out
}

func rss(s Sample) float64 { return float64(s.RSS) }

func TestGrowth(t *testing.T) {
	long := make([]float64, 2000)
	for i := range long {
		long[i] = float64(i)
	}
	tests := []struct {
		name   string
		values []float64
		want   float64
	}{
		{"nothing", nil, 0},
		{"one", []float64{5}, 0},
		{"flat", []float64{5, 5, 5, 5}, 0},
		{"steady", []float64{10, 20, 30, 40, 50}, 40},
		{"falls", []float64{50, 40, 30}, -20},
		{"a peak is no growth", []float64{5, 5, 5, 900, 5, 5, 5}, 0},
		{"a peak at the end is no growth", []float64{5, 5, 5, 5, 5, 5, 900}, 0},
		{"a saw is no growth", []float64{10, 20, 30, 10, 20, 30, 10, 20, 30, 10, 20, 30, 10}, 0},
		{"a saw that climbs is", []float64{10, 20, 15, 25, 20, 30, 25, 35, 30, 40}, 22.5},
		{"many samples", long, 1994},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			if got := Growth(series(tt.values...), rss); math.Abs(got-tt.want) > 1e-6+math.Abs(tt.want)/20 {
				t.Errorf("got %v, want about %v", got, tt.want)
			}
		})
	}
}

func TestGrew(t *testing.T) {
	q := []Quantity{{Name: "rss", Of: rss, Bound: 30}, {Name: "fds", Of: func(s Sample) float64 { return float64(s.FDs) }, Bound: 50}}
	if got := Grew(series(10, 20, 30, 40, 50), q); len(got) != 1 || !strings.Contains(got[0], "rss grew by 40.0 in 4s") {
		t.Errorf("got %q, want rss alone", got)
	}
	if got := Grew(series(10, 10, 10), q); len(got) != 0 {
		t.Errorf("flat, and said to grow: %q", got)
	}
}

func TestTableAndPlot(t *testing.T) {
	var out strings.Builder
	q := Quantity{Name: "RSS", Of: rss}
	if err := Table(&out, series(1, 2, 3, 4, 5, 6, 7), []Quantity{q}, 3); err != nil {
		t.Fatal(err)
	}
	if got, want := strings.Join(strings.Fields(out.String()), " "), "after RSS 0s 1 3s 4 6s 7"; got != want {
		t.Errorf("table %q, want %q", got, want)
	}
	plot := Plot(series(4, 8), q)
	lines := strings.Split(plot, "\n")
	if len(lines) != plotHeight+3 || lines[1] != "  |"+strings.Repeat(" ", plotWidth-1)+"#" ||
		lines[plotHeight] != "  |"+strings.Repeat("#", plotWidth) {
		t.Errorf("plot:\n%s", plot)
	}
	if Plot(nil, q) != "" {
		t.Error("a plot of nothing")
	}
}

func TestReadSelf(t *testing.T) {
	before, err := Read(os.Getpid())
	if err != nil {
		t.Fatal(err)
	}
	block := make([]byte, 64<<20)
	for i := 0; i < len(block); i += 4096 {
		block[i] = 1
	}
	f, err := os.Open("/dev/null")
	if err != nil {
		t.Fatal(err)
	}
	for end := time.Now().Add(300 * time.Millisecond); time.Now().Before(end); {
		block[0]++
	}
	after, err := Read(os.Getpid())
	if err != nil {
		t.Fatal(err)
	}
	if grown := int64(after.RSS) - int64(before.RSS); grown < 32<<20 {
		t.Errorf("64 MiB touched, RSS grew by %d", grown)
	}
	if after.FDs <= before.FDs-1 || after.CPU < before.CPU+20*time.Millisecond {
		t.Errorf("descriptors %d → %d, CPU %v → %v", before.FDs, after.FDs, before.CPU, after.CPU)
	}
	_ = f.Close()
	block[1] = 0
}

func TestReadGone(t *testing.T) {
	cmd := exec.Command("true")
	if err := cmd.Run(); err != nil {
		t.Fatal(err)
	}
	if _, err := Read(cmd.Process.Pid); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("a process that is gone: %v", err)
	}
}

func TestHeld(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("looking BPF maps up by their id needs root")
	}
	m, err := ebpf.NewMap(&ebpf.MapSpec{Name: "footprint", Type: ebpf.Hash, KeySize: 4, ValueSize: 4, MaxEntries: 100})
	if err != nil {
		t.Fatal(err)
	}
	for i := range uint32(7) {
		if err := m.Put(i, i); err != nil {
			t.Fatal(err)
		}
	}
	s, err := Read(os.Getpid())
	if err != nil {
		t.Fatal(err)
	}
	if s.Maps != 1 || s.Entries["footprint"] != 7 || s.Total() != 7 {
		t.Errorf("%d maps, entries %v", s.Maps, s.Entries)
	}
	held, err := Held(os.Getpid())
	if err != nil {
		t.Fatal(err)
	}
	if maps, _, err := held.Left(); err != nil || maps != 1 {
		t.Errorf("%d maps left while it is open: %v", maps, err)
	}
	if err := m.Close(); err != nil {
		t.Fatal(err)
	}
	for end := time.Now().Add(10 * time.Second); ; time.Sleep(10 * time.Millisecond) {
		maps, _, err := held.Left()
		if err != nil {
			t.Fatal(err)
		}
		if maps == 0 {
			return
		}
		if time.Now().After(end) {
			t.Fatal("the map is still there 10 s after it was closed")
		}
	}
}
