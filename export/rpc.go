package export

import (
	"cmp"
	"strings"

	"go.opentelemetry.io/otel/attribute"
	semconv "go.opentelemetry.io/otel/semconv/v1.43.0"

	"weft/internal/event"
)

// isRPC says that a span follows the conventions of RPC, not those of HTTP, whose
// attributes it then has none of.
func isRPC(s *event.Span) bool { return s.Protocol.Has(event.ProtocolGRPC) }

// rpcOther is what the conventions put for a method that is not known to exist.
const rpcOther = "_OTHER"

// rpcMethod is rpc.method, fully qualified, and rpc.method_original where that
// differs. What a client may make up must not become a method: one that the server
// does not implement, whose end is not known, or that names no service, is another.
func rpcMethod(s *event.Span) (method, original string) {
	method = strings.TrimPrefix(s.Target, "/")
	service, name, _ := strings.Cut(method, "/")
	if service == "" || name == "" || s.TargetTotal > len(s.Target) ||
		s.Role != event.RoleClient && s.Response.GRPC == event.GRPCUnimplemented {
		return rpcOther, cmp.Or(method, s.Target)
	}
	return method, ""
}

func rpcSpanName(s *event.Span) string {
	if method, _ := rpcMethod(s); method != rpcOther {
		return method
	}
	return semconv.RPCSystemNameGRPC.Value.AsString()
}

// rpcServer is the server as the caller named it, in :authority; a port that it
// does not name is not made up. Without any it is the address of the connection.
func rpcServer(r *event.Request, kept *texts) (host string, port int) {
	if r.Host != "" && len(r.Host) < hostMax {
		host, port = splitHostPort(r.Host)
	}
	if host == "" {
		return kept.address(serverEnd(r))
	}
	return host, port
}

// rpcAttributes appends the attributes of a remote procedure call, but for
// weft's own.
func rpcAttributes(kv []attribute.KeyValue, s *event.Span, kept *texts) []attribute.KeyValue {
	text := func(k attribute.Key, v string) {
		if v != "" {
			kv = append(kv, k.String(v))
		}
	}
	number := func(k attribute.Key, v int) {
		if v != 0 {
			kv = append(kv, k.Int(v))
		}
	}
	method, original := rpcMethod(s)
	host, port := rpcServer(&s.Request, kept)
	peer, peerPort := kept.address(s.Remote)
	kv = append(kv, semconv.RPCSystemNameGRPC)
	text(semconv.RPCMethodKey, method)
	text(semconv.RPCMethodOriginalKey, original)
	text(semconv.RPCResponseStatusCodeKey, s.Response.GRPC.String())
	text(semconv.ErrorTypeKey, s.ErrorType())
	text(semconv.ServerAddressKey, host)
	number(semconv.ServerPortKey, port)
	if s.Role != event.RoleClient {
		text(semconv.ClientAddressKey, peer)
		number(semconv.ClientPortKey, peerPort)
	}
	text(semconv.NetworkPeerAddressKey, peer)
	number(semconv.NetworkPeerPortKey, peerPort)
	text(semconv.NetworkProtocolNameKey, "http")
	text(semconv.NetworkProtocolVersionKey, s.Protocol.Version())
	return append(kv, semconv.NetworkTransportTCP)
}
