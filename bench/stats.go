package main

import (
	"math"
	"slices"
)

// ratio is how one arm compares with another, round by round: the geometric
// mean and its 95 % confidence interval. Two loads of the same round ran within
// seconds of each other, so that a slow minute of the machine falls on both; that
// is why rounds are compared in pairs, and not one heap of figures with another as
// benchstat does it.
type ratio struct{ Mean, Low, High float64 }

// compare needs at least two rounds; values are positive.
func compare(with, without []float64) ratio {
	n := float64(len(with))
	logs := make([]float64, len(with))
	mean := 0.0
	for i := range with {
		logs[i] = math.Log(with[i] / without[i])
		mean += logs[i] / n
	}
	sum := 0.0
	for _, l := range logs {
		sum += (l - mean) * (l - mean)
	}
	half := student95(len(with)-1) * math.Sqrt(sum/(n-1)/n)
	return ratio{math.Exp(mean), math.Exp(mean - half), math.Exp(mean + half)}
}

// student95 is the two-sided 95 % quantile of Student's t distribution; beyond
// the table the next lower entry, which is the safe side.
func student95(freedom int) float64 {
	table := []float64{12.706, 4.303, 3.182, 2.776, 2.571, 2.447, 2.365, 2.306, 2.262, 2.228,
		2.201, 2.179, 2.160, 2.145, 2.131, 2.120, 2.110, 2.101, 2.093, 2.086}
	return table[min(max(freedom, 1), len(table))-1]
}

// median of some values; the mean of the middle two of an even number.
func median(values []float64) float64 {
	if len(values) == 0 {
		return math.NaN()
	}
	s := slices.Sorted(slices.Values(values))
	return (s[(len(s)-1)/2] + s[len(s)/2]) / 2
}
