package cluster

import "time"

// Instant is monotonic time since the process started. The caller stamps every
// event; this package never asks a clock.
type Instant time.Duration

// Add returns the instant d later.
func (t Instant) Add(d time.Duration) Instant { return t + Instant(d) }

// Sub returns the time from u to t.
func (t Instant) Sub(u Instant) time.Duration { return time.Duration(t - u) }

// Before reports whether t is earlier than u.
func (t Instant) Before(u Instant) bool { return t < u }

// Set is a set of resource groups as the protocol names them, seen from one
// node: its own groups (local), the other's (foreign), both or none.
type Set uint8

const (
	None    Set = 0
	Local   Set = 1
	Foreign Set = 2
	All     Set = Local | Foreign
)

func (s Set) String() string {
	switch s {
	case Local:
		return "local"
	case Foreign:
		return "foreign"
	case All:
		return "all"
	}
	return "none"
}

// ParseSet reads the four words of rsc_hold.
func ParseSet(word string) (Set, bool) {
	switch word {
	case "none":
		return None, true
	case "local":
		return Local, true
	case "foreign":
		return Foreign, true
	case "all":
		return All, true
	}
	return None, false
}

// Mirror is the set as the other node names it: local and foreign exchanged.
func (s Set) Mirror() Set {
	return (s&Local)<<1 | (s&Foreign)>>1
}

// Has reports whether all of x is in s.
func (s Set) Has(x Set) bool { return s&x == x }

// Failback is the value of auto_failback.
type Failback uint8

const (
	// FailbackLegacy is the default when the directive is missing.
	FailbackLegacy Failback = iota
	FailbackOn
	FailbackOff
)

func (f Failback) String() string {
	switch f {
	case FailbackOn:
		return "on"
	case FailbackOff:
		return "off"
	}
	return "legacy"
}

// Level is the weight of a log line, in the words of the original.
type Level uint8

const (
	Debug Level = iota
	Info
	Notice
	Warn
	Error
	Crit
)

func (l Level) String() string {
	return [...]string{"debug", "info", "notice", "WARN", "ERROR", "CRIT"}[l]
}

// Group is one line of haresources: resources that move together, in order.
type Group struct {
	// Key is the first resource as written; it names the group.
	Key string
	// Node is the preferred owner, lower case.
	Node string
	// Resources are all entries as written, the first included.
	Resources []string
}

// JobKind is what a job does with groups outside the core.
type JobKind uint8

const (
	// JobAsk asks, for each key, whether the first resource of the group runs
	// (the original's req_resource); the answer lists the idle ones.
	JobAsk JobKind = iota + 1
	// JobTake starts the groups, in order, skipping resources that run.
	JobTake
	// JobGive stops the groups, in order, each right to left.
	JobGive
	// JobScript runs rc.d/<message type> with the message's environment.
	JobScript
	// JobFence resets Node before its groups may be taken.
	JobFence
	// JobProbe asks the service network whether somebody answers for addresses of
	// the groups, which do not run here. Running in the result of a group means
	// yes, and then Err says who; Err alone says why it cannot be asked.
	JobProbe
)

func (k JobKind) String() string {
	return [...]string{"?", "ask", "take", "give", "script", "fence", "probe"}[k]
}

// Job is work outside the core. It ends in exactly one JobDone.
type Job struct {
	ID   uint64
	Kind JobKind
	// Keys are the groups' keys, in the order in which to work on them.
	Keys []string
	// Reason is why, for log, history and API: "node2 dead: silent for 4.0s".
	Reason string
	// Node is the node a fencing job resets, or whose silence a JobProbe is about.
	Node string
	// Title is how the original's child process would be called in its log,
	// e.g. "acquire all HA resources (standby)"; empty when it has none.
	Title string
	// Message is what a JobScript runs for: name and value of each string
	// field, in order.
	Message [][2]string
}

// GroupResult is what became of one group in a job.
type GroupResult struct {
	Key string
	// Running: JobAsk found the first resource running; after JobTake the
	// whole group runs or, with Err, a part of it may, since it could not be
	// stopped again; after JobGive something still does.
	Running bool
	// Err is empty, or the sentence that says what failed, on what and why.
	Err string
}
