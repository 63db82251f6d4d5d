package kube

import (
	"log/slog"
	"path/filepath"
	"strings"
	"sync"
	"testing"

	"weft/kube/kubetest"
)

// sample reads a Pod of testdata.
func sample(t testing.TB, name string) map[string]any {
	t.Helper()
	return kubetest.ReadObject(t, filepath.Join("testdata", name+".json"))
}

// logLines gathers log lines.
type logLines struct {
	mu    sync.Mutex
	lines []string
}

func (l *logLines) Write(b []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.lines = append(l.lines, strings.TrimSuffix(string(b), "\n"))
	return len(b), nil
}

func (l *logLines) logger() *slog.Logger {
	return slog.New(slog.NewTextHandler(l, &slog.HandlerOptions{Level: slog.LevelDebug}))
}

// with are the lines that hold the text.
func (l *logLines) with(text string) []string {
	l.mu.Lock()
	defer l.mu.Unlock()
	var found []string
	for _, line := range l.lines {
		if strings.Contains(line, text) {
			found = append(found, line)
		}
	}
	return found
}
