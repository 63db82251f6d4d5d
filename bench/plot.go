package main

import (
	"fmt"
	"math"
	"os"
	"path/filepath"
	"strings"
	"text/template"
)

// plotted is a bar with its interval, in the coordinates of the picture.
type plotted struct {
	X, Y, Width, Height float64
	Low, High           float64 // of the interval's line
	Fill, Label, Title  string
}

// panel is one of the two diagrams.
type panel struct {
	Title        string
	Left, Right  float64
	Bars         []plotted
	Hops, Ticks  []tick
	Bound        float64 // y of the dashed line
	Base, Bottom float64 // y of 1.0 and of 0
}

type tick struct {
	At   float64
	Text string
}

// The picture's measures, px.
const (
	plotWidth, plotHeight = 960.0, 380.0
	plotTop, plotBottom   = 60.0, 290.0
)

var fills = []string{"#2f6f8f", "#c8803a", "#7a5c99", "#5b8c5a", "#a14a52"}

// writePlot draws the throughput and the CPU per request of the hops as ratios to
// those without an agent.
func writePlot(file string, measured []*results) error {
	text, err := drawPlot(measured)
	if err != nil {
		return err
	}
	if err := os.WriteFile(file, []byte(text), 0o644); err != nil {
		return fmt.Errorf("write the plot: %w", err)
	}
	return nil
}

func drawPlot(measured []*results) (string, error) {
	type key struct{ X, Text, Fill any }
	var legend []key
	for i, at := range measured[0].compared() {
		legend = append(legend, key{50 + 150*i, measured[0].arms[at].name, fills[i%len(fills)]})
	}
	rate := drawPanel("Requests/s, × those without an agent: more is better", 50, measured,
		func(x round) float64 { return x.closed.rate() }, wantedThroughput)
	cpu := drawPanel("CPU per request, × that without an agent: less is better", 530, measured, hopCPU, 0)
	var b strings.Builder
	err := plotTemplate().Execute(&b, map[string]any{"Width": plotWidth, "Height": plotHeight, "Top": plotTop, "Panels": []panel{rate, cpu}, "Legend": legend,
		"Machine": fmt.Sprintf("%s, %d cores, Linux %s, %s", measured[0].machine.cpu, measured[0].machine.cores, measured[0].machine.kernel, measured[0].machine.date)})
	if err != nil {
		return "", fmt.Errorf("draw the plot: %w", err)
	}
	return b.String(), nil
}

func drawPanel(title string, left float64, measured []*results, figure func(round) float64, bound float64) panel {
	p := panel{Title: title, Left: left, Right: left + 400, Bottom: plotBottom}
	var ratios [][]ratio
	top := 1.1
	for _, r := range measured {
		var row []ratio
		for _, at := range r.compared() {
			c := compare(r.each(at, figure), r.each(armWithout, figure))
			row = append(row, c)
			top = max(top, min(c.High, 1.5*c.Mean))
		}
		ratios = append(ratios, row)
	}
	top = math.Ceil(top*5+0.2) / 5
	y := func(v float64) float64 { return plotBottom - (plotBottom-plotTop)*min(v, top)/top }
	p.Base = y(1)
	if bound > 0 {
		p.Bound = y(bound)
	}
	for v := 0.0; v <= top+1e-9; v += stepOf(top) {
		p.Ticks = append(p.Ticks, tick{y(v), fmt.Sprintf("%.1f×", v)})
	}
	slot := 400 / float64(len(measured))
	for i, row := range ratios {
		width := min(60, 0.7*slot/float64(len(row)))
		from := left + slot*float64(i) + (slot-width*float64(len(row)))/2
		p.Hops = append(p.Hops, tick{left + slot*(float64(i)+0.5), measured[i].hop.title})
		for j, c := range row {
			p.Bars = append(p.Bars, plotted{X: from + width*float64(j), Y: y(c.Mean), Width: width - 4, Height: plotBottom - y(c.Mean),
				Low: y(c.Low), High: y(c.High), Fill: fills[j%len(fills)], Label: fmt.Sprintf("%.2f", c.Mean),
				Title: fmt.Sprintf("%s: %s", measured[i].hop.title, c)})
		}
	}
	return p
}

// stepOf is the distance of the lines behind the bars.
func stepOf(top float64) float64 {
	for _, step := range []float64{0.2, 0.5, 1, 2, 5} {
		if top/step <= 8 {
			return step
		}
	}
	return top / 5
}

func relativeTo(doc, file string) string {
	rel, err := filepath.Rel(filepath.Dir(doc), file)
	if err != nil {
		return file
	}
	return rel
}

func plotTemplate() *template.Template {
	return template.Must(template.New("plot").Funcs(template.FuncMap{
		"px":   func(v float64) string { return fmt.Sprintf("%.1f", v) },
		"mid":  func(b plotted) float64 { return b.X + b.Width/2 },
		"up":   func(v float64) float64 { return v - 6 },
		"down": func(v float64) float64 { return v + 18 },
	}).Parse(`<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {{.Width}} {{.Height}}" font-family="sans-serif" font-size="12">
<rect width="100%" height="100%" fill="#ffffff"/>
{{range .Panels}}{{$p := .}}<text x="{{px .Left}}" y="34" font-size="13" font-weight="bold">{{html .Title}}</text>
{{range .Ticks}}<line x1="{{px $p.Left}}" x2="{{px $p.Right}}" y1="{{px .At}}" y2="{{px .At}}" stroke="#e3e3e3"/><text x="{{px (up $p.Left)}}" y="{{px .At}}" text-anchor="end" dominant-baseline="middle" fill="#555">{{.Text}}</text>
{{end}}{{range .Bars}}<g><title>{{html .Title}}</title><rect x="{{px .X}}" y="{{px .Y}}" width="{{px .Width}}" height="{{px .Height}}" fill="{{.Fill}}"/><line x1="{{px (mid .)}}" x2="{{px (mid .)}}" y1="{{px .Low}}" y2="{{px .High}}" stroke="#111" stroke-width="1.5"/><text x="{{px (mid .)}}" y="{{px $p.Bottom}}" dy="-6" text-anchor="middle" fill="#fff">{{.Label}}</text></g>
{{end}}<line x1="{{px .Left}}" x2="{{px .Right}}" y1="{{px .Base}}" y2="{{px .Base}}" stroke="#111"/>
{{if .Bound}}<line x1="{{px .Left}}" x2="{{px .Right}}" y1="{{px .Bound}}" y2="{{px .Bound}}" stroke="#b00020" stroke-dasharray="5 4"/><text x="{{px .Right}}" y="{{px .Bound}}" dx="4" dominant-baseline="middle" fill="#b00020">target</text>
{{end}}{{range .Hops}}<text x="{{px .At}}" y="{{px (down $p.Bottom)}}" text-anchor="middle">{{html .Text}}</text>
{{end}}{{end}}{{range .Legend}}<rect x="{{.X}}" y="330" width="12" height="12" fill="{{.Fill}}"/><text x="{{.X}}" dx="18" y="340">{{html .Text}}</text>
{{end}}<text x="50" y="366" fill="#555">{{html .Machine}}. Lines: 95 % confidence intervals; target: of the Go HTTP/1 hop</text>
</svg>
`))
}
