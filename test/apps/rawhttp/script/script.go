// Package script is what a test and cmd rawhttp say to each other: JSON values
// on standard input and output, one Step answered by one Result.
package script

// Ways to send.
const (
	Write    = "write"
	Writev   = "writev"  // every piece as three vectors
	Sendmsg  = "sendmsg" // every piece as three vectors
	Sendto   = "sendto"
	Sendfile = "sendfile" // every piece from a file
)

// Step is one thing for the client to do: connect, then send, then read.
type Step struct {
	Connect     string `json:"connect,omitempty"`     // host:port; closes what was open
	Nagle       bool   `json:"nagle,omitempty"`       // leave Nagle's algorithm on
	NonBlocking bool   `json:"nonBlocking,omitempty"` // of a new connection
	Send        []byte `json:"send,omitempty"`
	Pieces      []int  `json:"pieces,omitempty"`  // lengths of single sends; nil: all at once
	How         string `json:"how,omitempty"`     // Write if empty
	BodyHow     string `json:"bodyHow,omitempty"` // for pieces after the first; How if empty
	Reads       []Read `json:"reads,omitempty"`
	Close       bool   `json:"close,omitempty"`
}

// Read is one thing to read from the server.
type Read struct {
	Method string `json:"method,omitempty"` // of the request that is answered; HEAD has no body
	Raw    int    `json:"raw,omitempty"`    // so many bytes instead of a response
	Rest   bool   `json:"rest,omitempty"`   // everything until the server closes
}

// Result is the outcome of a Step.
type Result struct {
	Got   []Got  `json:"got"`
	Error string `json:"error,omitempty"`
}

// Got is one response, or raw bytes.
type Got struct {
	Status int     `json:"status,omitempty"`
	Report *Report `json:"report,omitempty"` // from the X-Report header
	Body   []byte  `json:"body,omitempty"`
}

// ReportHeader carries a Report, JSON in base64, on every final response.
const ReportHeader = "X-Report"

// Report is what the server saw of one request.
type Report struct {
	Traceparents []string `json:"traceparents"` // values of the header lines, in order
	HeadSum      string   `json:"headSum"`      // SHA-256 of the header block as received
	StrippedSum  string   `json:"strippedSum"`  // the same without its traceparent lines
	BodySum      string   `json:"bodySum"`      // SHA-256 of the body as received, chunk framing included
	BodyLen      int      `json:"bodyLen"`
}

// Sample is one request of the load mode, one line each.
type Sample struct {
	Conn     int    `json:"conn"`          // which connection
	Head     int    `json:"head"`          // bytes of the header block
	Body     int    `json:"body"`          // bytes of the body
	At       int64  `json:"at"`            // start, Unix ns
	Micros   int64  `json:"us"`            // until the whole response was read
	Injected int    `json:"injected"`      // traceparent lines at the server
	Bad      string `json:"bad,omitempty"` // why the bytes were not exact
}
