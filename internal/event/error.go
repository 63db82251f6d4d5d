package event

import (
	"net/http"
	"strconv"
)

// Values of ErrorType besides status codes.
const (
	ErrorClosed = "connection_closed"
	ErrorReset  = "connection_reset"
)

// ErrorType is error.type of the HTTP semantic conventions, "" for success: the
// status code where it names the failure (5xx; for clients 4xx too), else how
// the exchange broke off.
func (s *Span) ErrorType() string {
	limit := http.StatusInternalServerError
	if s.Role == RoleClient {
		limit = http.StatusBadRequest
	}
	if s.Response.Status >= limit {
		return strconv.Itoa(s.Response.Status)
	}
	switch s.Response.Reason {
	case EndClosed:
		return ErrorClosed
	case EndReset:
		return ErrorReset
	}
	return ""
}

// Local says that the parent is a request this agent is watching, so its span
// will come. A parent read from a header may be anywhere.
func (r ParentRule) Local() bool { return r == ParentThread || r == ParentSole }
