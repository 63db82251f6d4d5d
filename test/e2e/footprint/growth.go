package footprint

import (
	"fmt"
	"io"
	"math"
	"slices"
	"strings"
	"text/tabwriter"
	"time"
)

// Quantity is one column of a soak: what it is, and how much it may grow.
type Quantity struct {
	Name  string
	Of    func(Sample) float64
	Bound float64 // growth allowed over the whole of the samples, in its unit
}

// Growth is how much a quantity rose from the first sample to the last: the
// median of the slopes between all pairs (Theil–Sen), times the time between
// them. A single peak, or the saw of a garbage collector, does not tilt it.
func Growth(samples []Sample, of func(Sample) float64) float64 {
	const most = 300 // pairs grow by the square
	if step := (len(samples) + most - 1) / most; step > 1 {
		var thinned []Sample
		for i := 0; i < len(samples); i += step {
			thinned = append(thinned, samples[i])
		}
		samples = thinned
	}
	var slopes []float64
	for i, a := range samples {
		for _, b := range samples[i+1:] {
			if d := b.At.Sub(a.At).Seconds(); d > 0 {
				slopes = append(slopes, (of(b)-of(a))/d)
			}
		}
	}
	if len(slopes) == 0 {
		return 0
	}
	slices.Sort(slopes)
	middle := (slopes[(len(slopes)-1)/2] + slopes[len(slopes)/2]) / 2
	return middle * samples[len(samples)-1].At.Sub(samples[0].At).Seconds()
}

// Grew names the quantities that grew by more than their bound.
func Grew(samples []Sample, quantities []Quantity) []string {
	var out []string
	for _, q := range quantities {
		if g := Growth(samples, q.Of); g > q.Bound {
			out = append(out, fmt.Sprintf("%s grew by %.1f in %v, at most %.1f wanted", q.Name, g,
				samples[len(samples)-1].At.Sub(samples[0].At).Round(time.Second), q.Bound))
		}
	}
	return out
}

// Table prints about rows samples, evenly spread, the last among them.
func Table(w io.Writer, samples []Sample, quantities []Quantity, rows int) error {
	if len(samples) == 0 {
		return nil
	}
	t := tabwriter.NewWriter(w, 0, 0, 2, ' ', tabwriter.AlignRight)
	fmt.Fprint(t, "after\t") // the writer keeps the first error for Flush
	for _, q := range quantities {
		fmt.Fprintf(t, "%s\t", q.Name)
	}
	fmt.Fprintln(t)
	step := max(1, (len(samples)+rows-1)/max(rows, 1))
	for i, s := range samples {
		if i%step != 0 && i != len(samples)-1 {
			continue
		}
		fmt.Fprintf(t, "%v\t", s.At.Sub(samples[0].At).Round(time.Second))
		for _, q := range quantities {
			fmt.Fprintf(t, "%.4g\t", q.Of(s))
		}
		fmt.Fprintln(t)
	}
	if err := t.Flush(); err != nil {
		return fmt.Errorf("print table: %w", err)
	}
	return nil
}

// plotWidth and plotHeight are the size of a plot in characters.
const (
	plotWidth  = 60
	plotHeight = 8
)

// Plot draws a quantity over time, from zero, in characters.
func Plot(samples []Sample, q Quantity) string {
	if len(samples) == 0 {
		return ""
	}
	columns := make([]float64, plotWidth)
	first, span := samples[0].At, samples[len(samples)-1].At.Sub(samples[0].At)
	highest := 0.0
	for _, s := range samples {
		at := 0
		if span > 0 {
			at = int(float64(s.At.Sub(first)) / float64(span) * (plotWidth - 1))
		}
		columns[at] = max(columns[at], q.Of(s))
		highest = max(highest, q.Of(s))
	}
	for i := 1; i < plotWidth; i++ { // between two samples the earlier one holds
		if columns[i] == 0 {
			columns[i] = columns[i-1]
		}
	}
	var out strings.Builder
	fmt.Fprintf(&out, "%s, 0 to %.4g, over %v\n", q.Name, highest, span.Round(time.Second))
	for row := plotHeight; row >= 1; row-- {
		out.WriteString("  |")
		for _, v := range columns {
			if highest > 0 && math.Round(v/highest*plotHeight) >= float64(row) {
				out.WriteByte('#')
			} else {
				out.WriteByte(' ')
			}
		}
		out.WriteByte('\n')
	}
	out.WriteString("  +" + strings.Repeat("-", plotWidth) + "\n")
	return out.String()
}
