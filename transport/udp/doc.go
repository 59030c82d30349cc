// Package udp has heartbeat's UDP media: bcast, mcast, mcast6, ucast, ucast6.
//
// A medium sends from a socket of its own, bound to the interface, with an
// ephemeral source port. It receives on PORT of that interface only, so
// networks stay apart even where their addresses overlap. Of several sockets
// bound alike the kernel gives a unicast packet to one only; media on the same
// interface and port therefore share one receiving socket, and all its packets
// are returned by the first of them (they count for the interface's link, which
// is the same). Multicast media have a socket bound to GROUP:PORT each.
//
// Interfaces come and go, and their addresses change. Sockets are opened once
// and stay; what follows the interface is what they are bound to. One goroutine
// compares both after every change that the kernel reports, after a failed
// Send, and once a minute, and binds, joins and reads the broadcast address
// anew. So Receive never notices, and Send works again by itself.
package udp
