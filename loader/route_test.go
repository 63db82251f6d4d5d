package loader

import "testing"

func TestRouted(t *testing.T) {
	chi, gin := uint8(WeftWeftRouterWEFT_ROUTER_CHI), uint8(WeftWeftRouterWEFT_ROUTER_GIN)
	for _, c := range []struct {
		text   string
		router uint8
		want   string
	}{
		{"/", chi, "/"},
		{"/users/*/", chi, "/users"},
		{"/users/*/{id}", chi, "/users/{id}"},
		{"/v1/*/shops/{shop}/*/items/*/{item}", chi, "/v1/shops/{shop}/items/{item}"},
		{"/a/*/*/*/b", chi, "/a/b"},
		{"/a/*//", chi, "/a"},
		{"/files/*", chi, "/files/*"},
		{"/v1/*", chi, "/v1/*"},
		{"", chi, ""},
		{"/files/*/", gin, "/files/*/"},
		{"GET /users/*/{id}", 0, "GET /users/*/{id}"},
	} {
		if got := routed(c.text, c.router); got != c.want {
			t.Errorf("%q of router %d: %q, want %q", c.text, c.router, got, c.want)
		}
	}
}
