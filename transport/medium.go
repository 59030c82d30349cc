package transport

import (
	"time"

	"heartbeat/transport/message"
)

// Format is the spelling of a message on a medium: netstring on UDP and ICMP,
// classic on serial lines.
type Format = message.Format

const (
	FormatNetstring = message.FormatNetstring
	FormatClassic   = message.FormatClassic
)

// PacketBytesMax bounds one packet on any medium.
const PacketBytesMax = message.PacketBytesMax

// Medium is one path to the peers: a broadcast interface, a serial line, a
// ping node.
//
// A Medium moves bytes and knows nothing of authentication, ownership or
// health. It repairs itself: while an interface is gone or a cable is out Send
// returns an error, and a later Send works again without help.
type Medium interface {
	// Kind is the ha.cf directive: "bcast", "mcast", "mcast6", "ucast",
	// "ucast6", "serial", "ping", "ping6" or "ping_group".
	Kind() string
	// Link is the name of the link as the original shows it in logs and in
	// cl_status: the interface ("eth0"), the device ("/dev/ttyS0"), the ping
	// node's name. Two media on one interface share it.
	Link() string
	// Name is unique and stable: "bcast eth1", "ucast eth1 192.0.2.2",
	// "serial /dev/ttyS0", "ping 192.0.2.1".
	Name() string
	// Format tells which of the two encodings Send wants.
	Format() Format
	// Send writes one packet. A medium that is slow drops; it never queues
	// without bound and never blocks the caller for longer than a write to a
	// socket takes.
	Send(packet []byte) error
	// Receive blocks for one packet, copies it to buf and stamps its arrival
	// (the kernel's stamp where there is one, so that a late reader still sees
	// the true time). It returns net.ErrClosed after Close; any other error is
	// temporary, has been rate limited by the medium (it does not spin), and
	// the next call may work. A packet longer than buf is dropped, not cut.
	Receive(buf []byte) (n int, at time.Time, err error)
	// Close frees a blocked Receive at once.
	Close() error
}

// Looping is a medium whose only destination may be this host itself: a unicast
// line with the node's own address, which both nodes' ha.cf usually has, so that
// the file can be the same.
type Looping interface {
	// Loops reports whether what Send would send now comes back through the
	// kernel and reaches nobody else. The caller may then spare itself both ways
	// and take it for sent and received.
	Loops() bool
}

// Deferring is a medium that can let packets wait that need nobody's attention, so
// that they cost no wake-up.
type Deferring interface {
	// Defer says how such packets begin. From now on they do not end a Receive; they
	// wait, with the stamp of their arrival, until Deferred takes them. None: from
	// now on every packet ends a Receive; what waits already is still to be taken.
	// A medium need not keep back what it could: a packet too many in Receive is no
	// mistake, one that does not begin so and waits would be.
	Defer(beginnings [][]byte)
	// Deferred takes the next packet that waits, and never waits itself; false when
	// there is none. The packet is good until the next call.
	Deferred() (packet []byte, at time.Time, ok bool)
}
