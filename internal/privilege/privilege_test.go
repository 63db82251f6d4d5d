package privilege

import (
	"errors"
	"os"
	"strings"
	"testing"
)

func TestSet(t *testing.T) {
	s := SetOf(BPF, NetAdmin)
	if !s.Has(BPF) || !s.Has(NetAdmin) || s.Has(Perfmon) || s.Len() != 2 || s != 1<<39|1<<12 {
		t.Errorf("%x", s)
	}
	if BPF.String() != "CAP_BPF" || Capability(3).String() != "capability 3" {
		t.Errorf("%v, %v", BPF, Capability(3))
	}
}

// TestEffective holds capget(2) against what /proc says.
func TestEffective(t *testing.T) {
	s, err := Effective()
	if err != nil {
		t.Fatal(err)
	}
	text, err := os.ReadFile("/proc/self/status")
	if err != nil {
		t.Fatal(err)
	}
	_, rest, _ := strings.Cut(string(text), "CapEff:\t")
	line, _, _ := strings.Cut(rest, "\n")
	if want := strings.TrimLeft(line, "0"); want != strings.TrimLeft(hex(s), "0") {
		t.Errorf("%s, and /proc/self/status says %s", hex(s), want)
	}
}

func hex(s Set) string {
	const digits = "0123456789abcdef"
	var b strings.Builder
	for shift := 60; shift >= 0; shift -= 4 {
		b.WriteByte(digits[s>>shift&15])
	}
	return b.String()
}

func TestRequire(t *testing.T) {
	for _, c := range []struct {
		held      Set
		namespace string
		want      string // beginning of the error; "": none
	}{
		{SetOf(BPF, Perfmon), "", ""},
		{SetOf(SysAdmin), "", ""},
		{SetOf(BPF), "", "CAP_PERFMON missing; "},
		{SetOf(Perfmon, NetAdmin), "", "CAP_BPF missing; "},
		{0, "", "CAP_BPF and CAP_PERFMON missing; "},
		{^Set(0), "user:[1]", "in a user namespace (user:[1])"},
	} {
		err := Require(c.held, c.namespace)
		if c.want == "" {
			if err != nil {
				t.Errorf("%x: %v", c.held, err)
			}
			continue
		}
		var missing *MissingError
		if !errors.As(err, &missing) || !strings.HasPrefix(err.Error(), c.want) || strings.Contains(err.Error(), "\n") {
			t.Errorf("%x: %v, want %s", c.held, err, c.want)
		}
	}
}

func TestLacking(t *testing.T) {
	if got := Lacking(SetOf(BPF, SysAdmin, SysPtrace, DACOverride)); len(got) != 0 {
		t.Errorf("%+v", got)
	}
	got := Lacking(SetOf(BPF, Perfmon, SysAdmin))
	if len(got) != 2 || got[0].Capability != SysPtrace || got[1].Capability != DACReadSearch {
		t.Errorf("CAP_SYS_ADMIN is taken for %+v", got)
	}
}

// TestDocumented holds the table of docs/security.md against Uses: a row for each, in
// order, that says the same.
func TestDocumented(t *testing.T) {
	text, err := os.ReadFile("../../docs/security.md")
	if err != nil {
		t.Fatal(err)
	}
	_, section, found := strings.Cut(string(text), "\n## Capabilities\n")
	if !found {
		t.Fatal("no section Capabilities")
	}
	section, _, _ = strings.Cut(section, "\n## ")
	var rows [][]string
	for line := range strings.Lines(section) {
		if strings.HasPrefix(line, "| `CAP_") {
			rows = append(rows, strings.Split(strings.Trim(strings.TrimSpace(line), "| "), " | "))
		}
	}
	uses := Uses()
	if len(rows) < len(uses) {
		t.Fatalf("%d rows for %d uses", len(rows), len(uses))
	}
	for i, u := range uses {
		row := rows[i]
		if len(row) != 4 || row[0] != "`"+u.Capability.String()+"`" || row[1] != u.For || row[2] != u.Without {
			t.Errorf("docs/security.md: %q\nwant | `%s` | %s | %s | …", row, u.Capability, u.For, u.Without)
		}
		for _, c := range u.Also {
			if !strings.Contains(row[len(row)-1], c.String()) {
				t.Errorf("docs/security.md: %s does not say that %s is enough", row[0], c)
			}
		}
	}
	if !strings.Contains(section, All()) {
		t.Errorf("no line says how to grant %s", All())
	}
}
