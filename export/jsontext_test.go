package export

import (
	"bytes"
	"encoding/json"
	"testing"
)

// TestPlainJSON: what comes out says the same, and holds nothing that steers a
// terminal.
func TestPlainJSON(t *testing.T) {
	for in, want := range map[string]string{
		"plain":                   `"plain"`,
		"naïve 世界":                `"naïve 世界"`,
		"\x1b[2J\x7f":             `"\u001b[2J\u007f"`,
		"\u009b2J":                `"\u009b2J"`,
		"a\u202eb\u2066c":         `"a\u202eb\u2066c"`,
		"tag \U000e0041, \ufeff.": `"tag \udb40\udc41, \ufeff."`,
		"two\nlines":              `"two\nlines"`,
	} {
		var out bytes.Buffer
		encoder := json.NewEncoder(PlainJSON(&out))
		encoder.SetEscapeHTML(false)
		if err := encoder.Encode(in); err != nil {
			t.Fatal(err)
		}
		if got := out.String(); got != want+"\n" {
			t.Errorf("%q became %s, want %s", in, got, want)
		}
		var back string
		if err := json.Unmarshal(out.Bytes(), &back); err != nil || back != in {
			t.Errorf("%q reads back as %q: %v", in, back, err)
		}
	}
}
