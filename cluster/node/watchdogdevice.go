package node

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"

	"golang.org/x/sys/unix"
)

// watchdogDevice is an open watchdog timer, as the kernel's watchdog API has it.
// It runs from the open on. Each call may hang with the hardware behind it.
type watchdogDevice interface {
	Facts() watchdogFacts
	// SetTimeout sets whole seconds and, as a side effect, feeds.
	SetTimeout(seconds int) error
	// Timeout is what the device really took.
	Timeout() (seconds int, err error)
	Feed() error
	// Disarm stops the timer and closes the device.
	Disarm() error
	// Copy is another descriptor; closing it closes nothing else.
	Copy() (int, error)
}

type watchdogFacts struct {
	Identity string
	// MagicClose: only a close after the letter V stops the timer. Without it
	// each close does, that of a killed process included.
	MagicClose bool
	// NoWayOut: nothing stops the timer.
	NoWayOut bool
}

// watchdogFD is a watchdog of the kernel.
type watchdogFD struct {
	fd    int
	facts watchdogFacts
}

func openWatchdogFD(path string) (watchdogDevice, error) {
	// Non-blocking and no controlling terminal for the sake of what is no
	// watchdog: the open of a FIFO or of a serial line may wait for ever.
	fd, err := unix.Open(path, unix.O_WRONLY|unix.O_CLOEXEC|unix.O_NONBLOCK|unix.O_NOCTTY, 0)
	if err != nil {
		return nil, err
	}
	return watchdogOfFD(fd)
}

// watchdogOfFD makes a device of an open descriptor, and closes it when it is
// none.
func watchdogOfFD(fd int) (watchdogDevice, error) {
	info, err := unix.IoctlGetWatchdogInfo(fd)
	if err != nil {
		_ = unix.Close(fd) // nothing was written to it
		return nil, fmt.Errorf("it is no watchdog: %w", err)
	}
	return watchdogFD{fd, watchdogFacts{
		Identity:   unix.ByteSliceToString(info.Identity[:]),
		MagicClose: info.Options&unix.WDIOF_MAGICCLOSE != 0,
		NoWayOut:   noWayOut(fd),
	}}, nil
}

// noWayOut asks sysfs, the only place that tells it; a kernel that does not
// tell it counts as one that lets the timer be stopped.
func noWayOut(fd int) bool {
	var st unix.Stat_t
	if unix.Fstat(fd, &st) != nil {
		return false
	}
	dir := fmt.Sprintf("/sys/dev/char/%d:%d", unix.Major(st.Rdev), unix.Minor(st.Rdev))
	if unix.Major(st.Rdev) == miscMajor { // /dev/watchdog itself is the first one
		dir = "/sys/class/watchdog/watchdog0"
	}
	text, err := os.ReadFile(filepath.Join(dir, "nowayout"))
	return err == nil && strings.TrimSpace(string(text)) == "1"
}

// miscMajor is the major number of the kernel's miscellaneous devices.
const miscMajor = 10

func (d watchdogFD) Facts() watchdogFacts { return d.facts }

func (d watchdogFD) SetTimeout(seconds int) error {
	return unix.IoctlSetPointerInt(d.fd, unix.WDIOC_SETTIMEOUT, seconds)
}

func (d watchdogFD) Timeout() (int, error) {
	seconds, err := unix.IoctlGetUint32(d.fd, unix.WDIOC_GETTIMEOUT)
	return int(seconds), err
}

// Feed writes one byte, which every driver takes; not all take the ioctl.
func (d watchdogFD) Feed() error {
	_, err := unix.Write(d.fd, []byte{0})
	return err
}

func (d watchdogFD) Disarm() error {
	_, err := unix.Write(d.fd, []byte{'V'})
	return errors.Join(err, unix.Close(d.fd))
}

func (d watchdogFD) Copy() (int, error) {
	return unix.FcntlInt(uintptr(d.fd), unix.F_DUPFD_CLOEXEC, 0)
}
