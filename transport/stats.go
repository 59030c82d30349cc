package transport

// Stats counts what a medium did since it was opened.
type Stats struct {
	Sent       uint64 // packets handed to the kernel
	SendErrors uint64 // packets that Send could not send
	SendDrops  uint64 // packets dropped behind Send: a slow line's full queue
	Received   uint64 // packets that Receive returned
	TooLong    uint64 // packets dropped because they exceeded the buffer
	Discarded  uint64 // damaged messages on a serial line
	Reopened   uint64 // times the medium came back after a failure
}

// Counted is what media that count implement.
type Counted interface{ Stats() Stats }

// Announced is what media implement whose opening the original writes to the
// log. Banner returns those lines, without time and priority (all are "info").
type Announced interface{ Banner() []string }
