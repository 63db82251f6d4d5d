package event

import (
	"net/http"
	"strconv"
)

// Values of ErrorType besides status codes.
const (
	ErrorClosed    = "connection_closed"
	ErrorReset     = "connection_reset"
	ErrorCancelled = "cancelled"
	ErrorTimeout   = "timeout"
	ErrorOther     = "_OTHER" // there was one, and it is not known which
)

// ErrorType is error.type of the semantic conventions, "" for success: the status
// code where it names the failure, else how the exchange broke off. For HTTP a
// status from 500 on is a failure, for its clients from 400 on; for an RPC, whose
// own status is what counts, see GRPCStatus.
func (s *Span) ErrorType() string {
	if status := s.Response.GRPC; s.Protocol.Has(ProtocolGRPC) && status != GRPCNone {
		if status.failed(s.Role) {
			return status.String()
		}
		return ""
	}
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
	case EndCancelled:
		return ErrorCancelled
	case EndTimeout:
		return ErrorTimeout
	case EndUnread:
		return ErrorOther
	}
	return ""
}

// Outlives says that a call may be made when its parent has ended already: a
// goroutine that was left to itself has its context and its creator still.
func (r ParentRule) Outlives() bool { return r == ParentContext || r == ParentCreator }

// Local says that the parent is a request this agent is watching, so its span
// will come, or has. A parent read from a header may be anywhere.
func (r ParentRule) Local() bool {
	switch r {
	case ParentThread, ParentSole, ParentContext, ParentGoroutine, ParentCreator:
		return true
	}
	return false
}
