package correlate

import (
	"time"

	"weft/internal/event"
	"weft/internal/queue"
)

// early is a response that came before its request. Where weft only observes, a
// request is seen when its send has returned, and on another CPU the response may
// have been received by then. It is held for a moment; its request takes it along.
type early struct {
	queue.Links[early]
	response event.Response
	at       time.Time // of the last Tick when it came; zero: there was none
}

// hold keeps a response whose request has not come. When too many are held the
// oldest goes: its request was lost, most likely.
func (c *Correlator) hold(key exchangeKey, r event.Response) {
	if old := c.early[key]; old != nil {
		c.dropEarly(old)
	} else if len(c.early) >= c.opts.MaxEarly {
		c.dropEarly(c.earlyQueue.Oldest())
	}
	e := &early{response: r, at: c.now}
	c.early[key] = e
	c.earlyQueue.Push(e)
}

// takeEarly returns the response that came before this request, nil if none did.
func (c *Correlator) takeEarly(key exchangeKey) *event.Response {
	if len(c.early) == 0 {
		return nil
	}
	e := c.early[key]
	if e == nil {
		return nil
	}
	delete(c.early, key)
	c.earlyQueue.Remove(e)
	return &e.response
}

// dropEarly gives up a response: its request was lost, aged out or never sampled.
func (c *Correlator) dropEarly(e *early) {
	delete(c.early, exchangeKey{e.response.SpanID, e.response.Role})
	c.earlyQueue.Remove(e)
	c.count.noRequest.Inc()
}

// settle ends the exchanges whose response was there before them, now that what
// follows a request has come, and gives up responses that waited too long.
func (c *Correlator) settle() {
	for _, key := range c.answered {
		if x := c.open[key]; x != nil && x.early != nil {
			response := *x.early
			x.early = nil // the span keeps x alive
			c.end(key, x, response)
		}
	}
	c.answered = c.answered[:0]
	for e := c.earlyQueue.Oldest(); e != nil && c.now.Sub(e.at) > c.opts.MaxEarlyAge; e = c.earlyQueue.Oldest() {
		c.dropEarly(e)
	}
}
