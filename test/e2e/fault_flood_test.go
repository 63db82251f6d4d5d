package e2e

import (
	"bytes"
	"debug/elf"
	"encoding/binary"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"
)

// exits is machine code that calls exit(0) and nothing else.
var exits = map[string]struct {
	machine elf.Machine
	code    []byte
}{
	// xor edi, edi; mov eax, 60; syscall
	"amd64": {elf.EM_X86_64, []byte{0x31, 0xff, 0xb8, 60, 0, 0, 0, 0x0f, 0x05}},
	// mov x0, #0; mov x8, #93; svc #0
	"arm64": {elf.EM_AARCH64, []byte{0x00, 0x00, 0x80, 0xd2, 0xa8, 0x0b, 0x80, 0xd2, 0x01, 0x00, 0x00, 0xd4}},
}

// briefProgram is a static program of one page that ends at once: four times as many
// of it fit into a minute as of true(1), which has a library to load.
func briefProgram(t *testing.T) string {
	t.Helper()
	exit, ok := exits[runtime.GOARCH]
	if !ok {
		t.Skipf("no program that ends at once for %s", runtime.GOARCH)
	}
	const headers, base = 64 + 56, 0x400000
	size := uint64(headers + len(exit.code))
	file := elf.Header64{Type: uint16(elf.ET_EXEC), Machine: uint16(exit.machine), Version: uint32(elf.EV_CURRENT),
		Entry: base + headers, Phoff: 64, Ehsize: 64, Phentsize: 56, Phnum: 1}
	copy(file.Ident[:], elf.ELFMAG)
	file.Ident[elf.EI_CLASS], file.Ident[elf.EI_DATA], file.Ident[elf.EI_VERSION] = byte(elf.ELFCLASS64), byte(elf.ELFDATA2LSB), byte(elf.EV_CURRENT)
	segment := elf.Prog64{Type: uint32(elf.PT_LOAD), Flags: uint32(elf.PF_R | elf.PF_X), Vaddr: base, Filesz: size, Memsz: size, Align: 0x10000}
	var b bytes.Buffer
	for _, part := range []any{file, segment, exit.code} {
		if err := binary.Write(&b, binary.LittleEndian, part); err != nil {
			t.Fatal(err)
		}
	}
	path := filepath.Join(t.TempDir(), "brief")
	if err := os.WriteFile(path, b.Bytes(), 0o755); err != nil {
		t.Fatal(err)
	}
	return path
}

// flood starts so many processes that end at once, at that rate a minute (0: as fast
// as can be), for a minute at most. Who comes late catches up. It returns how many
// ran, and for how long.
func flood(t *testing.T, g *group, path string, want, rate int) (n int, took time.Duration) {
	t.Helper()
	begin := time.Now()
	deadline := begin.Add(patience(t, time.Minute))
	var started, ended atomic.Int64
	var wg sync.WaitGroup
	for range 8 { // one alone waits for its child longer than there is time
		wg.Go(func() {
			for {
				i := started.Add(1) - 1
				if int(i) >= want || time.Now().After(deadline) {
					return
				}
				if rate > 0 {
					time.Sleep(time.Until(begin.Add(time.Duration(i) * time.Minute / time.Duration(rate))))
				}
				cmd := exec.Command(path)
				cmd.SysProcAttr = &syscall.SysProcAttr{UseCgroupFD: true, CgroupFD: int(g.fd.Fd())}
				if err := cmd.Run(); err != nil {
					t.Errorf("process %d: %v", i, err)
					return
				}
				ended.Add(1)
			}
		})
	}
	wg.Wait()
	return int(ended.Load()), time.Since(begin)
}

// judgeRate fails if the processes came slower than they were to, and the machine
// alone could have started twice as many.
func judgeRate(t *testing.T, path string, n int, took time.Duration) {
	t.Helper()
	rate := float64(n) / took.Minutes()
	t.Logf("%d processes in %v: %.0f a minute", n, took.Round(time.Millisecond), rate)
	if rate >= 0.98*perMinute || scale(t) < 1 {
		return
	}
	n, took = flood(t, newGroup(t), path, 2000, 0)
	if alone := float64(n) / took.Minutes(); alone > 2*perMinute {
		t.Errorf("%.0f processes a minute beside weft, %d were to come; %.0f a minute without", rate, perMinute, alone)
	} else {
		t.Logf("this machine starts %.0f a minute without weft", alone)
	}
}
