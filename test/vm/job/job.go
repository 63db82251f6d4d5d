// Package job is what the VM runner on the host and the init in the guest tell
// each other.
package job

// Path is where the initramfs holds the Job, as JSON.
const Path = "/weft/job.json"

// Job is what the guest's init is to do.
type Job struct {
	Argv           []string `json:"argv"` // argv[0] is looked up in PATH
	Env            []string `json:"env"`
	Dir            string   `json:"dir"`
	Modules        []string `json:"modules"` // paths of .ko files, in the order to load them
	Usr            bool     `json:"usr"`     // the first disk is an ext4 image of /usr
	Collect        []string `json:"collect"` // guest paths to send back when the command has ended
	TimeoutSeconds int      `json:"timeout_seconds"`
	UnixTime       int64    `json:"unix_time"` // for guests without a clock
}

// Consoles of the guest. The kernel writes to its own, so that its messages
// never mix with the output of the command.
const (
	KernelConsole = "ttyS0"
	OutputConsole = "ttyS1" // output of the command, raw
	ReportConsole = "ttyS2" // Reports, one JSON object per line, then a tar archive
)

// Report is one line from the guest: Up once, Exit once.
type Report struct {
	Up      *Up    `json:"up,omitempty"`
	Exit    *Exit  `json:"exit,omitempty"`
	Warning string `json:"warning,omitempty"`
}

// Up says that the command is about to start.
type Up struct {
	Kernel        string  `json:"kernel"` // uname -r
	UptimeSeconds float64 `json:"uptime_seconds"`
}

// Exit says how the command ended; a tar archive of what was collected follows.
type Exit struct {
	Status  int    `json:"status"` // as a shell has it: 128 + signal; 127: did not start
	Signal  string `json:"signal,omitempty"`
	TimeOut bool   `json:"time_out,omitempty"`
}
