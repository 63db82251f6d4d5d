package event

import (
	"slices"
	"strconv"
)

// GRPCStatus is 1 + the status code of a gRPC call; 0: none came.
type GRPCStatus uint8

// Codes with a meaning here, as GRPCStatus; doc/statuscodes.md of gRPC has them all.
const (
	GRPCNone             GRPCStatus = 0
	GRPCOK               GRPCStatus = 1 + 0
	GRPCUnknown          GRPCStatus = 1 + 2
	GRPCDeadlineExceeded GRPCStatus = 1 + 4
	GRPCUnimplemented    GRPCStatus = 1 + 12
	GRPCInternal         GRPCStatus = 1 + 13
	GRPCUnavailable      GRPCStatus = 1 + 14
	GRPCDataLoss         GRPCStatus = 1 + 15
)

var grpcNames = [...]string{
	"", "OK", "CANCELLED", "UNKNOWN", "INVALID_ARGUMENT", "DEADLINE_EXCEEDED", "NOT_FOUND",
	"ALREADY_EXISTS", "PERMISSION_DENIED", "RESOURCE_EXHAUSTED", "FAILED_PRECONDITION",
	"ABORTED", "OUT_OF_RANGE", "UNIMPLEMENTED", "INTERNAL", "UNAVAILABLE", "DATA_LOSS",
	"UNAUTHENTICATED",
}

// String is rpc.response.status_code: the code's name, its number where it has none,
// "" where no status came.
func (s GRPCStatus) String() string {
	if int(s) < len(grpcNames) {
		return grpcNames[s]
	}
	return strconv.Itoa(int(s) - 1)
}

// serverErrors are the codes that tell of a fault of the server, not of the call.
var serverErrors = []GRPCStatus{
	GRPCUnknown, GRPCDeadlineExceeded, GRPCUnimplemented, GRPCInternal, GRPCUnavailable, GRPCDataLoss,
}

// failed says whether a status that came is an error to this end of the call: to a
// server the codes that tell of its own fault, to a client all but OK. A code that
// gRPC does not have counts as UNKNOWN, as gRPC's libraries take it.
func (s GRPCStatus) failed(role Role) bool {
	if role == RoleClient {
		return s != GRPCOK
	}
	return slices.Contains(serverErrors, s) || int(s) >= len(grpcNames)
}
