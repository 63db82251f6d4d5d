package w3c

import (
	"fmt"
	"strings"
	"testing"
)

func TestThresholdOf(t *testing.T) {
	tests := []struct {
		ratio float64
		want  uint64
		text  string // as the specification's table begins
	}{
		{1, 0, "0"},
		{0.5, 0x80000000000000, "8"},
		{0.25, 0xc0000000000000, "c"},
		{0.125, 0xe0000000000000, "e"},
		{0.0625, 0xf0000000000000, "f"},
		{0.1, 0xe6666666666666, "e6666"},
		{0.01, 0xfd70a3d70a3d71, "fd70a"},
		{1.0 / 3, 0xaaaaaaaaaaaaab, "aaaaa"},
		{1.0 / (1 << 56), 0xffffffffffffff, "ffffffffffffff"},
		{1.0 / (1 << 57), 0xffffffffffffff, "ffffffffffffff"},
		{1.0 / (1 << 58), MaxThreshold, ""},
		{0, MaxThreshold, ""},
	}
	for _, test := range tests {
		got, err := ThresholdOf(test.ratio)
		if err != nil {
			t.Fatal(err)
		}
		// The last digits of a share that no float64 has exactly are its own.
		if diff := int64(got - test.want); diff < -1 || diff > 1 {
			t.Errorf("%g: %x, want %x", test.ratio, got, test.want)
		}
		if text := ThresholdText(got); got < MaxThreshold && !strings.HasPrefix(text, test.text) {
			t.Errorf("%g: text %q, want %q", test.ratio, text, test.text)
		}
	}
	for _, ratio := range []float64{-0.1, 1.1} {
		if _, err := ThresholdOf(ratio); err == nil || !strings.Contains(err.Error(), fmt.Sprint(ratio)) {
			t.Errorf("%g: error %v", ratio, err)
		}
	}
}

// TestThresholdSamples counts what passes: the share that was asked for.
func TestThresholdSamples(t *testing.T) {
	const traces = 100_000
	for _, ratio := range []float64{0, 0.01, 0.1, 0.5, 1} {
		threshold, err := ThresholdOf(ratio)
		if err != nil {
			t.Fatal(err)
		}
		sampled := 0
		for i := range traces {
			// The odd constant spreads i evenly over 2^64 (Weyl sequence).
			n := uint64(i) * 0x9e3779b97f4a7c15
			var id [16]byte
			for b := range 8 {
				id[15-b] = byte(n >> (8 * b))
			}
			if Randomness(id) >= threshold {
				sampled++
			}
		}
		if got := float64(sampled) / traces; got < ratio-0.002 || got > ratio+0.002 {
			t.Errorf("ratio %g: %g sampled", ratio, got)
		}
	}
}

func TestRandomness(t *testing.T) {
	id := [16]byte{1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15, 16}
	if got := Randomness(id); got != 0x0a0b0c0d0e0f10 {
		t.Errorf("%x", got)
	}
}
