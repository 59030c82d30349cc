package control

import (
	"errors"
	"fmt"
	"net"
	"os/user"
	"slices"
	"strconv"
	"unsafe"

	"golang.org/x/sys/unix"
)

// groupBytesMax is NGROUPS_MAX (65536) group numbers of four bytes.
const groupBytesMax = 65536 * 4

// caller is who is at the other end of a connection, by the kernel's word at
// the time of connect(2).
type caller struct {
	pid    int32
	uid    uint32
	gid    uint32
	groups []uint32 // supplementary
}

// callerOf asks the kernel who connected.
func callerOf(conn *net.UnixConn) (caller, error) {
	raw, err := conn.SyscallConn()
	if err != nil {
		return caller{}, err
	}
	var c caller
	var inner error
	err = raw.Control(func(fd uintptr) {
		cred, err := unix.GetsockoptUcred(int(fd), unix.SOL_SOCKET, unix.SO_PEERCRED)
		if err != nil {
			inner = fmt.Errorf("SO_PEERCRED: %w", err)
			return
		}
		c = caller{pid: cred.Pid, uid: cred.Uid, gid: cred.Gid}
		if c.groups, err = peerGroups(fd); err != nil {
			inner = fmt.Errorf("SO_PEERGROUPS: %w", err)
		}
	})
	return c, errors.Join(err, inner)
}

// peerGroups is getsockopt(SO_PEERGROUPS). The kernel answers ERANGE and the
// length it wants when the space is too small. x/sys has no wrapper for it.
func peerGroups(fd uintptr) ([]uint32, error) {
	size := uint32(64 * 4)
	for {
		buf := make([]uint32, size/4)
		got := size
		_, _, errno := unix.Syscall6(unix.SYS_GETSOCKOPT, fd, unix.SOL_SOCKET, unix.SO_PEERGROUPS,
			uintptr(unsafe.Pointer(unsafe.SliceData(buf))), uintptr(unsafe.Pointer(&got)), 0)
		switch {
		case errno == 0:
			return buf[:got/4], nil
		case errno == unix.ERANGE && got > size && got <= groupBytesMax:
			size = got
		case errno == unix.ENOPROTOOPT:
			// Linux before 4.13: the primary group still counts.
			return nil, nil
		default:
			return nil, errno
		}
	}
}

// mayOrder reports whether c is root or a member of group. A group that does
// not exist has no members.
func (c caller) mayOrder(group string) bool {
	if c.uid == 0 {
		return true
	}
	g, err := user.LookupGroup(group)
	if err != nil {
		return false
	}
	gid, err := strconv.ParseUint(g.Gid, 10, 32)
	if err != nil {
		return false
	}
	return c.gid == uint32(gid) || slices.Contains(c.groups, uint32(gid))
}

// String is "root (uid 0)", or "uid 4711" for one without a name.
func (c caller) String() string {
	uid := strconv.FormatUint(uint64(c.uid), 10)
	if u, err := user.LookupId(uid); err == nil {
		return u.Username + " (uid " + uid + ")"
	}
	return "uid " + uid
}
