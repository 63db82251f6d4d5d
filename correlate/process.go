package correlate

import (
	"time"

	"weft/internal/event"
)

// Process makes a process known, or replaces what is known of it: exec keeps
// pid and start time but changes executable and service. Requests already open
// keep the process as it was when they began. p must not be changed afterwards.
func (c *Correlator) Process(p *event.Process) {
	key := processKey{p.PID, p.PIDStart}
	if known, ok := c.processes[key]; ok {
		// An exec seen after the exit of the same process is only late; its
		// grace period goes on.
		known.info = p
		return
	}
	if len(c.processes) >= c.opts.MaxProcesses && !c.forgetOldestExit() {
		c.count.processesFull.Inc()
		return
	}
	c.processes[key] = &process{info: p}
}

// ProcessExit notes that a process ended. It is remembered for the grace
// period, because its last events may still be in the ring.
func (c *Correlator) ProcessExit(pid uint32, start uint64) {
	key := processKey{pid, start}
	p, ok := c.processes[key]
	if !ok || p.exited {
		return
	}
	p.exited = true
	at := c.now
	if at.IsZero() {
		// No Tick yet, so no clock to read but the real one.
		at = time.Now()
	}
	c.exited = append(c.exited, exit{key, at})
}

// forgetOldestExit makes room in the table; false when nothing has exited.
func (c *Correlator) forgetOldestExit() bool {
	if len(c.exited) == 0 {
		return false
	}
	c.forget(c.exited[0].key)
	c.exited = c.exited[1:]
	return true
}

func (c *Correlator) forget(key processKey) { delete(c.processes, key) }
