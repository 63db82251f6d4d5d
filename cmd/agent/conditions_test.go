package main

import (
	"bytes"
	"errors"
	"fmt"
	"log/slog"
	"strings"
	"testing"

	"github.com/prometheus/procfs"

	"weft/internal/privilege"
)

// TestKernelTooOld: named in doctor, and behind what the kernel says when it refuses.
func TestKernelTooOld(t *testing.T) {
	for _, c := range []struct{ release, effect string }{
		{"4.19.0-27-amd64", "no ring buffer"}, {"5.4.0-216-generic", "no ring buffer"}, {"5.9.16", "never tested"},
		{"5.10.0-46-cloud-amd64", ""}, {"6.18.44", ""}, {"strange", ""},
	} {
		row := kernelRow(c.release, "x86_64")
		old := kernelTooOld(c.release)
		if c.effect == "" {
			if old != nil || row.State != stateOK {
				t.Errorf("%s: %v, %+v", c.release, old, row)
			}
			continue
		}
		if old == nil || row.State != stateDegraded || !strings.Contains(row.Effect, c.effect) || !strings.Contains(row.Mend, "5.10") {
			t.Errorf("%s: %v, %+v", c.release, old, row)
			continue
		}
		refused := explained(errors.New("no way works"), c.release, privilege.SetOf(privilege.SysResource), 64<<10)
		if s := refused.Error(); !strings.HasPrefix(s, "no way works; Linux "+c.release) || !strings.Contains(s, c.effect) || strings.Contains(s, "\n") {
			t.Errorf("%s: %q", c.release, s)
		}
		var log bytes.Buffer
		logKernel(slog.New(slog.NewTextHandler(&log, nil)), c.release)
		if s := log.String(); !strings.Contains(s, c.effect) || strings.Count(s, "\n") != 1 {
			t.Errorf("%s: log %q", c.release, s)
		}
	}
}

// TestMemlockExplained: only where the kernel charges maps to the limit, and weft may
// not raise it.
func TestMemlockExplained(t *testing.T) {
	const unlimited = ^uint64(0)
	for _, c := range []struct {
		release string
		held    privilege.Set
		limit   uint64
		want    bool
	}{
		{"5.10.0", 0, 64 << 10, true},
		{"5.10.0", privilege.SetOf(privilege.SysResource), 64 << 10, false},
		{"5.10.0", 0, unlimited, false},
		{"5.11.0", 0, 64 << 10, false},
	} {
		got := explained(errors.New("refused"), c.release, c.held, c.limit).Error()
		if strings.Contains(got, "CAP_SYS_RESOURCE") != c.want {
			t.Errorf("%+v: %q", c, got)
		}
	}
}

func TestBPFFileSystem(t *testing.T) {
	mount := func(kind, point string, options, super map[string]string) *procfs.MountInfo {
		return &procfs.MountInfo{FSType: kind, MountPoint: point, Options: options, SuperOptions: super}
	}
	rw, ro := map[string]string{"rw": ""}, map[string]string{"ro": ""}
	for _, c := range []struct {
		mounts []*procfs.MountInfo
		want   string
	}{
		{nil, "no bpf file system is mounted"},
		{[]*procfs.MountInfo{mount("tmpfs", "/sys/fs/bpf", rw, rw)}, "no bpf file system is mounted"},
		{[]*procfs.MountInfo{mount("bpf", "/sys/fs/bpf", rw, rw)}, "/sys/fs/bpf is writable"},
		{[]*procfs.MountInfo{mount("bpf", "/sys/fs/bpf", ro, rw)}, "/sys/fs/bpf is read-only"},
		{[]*procfs.MountInfo{mount("bpf", "/sys/fs/bpf", rw, ro)}, "/sys/fs/bpf is read-only"},
	} {
		if got := bpfFileSystem(c.mounts); got != c.want {
			t.Errorf("%q, want %q", got, c.want)
		}
	}
}

// TestListenIsLogged: only where others than this host may ask.
func TestListenIsLogged(t *testing.T) {
	for address, want := range map[string]bool{
		"": false, "127.0.0.1:9464": false, "[::1]:9464": false, "[::ffff:127.0.0.1]:1": false,
		"[::]:9464": true, "0.0.0.0:9464": true, "10.0.0.7:9464": true,
	} {
		var log bytes.Buffer
		logListen(slog.New(slog.NewTextHandler(&log, nil)), address)
		if got := strings.Contains(log.String(), address) && strings.Contains(log.String(), "telemetry.listen"); got != want {
			t.Errorf("%q: %q", address, log.String())
		}
	}
}

// TestVisible: nothing that others had a say in steers a terminal.
func TestVisible(t *testing.T) {
	for in, want := range map[string]string{
		"plain text, naïve 世界":      "plain text, naïve 世界",
		"\x1b]0;title\x07":          `\x1b]0;title\a`,
		"two\nlines\r":              `two\nlines\r`,
		"\u009b31m":                 `\u009b31m`, // CSI in one character
		"\x9b31m":                   `\x9b31m`,   // and as a byte
		"user\u202etxt.exe":         `user\u202etxt.exe`,
		"\ufffd is a character too": "\ufffd is a character too",
	} {
		if got := visible(in); got != want {
			t.Errorf("%q became %q, want %q", in, got, want)
		}
	}
	var line bytes.Buffer
	report(&line, usage(fmt.Errorf("inspect: %s", "a\x1b[2Jb\nc")))
	if got := line.String(); got != "weft: inspect: a\\x1b[2Jb\nweft: c\n" {
		t.Errorf("an error: %q", got)
	}
	var t1 table
	t1.row("executable", "%s", "/tmp/\x1b[31mred")
	if got := t1.String(); strings.Contains(got, "\x1b") || !strings.HasSuffix(got, "red\n") {
		t.Errorf("inspect: %q", got)
	}
	d := diagnosis{Capabilities: []capability{{Name: "kubernetes", State: stateMissing, Why: "\x1b[2J", Effect: "\x07", Mend: "\x1b"}}}
	if got := string(d.text(palette{})); strings.ContainsAny(got, "\x1b\x07") {
		t.Errorf("doctor: %q", got)
	}
}
