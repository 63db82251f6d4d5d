package event

// Names below are the ones users meet: in span attributes, in metric labels
// and in the printed tree. Unknown values print as "unknown" so that a newer
// kernel object never makes an older agent panic.

var parentRuleNames = [...]string{
	ParentNone:      "none",
	ParentWire:      "wire",
	ParentThread:    "thread",
	ParentSole:      "sole",
	ParentAdopted:   "adopted",
	ParentAmbiguous: "ambiguous",
	ParentInvalid:   "invalid",
	ParentUntrusted: "untrusted",
	ParentContext:   "context",
	ParentGoroutine: "goroutine",
	ParentCreator:   "creator",
}

var propagationNames = [...]string{
	PropagationNone:     "none",
	PropagationInjected: "injected",
	PropagationOwn:      "own",
	PropagationObserved: "observed",
	PropagationRefused:  "refused",
	PropagationWithheld: "withheld",
}

var endNames = [...]string{
	EndComplete: "complete",
	EndClosed:   "closed",
	EndUpgraded: "upgraded",
	EndLost:     "lost",
	EndReset:    "reset",

	EndCancelled: "cancelled",
	EndTimeout:   "timeout",
	EndUnread:    "unread",
}

var roleNames = [...]string{
	RoleUnknown: "unknown",
	RoleServer:  "server",
	RoleClient:  "client",
}

// ParentRules is the number of parent rules; rules are 0 … ParentRules-1.
const ParentRules = len(parentRuleNames)

// Roles is the number of roles; roles are 0 … Roles-1.
const Roles = len(roleNames)

func name[T ~uint8](names []string, v T) string {
	if int(v) < len(names) {
		return names[v]
	}
	return "unknown"
}

// String returns the name of the rule: wire, thread, sole, …
func (r ParentRule) String() string { return name(parentRuleNames[:], r) }

// String returns the name of the outcome: injected, own, …
func (p Propagation) String() string { return name(propagationNames[:], p) }

// String returns the name of the end: complete, closed, …
func (e End) String() string { return name(endNames[:], e) }

// String returns server, client or unknown.
func (r Role) String() string { return name(roleNames[:], r) }
