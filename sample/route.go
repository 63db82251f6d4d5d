package sample

import (
	"hash/maphash"
	"net/http"
	"strings"
	"time"

	"weft/internal/event"
	"weft/internal/queue"
	"weft/internal/selfstats"
)

const (
	// maxRoutes bounds what is known of routes: about 1 KiB for each.
	maxRoutes = 2048
	// maxSegments of a path tell one route from another.
	maxSegments = 6
	// A segment longer than maxWord is no word of a route.
	maxWord = 40
)

// The last minute is counted in slots, so it is 50 to 60 s.
const (
	window = time.Minute
	slots  = 6
)

// routes holds what was seen of each route: how often lately, and how long it
// takes. When there are too many, the one unused the longest is forgotten.
type routes struct {
	most      int
	quantile  float64 // 0: durations are not kept
	perMinute int     // 0: nothing is rare
	seed      maphash.Seed
	displaced selfstats.Counter

	known map[uint64]*route
	queue queue.Queue[route, *route] // the same, by use
	// crowded is until when a route that looks new may be one that had to be
	// forgotten.
	crowded time.Duration
}

type route struct {
	key       uint64
	used      time.Duration
	certain   time.Duration // from when on the counts below cover a minute
	slot      int64         // number of the current slot
	seen      [slots]uint32
	durations *histogram

	queue.Links[route]
}

func newRoutes(most int, quantile float64, perMinute int, displaced selfstats.Counter) *routes {
	return &routes{
		most:      most,
		quantile:  quantile,
		perMinute: perMinute,
		seed:      maphash.MakeSeed(),
		displaced: displaced,
		known:     make(map[uint64]*route),
	}
}

// key names the route of a span. No program tells weft its routes, so they are
// guessed: service, role, method, for clients the host, and the path without
// what looks like an id. A path that the server did not know is its caller's
// invention and left out. Names are hashed: they are compared, never shown.
func (r *routes) key(s *event.Span) uint64 {
	var h maphash.Hash
	h.SetSeed(r.seed)
	text := func(v string) {
		h.WriteString(v)
		h.WriteByte(0)
	}
	if s.Process != nil {
		text(s.Process.Service)
	}
	h.WriteByte(byte(s.Role))
	text(s.Method)
	if s.Role == event.RoleClient {
		if s.Host != "" {
			text(s.Host)
		} else {
			text(s.Remote.String())
		}
	}
	if s.Response.Status == http.StatusNotFound || s.Response.Status == http.StatusMethodNotAllowed {
		return h.Sum64()
	}
	path := pathOf(s.Target)
	for range maxSegments {
		var segment string
		segment, path, _ = strings.Cut(path, "/")
		if isID(segment) {
			segment = "*"
		}
		text(segment)
		if path == "" {
			break
		}
	}
	return h.Sum64()
}

// pathOf returns the path of a request target without its first slash, "" for
// the authority form.
func pathOf(target string) string {
	if i := strings.IndexAny(target, "?#"); i >= 0 {
		target = target[:i]
	}
	if !strings.HasPrefix(target, "/") {
		_, target, _ = strings.Cut(target, "://")
	}
	_, path, _ := strings.Cut(target, "/")
	return path
}

// isID says that a path segment does not look like a word of the route: it has
// a digit (versions as in /v1 aside), or escapes, or is very long.
func isID(segment string) bool {
	if len(segment) > maxWord {
		return true
	}
	if len(segment) <= 3 && strings.HasPrefix(segment, "v") {
		return false
	}
	for i := range len(segment) {
		if c := segment[i]; c >= '0' && c <= '9' || c == '%' {
			return true
		}
	}
	return false
}

// see counts one span of a route and says whether it was slow for it, and
// whether it is rare.
func (r *routes) see(key uint64, took, now time.Duration) (slow, rare bool) {
	rt := r.use(key, now)
	if rt.durations != nil {
		slow = rt.durations.add(took, now)
	}
	if r.perMinute > 0 {
		rare = rt.count(now) <= r.perMinute && now >= rt.certain
	}
	return slow, rare
}

// use returns the route of a key as the newest, a fresh one if it is not known.
func (r *routes) use(key uint64, now time.Duration) *route {
	rt, ok := r.known[key]
	switch {
	case ok:
		r.queue.Remove(rt)
	case len(r.known) < r.most:
		rt = &route{}
		if r.quantile > 0 {
			rt.durations = newHistogram(r.quantile)
		}
		r.reset(rt, key, now)
	default:
		rt = r.queue.Oldest()
		if now-rt.used < window {
			r.crowded = now + window
			r.displaced.Inc()
		}
		r.queue.Remove(rt)
		delete(r.known, rt.key)
		r.reset(rt, key, now)
	}
	rt.used = now
	r.queue.Push(rt)
	return rt
}

// reset makes rt the record of a key seen for the first time.
func (r *routes) reset(rt *route, key uint64, now time.Duration) {
	*rt = route{key: key, durations: rt.durations, certain: now}
	if now < r.crowded {
		rt.certain = now + window
	}
	if rt.durations != nil {
		rt.durations.reset(now)
	}
	r.known[key] = rt
}

// count notes one sighting and returns how many the last minute had.
func (rt *route) count(now time.Duration) int {
	current := int64(now / (window / slots))
	for rt.slot = max(rt.slot, current-slots); rt.slot < current; {
		rt.slot++
		rt.seen[rt.slot%slots] = 0
	}
	rt.seen[current%slots]++
	sum := 0
	for _, n := range rt.seen {
		sum += int(n)
	}
	return sum
}
