package udp

import (
	"encoding/binary"
	"fmt"
	"math"

	"golang.org/x/net/bpf"
	"golang.org/x/sys/unix"

	"heartbeat/transport/datagram"
)

// everything is a filter's verdict "pass", whatever the length.
const everything = math.MaxUint32

// attachFilter gives a socket a program: its filter (SO_ATTACH_FILTER), or what
// picks one of the sockets that share its port (SO_ATTACH_REUSEPORT_CBPF).
func attachFilter(fd, option int, program []bpf.Instruction) error {
	raw, err := bpf.Assemble(program)
	if err != nil {
		return fmt.Errorf("assemble filter: %w", err)
	}
	filter := make([]unix.SockFilter, len(raw))
	for i, p := range raw {
		filter[i] = unix.SockFilter{Code: p.Op, Jt: p.Jt, Jf: p.Jf, K: p.K}
	}
	return unix.SetsockoptSockFprog(fd, unix.SOL_SOCKET, option, &unix.SockFprog{Len: uint16(len(filter)), Filter: &filter[0]})
}

// udpHeaderBytes stand before the packet where a socket's filter reads; a port's
// program reads from the packet's first byte.
const udpHeaderBytes = 8

// match ends with yes for a packet that begins as one of beginnings says, with no for
// another; off is where it begins. A load beyond the end of a packet would end the
// program with "drop", so the length is looked at first. It counts from where the
// program reads.
func match(beginnings [][]byte, off uint32, yes, no uint32) (program []bpf.Instruction) {
	other := bpf.Jump{} // to where the next one of beginnings is tried
	for _, b := range beginnings {
		block := []bpf.Instruction{
			bpf.LoadExtension{Num: bpf.ExtLen},
			bpf.JumpIf{Cond: bpf.JumpGreaterOrEqual, Val: off + uint32(len(b)), SkipTrue: 1}, other,
			bpf.JumpIf{Cond: bpf.JumpLessOrEqual, Val: off + datagram.TakeBytesMax, SkipTrue: 1}, other,
		}
		for at, size := 0, 4; at < len(b); at += size {
			for at+size > len(b) {
				size /= 2
			}
			var word [4]byte
			copy(word[4-size:], b[at:at+size])
			block = append(block, bpf.LoadAbsolute{Off: off + uint32(at), Size: size},
				bpf.JumpIf{Cond: bpf.JumpEqual, Val: binary.BigEndian.Uint32(word[:]), SkipTrue: 1}, other)
		}
		block = append(block, bpf.RetConstant{Val: yes})
		for i, in := range block {
			if in == other {
				block[i] = bpf.Jump{Skip: uint32(len(block) - 1 - i)}
			}
		}
		program = append(program, block...)
	}
	return append(program, bpf.RetConstant{Val: no})
}

// pickProgram picks the second of two sockets for packets that may wait, else the
// first.
func pickProgram(beginnings [][]byte) []bpf.Instruction { return match(beginnings, 0, 1, 0) }

// filterProgram is the filter of the second of two sockets, or of the first: of what
// was sent to many it lets only that pass which may wait, or only the rest.
func filterProgram(beginnings [][]byte, second bool) []bpf.Instruction {
	const thisHost = 0 // PACKET_HOST
	routine, rest := uint32(0), uint32(everything)
	if second {
		routine, rest = rest, routine
	}
	return append([]bpf.Instruction{
		bpf.LoadExtension{Num: bpf.ExtType},
		bpf.JumpIf{Cond: bpf.JumpNotEqual, Val: thisHost, SkipTrue: 1},
		bpf.RetConstant{Val: everything},
	}, match(beginnings, udpHeaderBytes, routine, rest)...)
}
