package loader

import (
	"embed"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"io/fs"
	"log/slog"
	"maps"
	"net/netip"
	"os"
	"path"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/rlimit"
	"golang.org/x/sys/unix"
)

// verifiedInto is where TestVerified writes instead of comparing: `make verified`.
var verifiedInto = flag.String("verified", "", "record what this kernel's verifier counts in this folder instead of comparing")

// recorded are the counts that were accepted, one file a kernel series. They are
// in the test binary, so that it can be run in a guest by itself.
//
//go:embed testdata/verified
var recorded embed.FS

// verified is how many instructions the verifier of one kernel processes, by way of
// capture and program. The verifier gives up at a million, and a kernel update or
// one more branch in a loop can multiply the number: it is to grow by decision only.
type verified struct {
	Kernel string                     `json:"kernel"` // uname -r
	Ways   map[Capture]map[string]int `json:"ways"`
}

// mostGrowth is what a count may exceed its record by, in hundredths of it.
const mostGrowth = 10

// everything selects any process: finding processes is then compiled in.
type everything struct{}

func (everything) Select(Candidate) (string, bool) { return "", true }
func (everything) NeedsPorts() bool                { return true }

// everyFeature has every constant set behind which the verifier would leave
// something out.
func everyFeature() Options {
	return Options{
		Log:      slog.New(slog.DiscardHandler),
		Selector: everything{},
		Policy: Policy{
			Inject:     HeaderTraceparent | HeaderTracestate | HeaderBaggage,
			Trust:      []netip.Prefix{netip.MustParsePrefix("10.0.0.0/8")},
			Attributes: []string{"user_id"},
			Edges:      []Edge{{Key: "user_id", Header: "x-user-id"}},
		},
		Sampling: Sampling{ParentBased: true, Ratio: 0.5, MaxPerSecond: 100, Marks: true,
			Rules: []SamplingRule{{Path: "/static/", Ratio: 0.1}}},
	}
}

// countVerified loads the programs of one way and attaches none.
func countVerified(way Capture) (map[string]int, error) {
	spec, _, err := programsOf(everyFeature(), way)
	if err != nil {
		return nil, err
	}
	coll, err := ebpf.NewCollectionWithOptions(spec, ebpf.CollectionOptions{Programs: ebpf.ProgramOptions{LogLevel: ebpf.LogLevelStats}})
	if err != nil {
		return nil, fmt.Errorf("load BPF programs: %w", shortVerifierError(err))
	}
	defer coll.Close()
	return countsOf(coll)
}

// goWay stands for the programs of Go sites, in the record beside the ways of capture.
const goWay Capture = "go"

// countVerifiedGo does that for the programs of Go sites, on the maps of one way.
func countVerifiedGo(way Capture) (map[string]int, error) {
	o := everyFeature()
	spec, _, err := programsOf(o, way)
	if err != nil {
		return nil, err
	}
	spec.Programs = nil // the maps alone
	first, err := ebpf.NewCollection(spec)
	if err != nil {
		return nil, fmt.Errorf("create maps: %w", err)
	}
	defer first.Close()
	o.goWrites = mayWriteUser() == nil
	multi := haveUprobeMulti()
	spec, shared, err := goSpec(o, first.Maps, multi, func(program string) bool {
		// As it is attached: one entry for all sites, or one for each.
		return strings.HasPrefix(program, goSite) || program == goEntry && multi ||
			program != goEntry && strings.HasPrefix(program, goEach) && !multi
	})
	if err != nil {
		return nil, err
	}
	coll, err := ebpf.NewCollectionWithOptions(spec, ebpf.CollectionOptions{MapReplacements: shared,
		Programs: ebpf.ProgramOptions{LogLevel: ebpf.LogLevelStats}})
	if err != nil {
		return nil, fmt.Errorf("load BPF programs for Go: %w", shortVerifierError(err))
	}
	defer coll.Close()
	return countsOf(coll)
}

func countsOf(coll *ebpf.Collection) (map[string]int, error) {
	out := map[string]int{}
	for name, p := range coll.Programs {
		n, err := verifiedOf(p)
		if err != nil {
			return nil, fmt.Errorf("count %s: %w", name, err)
		}
		out[name] = n
	}
	return out, nil
}

// verifiedOf asks the kernel, or before 5.16 the verifier's log.
func verifiedOf(p *ebpf.Program) (int, error) {
	info, err := p.Info()
	if err != nil {
		return 0, fmt.Errorf("read program information: %w", err)
	}
	if n, ok := info.VerifiedInstructions(); ok && n > 0 {
		return int(n), nil
	}
	return processed(p.VerifierLog)
}

// processed reads the count from the last line of a verifier's log.
func processed(log string) (int, error) {
	match := regexp.MustCompile(`processed (\d+) insns`).FindAllStringSubmatch(log, -1)
	if len(match) == 0 {
		return 0, fmt.Errorf("no count in the verifier's log %.200q", log)
	}
	return strconv.Atoi(match[len(match)-1][1])
}

// compareVerified says what grew too much, and what the record does not match.
func compareVerified(now, was map[string]int) (wrong []string) {
	for _, name := range slices.Sorted(maps.Keys(now)) {
		before, known := was[name]
		switch {
		case !known:
			wrong = append(wrong, fmt.Sprintf("%s: %d instructions verified, not recorded", name, now[name]))
		case 100*now[name] > (100+mostGrowth)*before:
			wrong = append(wrong, fmt.Sprintf("%s: %d instructions verified, %d recorded: %.2f times as many, and at most %.2f pass",
				name, now[name], before, float64(now[name])/float64(before), 1+float64(mostGrowth)/100))
		}
	}
	for _, name := range slices.Sorted(maps.Keys(was)) {
		if _, loaded := now[name]; !loaded {
			wrong = append(wrong, fmt.Sprintf("%s: recorded, and not loaded", name))
		}
	}
	return wrong
}

// TestVerified holds what the verifier of this kernel counts to what is recorded for
// its series.
func TestVerified(t *testing.T) {
	needRoot(t)
	if err := rlimit.RemoveMemlock(); err != nil {
		t.Logf("RLIMIT_MEMLOCK stays: %v", err)
	}
	var u unix.Utsname
	if err := unix.Uname(&u); err != nil {
		t.Fatal(err)
	}
	now := verified{Kernel: unix.ByteSliceToString(u.Release[:]), Ways: map[Capture]map[string]int{}}
	series := seriesOf(now.Kernel)
	for _, way := range []Capture{CaptureFentry, CaptureKprobe, CaptureTracepoint} {
		if err := tryHook(way); err != nil {
			t.Logf("%s does not work on this kernel: %v", way, err)
			continue
		}
		counts, err := countVerified(way)
		if err != nil {
			t.Fatalf("%s: %v", way, err)
		}
		now.Ways[way] = counts
		if now.Ways[goWay] == nil {
			if now.Ways[goWay], err = countVerifiedGo(way); err != nil {
				t.Fatal(err)
			}
		}
	}
	if len(now.Ways) == 0 {
		t.Fatal("no way of capture works on this kernel: nothing was counted")
	}
	if *verifiedInto != "" {
		writeVerified(t, filepath.Join(*verifiedInto, series+".json"), now)
		return
	}
	was, err := readVerified(series)
	if errors.Is(err, fs.ErrNotExist) {
		t.Skipf("nothing is recorded for Linux %s: `make verified KERNEL=%s` (or KERNEL=host on such a machine) records it", series, series)
	}
	if err != nil {
		t.Fatal(err)
	}
	for _, way := range slices.Sorted(maps.Keys(now.Ways)) {
		if was.Ways[way] == nil {
			t.Logf("%s is not recorded for Linux %s, as %s does not offer it", way, series, was.Kernel)
			continue
		}
		for _, wrong := range compareVerified(now.Ways[way], was.Ways[way]) {
			t.Errorf("Linux %s, %s: %s", now.Kernel, way, wrong)
		}
	}
	if t.Failed() {
		t.Logf("make it cheaper, or accept it: `make verified KERNEL=%s` (KERNEL=host for this machine) rewrites loader/testdata/verified/%s.json", series, series)
	}
}

// seriesOf is 6.1 for 6.1.0-56-cloud-amd64.
func seriesOf(release string) string {
	parts := strings.SplitN(release, ".", 3)
	if len(parts) < 2 {
		return release
	}
	minor := strings.IndexFunc(parts[1]+"-", func(r rune) bool { return r < '0' || r > '9' })
	return parts[0] + "." + parts[1][:minor]
}

func readVerified(series string) (v verified, err error) {
	text, err := recorded.ReadFile(path.Join("testdata/verified", series+".json"))
	if err != nil {
		return v, err
	}
	if err := json.Unmarshal(text, &v); err != nil {
		return v, fmt.Errorf("read testdata/verified/%s.json: %w", series, err)
	}
	return v, nil
}

func writeVerified(t *testing.T, file string, v verified) {
	t.Helper()
	text, err := json.MarshalIndent(v, "", "\t")
	if err != nil {
		t.Fatal(err)
	}
	if err := os.MkdirAll(filepath.Dir(file), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(file, append(text, '\n'), 0o644); err != nil {
		t.Fatal(err)
	}
	for _, way := range slices.Sorted(maps.Keys(v.Ways)) {
		most := slices.MaxFunc(slices.Collect(maps.Keys(v.Ways[way])), func(a, b string) int { return v.Ways[way][a] - v.Ways[way][b] })
		t.Logf("%s: %d programs, the most is %s with %d instructions", way, len(v.Ways[way]), most, v.Ways[way][most])
	}
	t.Logf("Linux %s is recorded in %s", v.Kernel, file)
}

// TestVerifiedComparisonCanFail feeds the comparison what it must find.
func TestVerifiedComparisonCanFail(t *testing.T) {
	was := map[string]int{"a": 1000, "b": 50}
	for name, c := range map[string]struct {
		now  map[string]int
		says []string
	}{
		"same":        {map[string]int{"a": 1000, "b": 50}, nil},
		"a little":    {map[string]int{"a": 1100, "b": 10}, nil},
		"too much":    {map[string]int{"a": 1101, "b": 50}, []string{"a: 1101 instructions verified, 1000 recorded: 1.10 times"}},
		"new program": {map[string]int{"a": 1000, "b": 50, "c": 7}, []string{"c: 7 instructions verified, not recorded"}},
		"gone":        {map[string]int{"a": 1000}, []string{"b: recorded, and not loaded"}},
	} {
		wrong := compareVerified(c.now, was)
		if len(wrong) != len(c.says) {
			t.Errorf("%s: %q, want %q", name, wrong, c.says)
			continue
		}
		for i := range wrong {
			if !strings.HasPrefix(wrong[i], c.says[i]) {
				t.Errorf("%s: %q, want %q", name, wrong[i], c.says[i])
			}
		}
	}
	for release, want := range map[string]string{"6.1.0-56-cloud-amd64": "6.1", "6.18.44-fc-v445": "6.18", "7.3": "7.3", "7.4-rc1": "7.4", "odd": "odd"} {
		if got := seriesOf(release); got != want {
			t.Errorf("the series of %s is %s, want %s", release, got, want)
		}
	}
	if n, err := processed("func#0\nprocessed 12 insns (limit 1000000)\nprocessed 345 insns (limit 1000000) max_states_per_insn 4\n"); n != 345 || err != nil {
		t.Errorf("%d instructions, %v; want 345", n, err)
	}
	if _, err := processed("verification time 12 usec"); err == nil {
		t.Error("a log without a count was taken for one")
	}
}

// TestRecordedVerified reads every record: a guest would find a broken one late.
func TestRecordedVerified(t *testing.T) {
	entries, err := recorded.ReadDir("testdata/verified")
	if err != nil || len(entries) == 0 {
		t.Fatalf("%d records, %v", len(entries), err)
	}
	for _, e := range entries {
		series := strings.TrimSuffix(e.Name(), ".json")
		v, err := readVerified(series)
		if err != nil || len(v.Ways) == 0 || seriesOf(v.Kernel) != series {
			t.Errorf("%s: kernel %q, %d ways, %v", e.Name(), v.Kernel, len(v.Ways), err)
		}
		for way, counts := range v.Ways {
			for name, n := range counts {
				if n < 1 || n >= 1_000_000 {
					t.Errorf("%s, %s: %s has %d instructions", e.Name(), way, name, n)
				}
			}
		}
	}
}
