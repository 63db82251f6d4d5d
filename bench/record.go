package main

import (
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"time"
)

// record is a file of JSON lines: the machine and the settings first, then every
// load as it ends. A nil record keeps nothing.
type record struct {
	file  *os.File
	lines *json.Encoder
}

// header is the first line.
type header struct {
	Type     string    `json:"type"` // "run"
	At       time.Time `json:"at"`
	CPU      string    `json:"cpu"`
	Cores    int       `json:"cores"`
	Virtual  bool      `json:"virtual"`
	Memory   uint64    `json:"memory_bytes"`
	Kernel   string    `json:"kernel"`
	Lockdown string    `json:"lockdown"`
	LoadAvg  string    `json:"load_average"`
	Rounds   int       `json:"rounds"`
	Conns    int       `json:"connections"`
	Peers    []string  `json:"peers,omitempty"` // their command lines
}

// entry is one load.
type entry struct {
	Type        string             `json:"type"` // "load", "hooks" or "soak"
	Section     string             `json:"section"`
	Arm         string             `json:"arm"`
	Round       int                `json:"round"`
	Load        string             `json:"load"`             // "saturated" or "fixed"
	Wanted      float64            `json:"wanted,omitempty"` // requests/s of a fixed load
	Rate        float64            `json:"rate"`             // requests/s answered
	Seconds     float64            `json:"seconds"`
	Sent        uint64             `json:"sent"` // warm-up included
	Measured    uint64             `json:"measured"`
	Late        uint64             `json:"late"`
	LatencyUs   map[string]float64 `json:"latency_us"`
	CPUUs       map[string]float64 `json:"cpu_us"` // per request sent
	AgentRSS    uint64             `json:"agent_rss_bytes,omitempty"`
	Traceparent float64            `json:"traceparent_per_request"`
	Spans       float64            `json:"spans_per_request"`
	Lost        float64            `json:"lost"`
	Carried     int                `json:"carried_bytes,omitempty"`
	Programs    []programEntry     `json:"programs,omitempty"`
}

type programEntry struct {
	Name    string  `json:"name"`
	Kind    string  `json:"kind"`
	Runs    float64 `json:"runs_per_request"`
	NsRun   float64 `json:"ns_per_run"`
	Skipped uint64  `json:"skipped,omitempty"`
}

func newRecord(s settings, m machine) (*record, error) {
	if s.json == "" {
		return nil, nil
	}
	f, err := os.Create(s.json)
	if err != nil {
		return nil, fmt.Errorf("open the record of raw results: %w", err)
	}
	r := &record{file: f, lines: json.NewEncoder(f)}
	h := header{Type: "run", At: time.Now().UTC().Truncate(time.Second), CPU: m.cpu, Cores: m.cores, Virtual: m.virtual, Memory: m.memory,
		Kernel: m.kernel, Lockdown: m.lockdown, LoadAvg: m.load, Rounds: s.rounds, Conns: s.conns}
	for _, p := range s.peers {
		h.Peers = append(h.Peers, p.name+": "+p.command)
	}
	return r, r.write(h)
}

func (r *record) write(line any) error {
	if r == nil {
		return nil
	}
	if err := r.lines.Encode(line); err != nil {
		return fmt.Errorf("write raw results: %w", err)
	}
	return nil
}

func (r *record) close() error {
	if r == nil {
		return nil
	}
	return r.file.Close()
}

// entryOf is what one load says; wanted 0 is as fast as it goes.
func entryOf(section, arm string, n int, x reading, wanted float64) entry {
	us := func(d time.Duration) float64 { return float64(d) / float64(time.Microsecond) }
	e := entry{Type: "load", Section: section, Arm: arm, Round: n, Load: "saturated", Wanted: wanted, Rate: x.rate(), Seconds: x.Elapsed.Seconds(),
		Sent: x.Sent, Measured: x.Measured, Late: x.Late,
		LatencyUs: map[string]float64{"p50": us(x.P50), "p99": us(x.P99), "p999": us(x.P999), "max": us(x.Most)},
		CPUUs: map[string]float64{"traced": x.perRequest(x.traced), "untraced": x.perRequest(x.plain), "agent": x.perRequest(x.agent),
			"sink": x.perRequest(x.sink), "others": x.perRequest(x.others()), "interrupts": x.perRequest(x.interrupts), "steal": x.perRequest(x.steal)}}
	if wanted > 0 {
		e.Load = "fixed"
	}
	return e
}

func (r *record) round(section string, n int, a arm, x round, rate float64) error {
	var errs []error
	for _, e := range []entry{entryOf(section, a.name, n, x.closed, 0), entryOf(section, a.name, n, x.open, rate)} {
		e.AgentRSS = x.memory
		e.Traceparent, e.Spans, e.Lost = x.seen.perRequest(x.seen.traceparent), x.seen.perRequest(x.seen.spans), x.seen.losses()
		errs = append(errs, r.write(e))
	}
	return errors.Join(errs...)
}

func (r *record) carried(section string, n, bytes int, without, with reading) error {
	a, b := entryOf(section, "without weft", n, without, 0), entryOf(section, "weft traces", n, with, 0)
	a.Carried, b.Carried = bytes, bytes
	return errors.Join(r.write(a), r.write(b))
}

func (r *record) hooks(section string, a arm, h hookReading) error {
	e := entryOf(section, a.name, 0, h.reading, h.rate)
	e.Type, e.Carried = "hooks", a.bytes
	for _, k := range h.hooks {
		e.Programs = append(e.Programs, programEntry{k.Name, k.Kind, h.runs(k), k.perRun(), k.Skipped})
	}
	return r.write(e)
}

// trapLine is one kind of probe.
type trapLine struct {
	Type    string    `json:"type"` // "trap"
	Kind    string    `json:"kind"`
	Multi   []float64 `json:"uprobe_multi_ns,omitempty"` // by round
	Perf    []float64 `json:"perf_event_ns"`
	Outside []float64 `json:"other_process_ns,omitempty"`
}

func (r *record) traps(all []trapReading) error {
	var errs []error
	for _, t := range all {
		errs = append(errs, r.write(trapLine{"trap", t.kind.name, t.multi, t.perf, t.outside}))
	}
	return errors.Join(errs...)
}

func (r *record) soak(section string, s *soakReading) error {
	e := entryOf(section, "weft traces", 0, s.reading, s.wanted)
	e.Type, e.AgentRSS = "soak", s.memory
	e.Lost = s.losses()
	return r.write(e)
}
