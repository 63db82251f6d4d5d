package main

import (
	"fmt"
	"time"
)

// progress tells how long a run will still take: what is planned, corrected by how
// long the part that is done really took.
type progress struct {
	planned, done time.Duration
	begun         time.Time
}

func (p *progress) add(d time.Duration) {
	if p != nil {
		p.done += d
	}
}

// String is the beginning of every line about a run; a nil progress has none.
func (p *progress) String() string {
	if p == nil || p.planned == 0 {
		return "[—]"
	}
	share := min(1, float64(p.done)/float64(p.planned))
	return fmt.Sprintf("[%3.0f %%, %s left]", 100*share, minutes(p.left(time.Since(p.begun))))
}

// left is for an elapsed time. The plan counts as much as what was seen so far, the
// less the further the run is.
func (p *progress) left(elapsed time.Duration) time.Duration {
	open := float64(max(0, p.planned-p.done))
	if p.done <= 0 {
		return time.Duration(open)
	}
	share := min(1, float64(p.done)/float64(p.planned))
	pace := float64(elapsed) / float64(p.done)
	return time.Duration(open * (share*pace + (1-share)*(1+pace)/2))
}

func minutes(d time.Duration) string {
	if d < 90*time.Second {
		return fmt.Sprintf("%.0f s", d.Seconds())
	}
	return fmt.Sprintf("%.0f min", d.Minutes())
}

// What each step takes, as planned. Starting an agent is mostly the verifier's work.
const (
	agentStarts = 4 * time.Second
	rigStarts   = 3 * time.Second
)

func (s settings) oneLoad(a arm) time.Duration {
	switch {
	case a.peer != nil:
		return s.warm + s.phase + peerWait + 3*time.Second
	case a.agent():
		return s.warm + s.phase + agentStarts
	}
	return s.warm + s.phase + 500*time.Millisecond
}

func (s settings) roundOf(a arm) time.Duration { return s.oneLoad(a) + s.warm + s.phase }
func (s settings) calibration() time.Duration  { return 2 * (s.warm + s.phase) }
func (s settings) watching() time.Duration     { return s.warm + s.phase + agentStarts }
func (s settings) soaking() time.Duration {
	return s.warm + s.soak + 2*(s.warm+s.phase) + 2*agentStarts
}
func (s settings) rounding(arms []arm) (d time.Duration) {
	for _, a := range arms {
		d += time.Duration(s.rounds) * s.roundOf(a)
	}
	return d + s.calibration() + time.Duration(len(watched(arms)))*s.watching()
}
