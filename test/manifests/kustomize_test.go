package manifests

import (
	"fmt"
	"path/filepath"
	"reflect"
	"slices"
	"testing"

	corev1 "k8s.io/api/core/v1"

	"sigs.k8s.io/kustomize/api/krusty"
	"sigs.k8s.io/kustomize/kyaml/filesys"
)

// build is `kubectl kustomize DIR`.
func build(t *testing.T, dir string) *install {
	t.Helper()
	made, err := krusty.MakeKustomizer(krusty.MakeDefaultOptions()).Run(filesys.MakeFsOnDisk(), dir)
	if err != nil {
		t.Fatalf("%s: %v", dir, err)
	}
	text, err := made.AsYaml()
	if err != nil {
		t.Fatal(err)
	}
	in, err := load(string(text))
	if err != nil {
		t.Fatalf("%s: %v", dir, err)
	}
	return in
}

// TestBase: the base is the file, object by object.
func TestBase(t *testing.T) {
	base, plain := build(t, shipped), loadShipped(t)
	if len(base.objects) != len(plain.objects) {
		t.Fatalf("%d objects, the file has %d", len(base.objects), len(plain.objects))
	}
	for _, object := range plain.objects {
		found := false
		for _, other := range base.objects {
			found = found || reflect.DeepEqual(object, other)
		}
		if !found {
			t.Errorf("the base changes or lacks %+v", object)
		}
	}
}

// TestExample: the overlay is taken by the API server, changes what it says, and
// its configuration is one.
func TestExample(t *testing.T) {
	in, plain := build(t, example), loadShipped(t)
	if want := len(plain.objects) + 1; len(in.objects) != want {
		t.Errorf("%d objects, want %d", len(in.objects), want)
	}
	if in.container().Image == plain.container().Image {
		t.Errorf("the image is still %s", in.container().Image)
	}
	if got := in.daemonSet.Spec.UpdateStrategy.RollingUpdate; reflect.DeepEqual(got, plain.daemonSet.Spec.UpdateStrategy.RollingUpdate) {
		t.Error("the update strategy is still the base's")
	}
	if in.config.Name == plain.config.Name {
		t.Errorf("the ConfigMap is still called %s: its changes would not reach the agents", in.config.Name)
	}
	if got := volume(t, in.pod(), "config").ConfigMap.Name; got != in.config.Name {
		t.Errorf("the pod mounts the ConfigMap %s, want %s", got, in.config.Name)
	}
	if want := read(t, example+"/weft.yaml"); in.config.Data["weft.yaml"] != want {
		t.Errorf("the configuration is\n%s", in.config.Data["weft.yaml"])
	}
	checkConfig(t, in)
}

// withMemory is an overlay of a folder and the component that lets weft write into
// programs' memory.
func withMemory(t *testing.T, of string) *install {
	t.Helper()
	overlay := t.TempDir()
	relative := func(dir string) string {
		abs, err := filepath.Abs(dir)
		if err == nil {
			dir, err = filepath.Rel(overlay, abs)
		}
		if err != nil {
			t.Fatal(err)
		}
		return dir
	}
	text := fmt.Sprintf("resources: [%s]\ncomponents: [%s]\n", relative(of), relative(filepath.Join(shipped, "memory")))
	if err := filesys.MakeFsOnDisk().WriteFile(filepath.Join(overlay, "kustomization.yaml"), []byte(text)); err != nil {
		t.Fatal(err)
	}
	return build(t, overlay)
}

// TestMemoryComponent: it adds one capability, to the base and to an overlay, and
// nothing else; the API server takes both.
func TestMemoryComponent(t *testing.T) {
	for _, of := range []string{shipped, example} {
		plain, with := build(t, of), withMemory(t, of)
		added := &with.container().SecurityContext.Capabilities.Add
		want := append(slices.Clone(plain.container().SecurityContext.Capabilities.Add), "SYS_ADMIN")
		if !slices.Equal(*added, want) {
			t.Errorf("%s: capabilities %v, want %v", of, *added, want)
		}
		*added = slices.DeleteFunc(slices.Clone(*added), func(c corev1.Capability) bool { return c == "SYS_ADMIN" })
		if !reflect.DeepEqual(plain.objects, with.objects) {
			t.Errorf("%s: the component changes more than capabilities", of)
		}
	}
}
