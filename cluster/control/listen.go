package control

import (
	"errors"
	"fmt"
	"io/fs"
	"net"
	"os"
	"path/filepath"
	"sync"
	"syscall"
	"time"
)

// Listen makes the control socket at path, mode 0666: who may do what is
// decided per request. A missing directory is made, mode 0755. A socket that a
// dead daemon left is replaced; one that a living daemon serves is an error,
// and so is anything there that is no socket.
func Listen(path string) (net.Listener, error) {
	l, err := listen(path)
	if err != nil {
		return nil, fmt.Errorf("listen on control socket %s: %w", path, err)
	}
	return l, nil
}

func listen(path string) (net.Listener, error) {
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		return nil, err
	}
	if err := removeStale(path); err != nil {
		return nil, err
	}
	l, err := net.ListenUnix("unix", &net.UnixAddr{Name: path, Net: "unix"})
	if err != nil {
		return nil, unwrapNet(err)
	}
	// chmod, because the umask has cut bind's mode.
	if err := os.Chmod(path, 0o666); err != nil {
		l.Close()
		return nil, err
	}
	return l, nil
}

// removeStale removes a socket that nobody serves any more.
func removeStale(path string) error {
	info, err := os.Lstat(path)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	if info.Mode().Type() != fs.ModeSocket {
		return errors.New("there is something else of that name, not a socket")
	}
	conn, err := net.DialTimeout("unix", path, time.Second)
	if err == nil {
		conn.Close()
		return errors.New("another daemon is listening there")
	}
	if !errors.Is(err, syscall.ECONNREFUSED) {
		return unwrapNet(err)
	}
	return os.Remove(path)
}

// unwrapNet takes net's own "listen unix PATH: bind: " off an error: our text
// names the socket already.
func unwrapNet(err error) error {
	if op, ok := errors.AsType[*net.OpError](err); ok {
		return op.Err
	}
	return err
}

// Bounds on connections. Everybody may connect, so nobody may use up the
// daemon's file descriptors, or those of the others.
const (
	connsMax       = 256
	connsPerUIDMax = 32
)

// limited accepts connections within those bounds, and knows who they are from.
type limited struct {
	net.Listener
	mu    sync.Mutex
	total int
	uids  map[uint32]int
}

// callerConn is a connection with its caller.
type callerConn struct {
	net.Conn
	caller caller
	once   sync.Once
	done   func()
}

func (c *callerConn) Close() error {
	c.once.Do(c.done)
	return c.Conn.Close()
}

// Accept hangs up on callers beyond the bounds; root is held to the total only.
func (l *limited) Accept() (net.Conn, error) {
	for {
		conn, err := l.Listener.Accept()
		if err != nil {
			return nil, err
		}
		unixConn, ok := conn.(*net.UnixConn)
		if !ok {
			conn.Close()
			return nil, fmt.Errorf("control connection from %v: not a unix socket", conn.RemoteAddr())
		}
		who, err := callerOf(unixConn)
		if err != nil || !l.admit(who) {
			conn.Close()
			continue
		}
		return &callerConn{Conn: conn, caller: who, done: func() { l.leave(who) }}, nil
	}
}

func (l *limited) admit(who caller) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	// The last quarter is root's, so that many callers together cannot lock
	// the administrator out.
	if l.total >= connsMax || who.uid != 0 && (l.total >= connsMax*3/4 || l.uids[who.uid] >= connsPerUIDMax) {
		return false
	}
	l.total++
	l.uids[who.uid]++
	return true
}

func (l *limited) leave(who caller) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.total--
	if l.uids[who.uid]--; l.uids[who.uid] == 0 {
		delete(l.uids, who.uid)
	}
}
