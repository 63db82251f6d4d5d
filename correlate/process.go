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
	c.exited = append(c.exited, exit{key: key, at: at})
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

// insideProgram are exchanges that only the program itself makes: nothing in the kernel
// leads to a stream, or to what is inside TLS. A connection of plain HTTP/1 may outlive
// the process that opened it, and the kernel tells of its end.
const insideProgram = event.ProtocolHTTP2 | event.ProtocolTLS | event.ProtocolGRPC

// endExited ends the exchanges inside programs that were killed: nobody else tells of
// their end. What the ring still holds of them comes within MaxEarlyAge. Their end is
// that of the process, exact to the interval between Ticks.
func (c *Correlator) endExited(now time.Time) {
	var gone map[processKey]time.Time
	for i := range c.exited {
		if e := &c.exited[i]; !e.ended && now.Sub(e.at) > c.opts.MaxEarlyAge {
			e.ended = true
			if gone == nil {
				gone = map[processKey]time.Time{}
			}
			gone[e.key] = e.at
		}
	}
	if gone == nil {
		return
	}
	for x := c.queue.Oldest(); x != nil; {
		ended, span := x, &x.span
		x = c.queue.Newer(x)
		if at, ok := gone[processKey{span.PID, span.PIDStart}]; ok && span.Protocol&insideProgram != 0 {
			c.end(exchangeKey{span.SpanID, span.Role}, ended, event.Response{SpanID: span.SpanID, Role: span.Role,
				End: at, Clock: span.Clock, Reason: event.EndClosed})
		}
	}
}
