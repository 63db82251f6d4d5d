package main

import (
	"crypto/sha256"
	"encoding/hex"
	"slices"
	"strings"

	"weft/loader/gobin/field"
	"weft/loader/gobin/offsets"
)

// A module is one whose structs are in the table.
type module struct {
	path string
	// program uses the module so that the linker keeps what weft reads.
	program string
	// Versions from first on are measured, and before the version before, if any.
	first, before string
	// more are versions that the module proxy does not list.
	more []string
	// required: the versions are those that the versions of grpc require, and the
	// latest. For a module without tags.
	required bool
	// has tells the packages of the list of fields that it has.
	has func(pkg string) bool
}

const (
	xnet     = "golang.org/x/net"
	grpc     = "google.golang.org/grpc"
	genproto = "google.golang.org/genproto"
	rpc      = "google.golang.org/genproto/googleapis/rpc"
	chi      = "github.com/go-chi/chi/v5"
	oldChi   = "github.com/go-chi/chi"
	gin      = "github.com/gin-gonic/gin"
	mux      = "github.com/gorilla/mux"
)

// The newest minor version of Go that is measured, and the oldest. What is newer
// is unknown to weft, and so only observed, until its sites have been tested.
const (
	oldestMinor = 19
	newestMinor = 26
)

func modules() []module {
	return []module{
		{
			path:    offsets.Std,
			program: stdProgram,
			// HPACK: its own copy of golang.org/x/net's.
			has: func(pkg string) bool { return !strings.Contains(pkg, ".") || pkg == xnet+"/http2/hpack" },
		},
		{path: xnet, program: xnetProgram, first: "v0.0.0-20200822000000-000000000000", more: untagged, has: under(xnet)},
		{path: grpc, program: grpcProgram, first: "v1.40.0", has: under(grpc)},
		// The package moved to a module of its own.
		{path: genproto, program: statusProgram, before: "v0.0.0-20230525000000-000000000000", required: true, has: under(rpc)},
		{path: rpc, program: statusProgram, required: true, has: under(rpc)},
		{path: chi, program: chiProgram, first: "v5.0.0", has: only(chi)},
		{path: oldChi, program: oldChiProgram, first: "v1.5.1", before: "v2.0.0", has: only(oldChi)},
		{path: gin, program: ginProgram, first: "v1.7.0", has: only(gin)},
		{path: mux, program: muxProgram, first: "v1.7.0", has: only(mux)},
	}
}

func under(path string) func(pkg string) bool {
	return func(pkg string) bool { return pkg == path || strings.HasPrefix(pkg, path+"/") }
}

func only(path string) func(pkg string) bool {
	return func(pkg string) bool { return pkg == path }
}

// locations are those of the module in the list of fields, each once.
func (m module) locations() []field.Location {
	var all []field.Location
	for _, f := range field.All() {
		for _, at := range f.Locations() {
			if !m.has(at.Package) {
				continue
			}
			if m.path == offsets.Std && strings.Contains(at.Package, ".") {
				at.Package = "vendor/" + at.Package
			}
			if !slices.Contains(all, at) {
				all = append(all, at)
			}
		}
	}
	return all
}

// packages are those whose structs are read.
func (m module) packages() []string {
	var all []string
	for _, at := range m.locations() {
		all = append(all, at.Package)
	}
	slices.Sort(all)
	return slices.Compact(all)
}

// digest tells one program from another.
func (m module) digest() string {
	sum := sha256.Sum256([]byte(m.program))
	return hex.EncodeToString(sum[:8])
}

const stdProgram = `package main

import (
	"crypto/tls"
	"net/http"
	"os"
)

func main() {
	s := &http.Server{Addr: os.Args[1], TLSConfig: &tls.Config{}}
	go s.ListenAndServeTLS("", "")
	if r, err := new(http.Client).Get(os.Args[2]); err == nil {
		r.Body.Close()
	}
}
`

const xnetProgram = `package main

import (
	"net/http"
	"os"

	"golang.org/x/net/http2"
)

func main() {
	s := &http.Server{Addr: os.Args[1]}
	if err := http2.ConfigureServer(s, &http2.Server{}); err != nil {
		panic(err)
	}
	go s.ListenAndServeTLS("", "")
	c := http.Client{Transport: &http2.Transport{}}
	if r, err := c.Get(os.Args[2]); err == nil {
		r.Body.Close()
	}
}
`

const grpcProgram = `package main

import (
	"context"
	"net"
	"os"

	"google.golang.org/grpc"
	"google.golang.org/grpc/status"
)

func main() {
	l, err := net.Listen("tcp", os.Args[1])
	if err != nil {
		panic(err)
	}
	go grpc.NewServer().Serve(l)
	c, err := grpc.Dial(os.Args[2], grpc.WithInsecure())
	if err != nil {
		panic(err)
	}
	err = c.Invoke(context.Background(), os.Args[3], nil, nil)
	println(status.Convert(err).Proto().GetCode())
}
`

const statusProgram = `package main

import (
	"os"

	"google.golang.org/genproto/googleapis/rpc/status"
)

func main() {
	s := &status.Status{Message: os.Args[1]}
	println(s.String(), s.GetCode())
}
`

const chiProgram = `package main

import (
	"net/http"
	"os"

	"github.com/go-chi/chi/v5"
)

func main() {
	r := chi.NewRouter()
	r.Get(os.Args[1], func(w http.ResponseWriter, r *http.Request) { println(chi.RouteContext(r.Context()).RoutePattern()) })
	http.ListenAndServe(os.Args[2], r)
}
`

var oldChiProgram = strings.ReplaceAll(chiProgram, "chi/v5", "chi")

const ginProgram = `package main

import (
	"os"

	"github.com/gin-gonic/gin"
)

func main() {
	e := gin.New()
	e.GET(os.Args[1], func(c *gin.Context) { println(c.FullPath()) })
	e.Run(os.Args[2])
}
`

const muxProgram = `package main

import (
	"net/http"
	"os"

	"github.com/gorilla/mux"
)

func main() {
	r := mux.NewRouter()
	r.HandleFunc(os.Args[1], func(w http.ResponseWriter, r *http.Request) { println(mux.CurrentRoute(r).GetPathTemplate()) })
	http.ListenAndServe(os.Args[2], r)
}
`

// untagged are versions of golang.org/x/net from before its first tag, v0.1.0:
// one of each month in which it changed, as they were required by others.
var untagged = strings.Fields(`
v0.0.0-20200822124328-c89045814202
v0.0.0-20200904194848-62affa334b73
v0.0.0-20201006153459-a7d1128ccaa0
v0.0.0-20201010224723-4f7140c49acb
v0.0.0-20201016165138-7b1cca2348c0
v0.0.0-20201021035429-f5854403a974
v0.0.0-20201031054903-ff519b6c9102
v0.0.0-20201110031124-69a78807bb2b
v0.0.0-20201202161906-c7110b5ffcbb
v0.0.0-20201209123823-ac852fbbde11
v0.0.0-20201224014010-6772e930b67b
v0.0.0-20210119194325-5f4716e94777
v0.0.0-20210220033124-5f55cee0dc0d
v0.0.0-20210224082022-3d97a244fca7
v0.0.0-20210226172049-e18ecbb05110
v0.0.0-20210316092652-d523dce5a7f4
v0.0.0-20210405180319-a5a99cb37ef4
v0.0.0-20210410081132-afb366fc7cd1
v0.0.0-20210420210106-798c2154c571
v0.0.0-20210421230115-4e50805a0758
v0.0.0-20210428140749-89ef3d95e781
v0.0.0-20210503060351-7fd8e65b6420
v0.0.0-20210505024714-0287a6fb4125
v0.0.0-20210505214959-0714010a04ed
v0.0.0-20210510120150-4163338589ed
v0.0.0-20210520170846-37e1c6afe023
v0.0.0-20210525063256-abc453219eb5
v0.0.0-20210610132358-84b48f89b13b
v0.0.0-20210614182718-04defd469f4e
v0.0.0-20210726213435-c6fcb2dbf985
v0.0.0-20210805182204-aaa1db679c0d
v0.0.0-20210813160813-60bc85c4be6d
v0.0.0-20210825183410-e898025ed96a
v0.0.0-20210903162142-ad29c8ab022f
v0.0.0-20210913180222-943fd674d43e
v0.0.0-20210916014120-12bc252f5db8
v0.0.0-20210917221730-978cfadd31cf
v0.0.0-20211008194852-3b03d305991f
v0.0.0-20211015210444-4f30a5c0130f
v0.0.0-20211020060615-d418f374d309
v0.0.0-20211029224645-99673261e6eb
v0.0.0-20211112202133-69e39bad7dc2
v0.0.0-20211118161319-6a13c67c3ce4
v0.0.0-20211123203042-d83791d6bcd9
v0.0.0-20211209124913-491a49abca63
v0.0.0-20211216030914-fe4d6282115f
v0.0.0-20220107192237-5cfca573fb4d
v0.0.0-20220111093109-d55c255bac03
v0.0.0-20220127200216-cd36cc0744dd
v0.0.0-20220225172249-27dd8689420f
v0.0.0-20220325170049-de3da57026de
v0.0.0-20220401154927-543a649e0bdd
v0.0.0-20220403103023-749bd193bc2b
v0.0.0-20220412020605-290c469a71a5
v0.0.0-20220425223048-2871e0cb64e4
v0.0.0-20220520000938-2e3eb7b945c2
v0.0.0-20220526153639-5463443f8c37
v0.0.0-20220531201128-c960675eff93
v0.0.0-20220607020251-c690dde0001d
v0.0.0-20220617184016-355a448f1bc9
v0.0.0-20220624214902-1bab6f366d9e
v0.0.0-20220706163947-c90051bbdb60
v0.0.0-20220708220712-1185a9018129
v0.0.0-20220722155237-a158d28d115b
v0.0.0-20220725212005-46097bf591d3
v0.0.0-20220802222814-0bcc04d9c69b
v0.0.0-20220805013720-a33c5aa5df48
v0.0.0-20220812174116-3211cb980234
v0.0.0-20220826154423-83b083e8dc8b
v0.0.0-20220907135653-1e95f45603a7
v0.0.0-20220909164309-bea034e7d591
v0.0.0-20220921155015-db77216a4ee9
v0.0.0-20220923203811-8be639271d50
v0.0.0-20220927171203-f486391704dc
v0.0.0-20221002022538-bcab6841153b
v0.0.0-20221012135044-0b7e1fb9d458
v0.0.0-20221014081412-f15817d10f9b
`)
