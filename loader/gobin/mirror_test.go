package gobin

import (
	"fmt"
	"os"
	"regexp"
	"strconv"
	"strings"
	"testing"

	"weft/loader/gobin/field"
)

// TestMirror: the lists have the names and values of bpf/abi/golang.h.
func TestMirror(t *testing.T) {
	header, err := os.ReadFile("../../bpf/abi/golang.h")
	if err != nil {
		t.Fatal(err)
	}
	names := enums(t, string(header))

	fields := map[string]bool{}
	for f := range field.Field(field.Count) {
		name := f.String()
		if strings.HasPrefix(name, "field ") {
			continue
		}
		name, second := strings.CutSuffix(name, "/xnet")
		want := names["FIELD "+name]
		if second {
			want += names["FIELD H2_FIELDS"]
		}
		if fields["FIELD "+name] = true; names["FIELD "+name] == 0 && f != 0 || int(f) != want {
			t.Errorf("field %v is %d, in the header %d", f, f, want)
		}
	}
	sites := map[string]bool{}
	for s := range Site(Sites) {
		name, second := strings.CutSuffix(s.String(), "/xnet")
		if strings.HasPrefix(name, "site ") {
			continue
		}
		want := names["SITE "+name]
		if second {
			want = names["SITE "+strings.Replace(name, "H2_", "XNET_", 1)]
		}
		if sites["SITE "+name] = true; int(s) != want || want == 0 {
			t.Errorf("site %v is %d, in the header %d", s, s, want)
		}
	}
	bounds := map[string]int{
		"FIELD FIELDS": field.Count, "FIELD H2_FIELDS": int(field.H2Fields), "SITE SITES": Sites, "SITE H2_COUNT": int(siteH2Count),
		"SITE NONE": 0, "SITE GRPC_SERVER_HEADERS": int(SiteGRPCServerHeaders), // not attached
		"SITE SERVE_TLS": 36, // a jump's target, not attached
	}
	for name, value := range names {
		if want, ok := bounds[name]; ok {
			if value != want {
				t.Errorf("%s is %d, want %d", name, value, want)
			}
			continue
		}
		if strings.HasSuffix(name, "_FIRST") || strings.HasPrefix(name, "SITE XNET_") {
			continue
		}
		if strings.HasPrefix(name, "FIELD ") && !fields[name] || strings.HasPrefix(name, "SITE ") && !sites[name] {
			t.Errorf("%s has no counterpart", name)
		}
	}
	for name, flag := range map[string]uint32{
		"FLAG GOROUTINES": FlagGoroutines, "FLAG WRITES": FlagWrites, "FLAG G_REGISTER": FlagRegister,
		"FLAG WRITES_H2": FlagWritesH2, "FLAG WRITES_GRPC": FlagWritesGRPC, "FLAG WROTE": FlagWrote,
		"FLAG TIMER_POINTER": FlagTimerPointer,
	} {
		if names[name] != int(flag) {
			t.Errorf("%s is %d, in the header %d", name, flag, names[name])
		}
	}
	if FlagWritesXNet != FlagWritesH2<<field.XNet {
		t.Error("the flag of the second flavour is not the next one")
	}
}

// enums reads the enums of a header: "FIELD G_GOID", "SITE SERVE", "FLAG WRITES".
func enums(t *testing.T, header string) map[string]int {
	t.Helper()
	header = regexp.MustCompile(`(?s)/\*.*?\*/`).ReplaceAllString(header, "")
	values, out := map[string]int{}, map[string]int{}
	for _, e := range regexp.MustCompile(`(?s)enum weft_go_(\w+) \{(.*?)\}`).FindAllStringSubmatch(header, -1) {
		kind, next := strings.ToUpper(e[1]), 0
		for entry := range strings.SplitSeq(e[2], ",") {
			name, expression, given := strings.Cut(strings.TrimSpace(entry), "=")
			if name = strings.TrimSpace(name); name == "" {
				continue
			}
			if given {
				v, err := evaluate(expression, values)
				if err != nil {
					t.Fatalf("%s: %v", name, err)
				}
				next = v
			}
			values[name] = next
			short := strings.TrimPrefix(name, "WEFT_GO_")
			if kind == "SITE" {
				short = strings.TrimPrefix(short, "SITE_")
			}
			out[kind+" "+short] = next
			next++
		}
	}
	return out
}

// evaluate knows sums of products.
func evaluate(expression string, values map[string]int) (int, error) {
	sum := 0
	for term := range strings.SplitSeq(expression, "+") {
		product := 1
		for factor := range strings.SplitSeq(term, "*") {
			factor = strings.TrimSpace(factor)
			v, ok := values[factor]
			if !ok {
				n, err := strconv.Atoi(factor)
				if err != nil {
					return 0, fmt.Errorf("unknown name %q", factor)
				}
				v = n
			}
			product *= v
		}
		sum += product
	}
	return sum, nil
}
