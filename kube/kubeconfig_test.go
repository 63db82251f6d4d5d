package kube

import (
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// TestKubeconfigRunsNothing: a kubeconfig that names a program for its credentials is
// refused, in one line, before anything is run.
func TestKubeconfigRunsNothing(t *testing.T) {
	dir := t.TempDir()
	ran, file := filepath.Join(dir, "ran"), filepath.Join(dir, "kubeconfig")
	text := `apiVersion: v1
kind: Config
clusters: [{name: c, cluster: {server: "https://127.0.0.1:1"}}]
users: [{name: u, user: {exec: {apiVersion: client.authentication.k8s.io/v1, command: touch, args: ["` + ran + `"], interactiveMode: Never}}}]
contexts: [{name: x, context: {cluster: c, user: u}}]
current-context: x
`
	if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	o := Options{Kubeconfig: file, Node: "node-a", Log: slog.New(slog.DiscardHandler)}
	_, _, err := Check(t.Context(), o)
	for _, err := range []error{err, New(o).Follow(nil)} {
		if err == nil || !strings.Contains(err.Error(), `runs "touch"`) || strings.Contains(err.Error(), "\n") {
			t.Errorf("%v", err)
		}
	}
	if _, err := os.Stat(ran); err == nil {
		t.Error("the program was run")
	}
}
