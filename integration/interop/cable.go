package interop

import (
	"fmt"
	"io"
	"os"
	"sync"

	"github.com/creack/pty"
	"golang.org/x/sys/unix"
)

// cable is a null modem cable between two ptys; it ends with unplug, once no
// node has them open. The devices are visible to both nodes, which share /dev.
func cable() (devices [2]string, unplug func(), err error) {
	var masters, slaves [2]*os.File
	unplug = sync.OnceFunc(func() {
		// The slaves first: a master's blocked read ends with the last of them.
		for _, f := range append(slaves[:], masters[:]...) {
			if f != nil {
				_ = f.Close()
			}
		}
	})
	for i := range masters {
		if masters[i], slaves[i], err = pty.Open(); err != nil {
			unplug()
			return devices, unplug, fmt.Errorf("open a pty: %w", err)
		}
		devices[i] = slaves[i].Name()
		// Raw from the start: an echo would be the node's own message. The slave
		// stays open, else the master hangs up with the last daemon.
		var t *unix.Termios
		if t, err = unix.IoctlGetTermios(int(slaves[i].Fd()), unix.TCGETS); err == nil {
			t.Iflag, t.Oflag, t.Lflag = 0, 0, 0
			err = unix.IoctlSetTermios(int(slaves[i].Fd()), unix.TCSETS, t)
		}
		if err != nil {
			unplug()
			return devices, unplug, fmt.Errorf("set up %s: %w", devices[i], err)
		}
	}
	for i := range masters {
		go func() { _, _ = io.Copy(masters[1-i], masters[i]) }() // ends when the slaves are closed
	}
	return devices, unplug, nil
}
