package loader

import "testing"

func TestPreemptionOf(t *testing.T) {
	const dynamic, fixed, none = "#1 SMP PREEMPT_DYNAMIC Debian", "#1 SMP PREEMPT_RT Debian", "#1 SMP Debian"
	const builtNone = "CONFIG_PREEMPT_BUILD=y\nCONFIG_PREEMPT_NONE=y\n# CONFIG_PREEMPT is not set\nCONFIG_PREEMPTION=y\n"
	for name, c := range map[string]struct {
		mode, cmdline, version, config string
		want                           preemption
	}{
		"debugfs, full":               {"none voluntary (full) lazy\n", "preempt=none", dynamic, builtNone, preempts},
		"debugfs, lazy":               {"full (lazy)\n", "", fixed, "", preempts},
		"debugfs, voluntary":          {"none (voluntary) full\n", "preempt=full", dynamic, "", neverPreempt},
		"command line":                {"", "quiet preempt=full root=/dev/vda", dynamic, builtNone, preempts},
		"command line, none":          {"", "preempt=none", dynamic, "", neverPreempt},
		"cannot":                      {"", "quiet", none, "CONFIG_PREEMPT_VOLUNTARY=y\n", neverPreempt},
		"always":                      {"", "quiet", fixed, "", preempts},
		"built for none":              {"", "quiet", dynamic, builtNone, neverPreempt},
		"built for voluntary":         {"", "", dynamic, "CONFIG_PREEMPT_VOLUNTARY=y\nCONFIG_PREEMPTION=y\n", neverPreempt},
		"built for full":              {"", "", dynamic, "# CONFIG_PREEMPT_NONE is not set\nCONFIG_PREEMPT=y\n", preempts},
		"built for lazy":              {"", "", dynamic, "CONFIG_PREEMPT_LAZY=y\n", preempts},
		"nobody tells":                {"", "quiet", dynamic, "", mayPreempt},
		"a mode not known":            {"", "preempt=sometimes", dynamic, builtNone, mayPreempt},
		"a build of another question": {"", "", dynamic, "CONFIG_PREEMPT_NOTIFIERS=y\nCONFIG_PREEMPT_RCU=y\n", mayPreempt},
	} {
		t.Run(name, func(t *testing.T) {
			if got := preemptionOf(c.mode, c.cmdline, c.version, func() []byte { return []byte(c.config) }); got != c.want {
				t.Errorf("preemption %d, want %d", got, c.want)
			}
		})
	}
}
