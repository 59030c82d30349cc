package udp

import (
	"math"

	"golang.org/x/net/bpf"
	"golang.org/x/sys/unix"
)

// everything is a filter's verdict "pass", whatever the length.
const everything = math.MaxUint32

// attachFilter gives a socket a program: its filter (SO_ATTACH_FILTER), or what
// picks one of the sockets that share its port (SO_ATTACH_REUSEPORT_CBPF).
func attachFilter(fd, option int, program []bpf.RawInstruction) error {
	filter := make([]unix.SockFilter, len(program))
	for i, p := range program {
		filter[i] = unix.SockFilter{Code: p.Op, Jt: p.Jt, Jf: p.Jf, K: p.K}
	}
	return unix.SetsockoptSockFprog(fd, unix.SOL_SOCKET, option, &unix.SockFprog{Len: uint16(len(filter)), Filter: &filter[0]})
}
