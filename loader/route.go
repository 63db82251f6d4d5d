package loader

import "strings"

// routed is a route as its router tells it. chi keeps one pattern for each router
// that is mounted in another, "/users/*" and "/{id}", and joins them when it is asked:
// without the wildcards in between, and without the slash of a subrouter's root. That
// slash is there before chi 5.0.8; the route of a program is not to change with it.
func routed(text string, router uint8) string {
	if router != uint8(WeftWeftRouterWEFT_ROUTER_CHI) {
		return text
	}
	for strings.Contains(text, "/*/") {
		text = strings.ReplaceAll(text, "/*/", "/")
	}
	if text == "/" {
		return text
	}
	return strings.TrimSuffix(strings.TrimSuffix(text, "//"), "/")
}
