package logging

import (
	"fmt"
	"os"
	"time"

	"golang.org/x/sys/unix"
)

// file is a log file that is opened when first needed, reopened when its name
// leads elsewhere (logrotate) and survives a full disk.
type file struct {
	path     string
	uid, gid int // of a file that is created here; -1: leave

	f       *os.File
	dev     uint64
	ino     uint64
	checked time.Time
	// torn: the last write ended inside a line.
	torn bool
	lost uint64 // lines
	why  error
}

// recheck is how often a file's inode is compared with its name's.
const recheck = time.Second

func (f *file) open() error {
	created := false
	fd, err := os.OpenFile(f.path, os.O_WRONLY|os.O_APPEND|unix.O_CLOEXEC, 0)
	if os.IsNotExist(err) {
		fd, err = os.OpenFile(f.path, os.O_WRONLY|os.O_APPEND|os.O_CREATE|unix.O_CLOEXEC, 0o644)
		created = true
	}
	if err != nil {
		return err
	}
	var st unix.Stat_t
	if err := unix.Fstat(int(fd.Fd()), &st); err != nil {
		fd.Close()
		return fmt.Errorf("stat %s: %w", f.path, err)
	}
	if created && f.uid >= 0 && f.gid >= 0 {
		// The original gives its files to hacluster:haclient so that its
		// clients can write too; without that right root keeps them.
		_ = fd.Chown(f.uid, f.gid)
	}
	f.f, f.dev, f.ino = fd, st.Dev, st.Ino
	return nil
}

func (f *file) close() {
	if f.f != nil {
		_ = f.f.Close() // every line was written before; there is nothing to save
		f.f = nil
	}
}

// moved reports whether the name leads to another file than the open one.
func (f *file) moved() bool {
	var st unix.Stat_t
	if err := unix.Stat(f.path, &st); err != nil {
		return true
	}
	return st.Dev != f.dev || st.Ino != f.ino
}

// write appends whole lines. Lines that cannot be written are counted; the
// count is told by the first write that works again.
func (f *file) write(now time.Time, data []byte, lines int, note func(lost uint64, why error) []byte) {
	if f.f != nil && now.Sub(f.checked) >= recheck {
		f.checked = now
		if f.moved() {
			f.close()
		}
	}
	if f.f == nil {
		f.checked = now
		if err := f.open(); err != nil {
			f.lost += uint64(lines)
			f.why = err
			return
		}
	}
	if f.lost > 0 || f.torn {
		var head []byte
		if f.torn {
			head = append(head, '\n')
		}
		if f.lost > 0 {
			head = append(head, note(f.lost, f.why)...)
		}
		data = append(head, data...)
	}
	n, err := f.f.Write(data)
	if err != nil {
		if n > 0 {
			f.torn = data[n-1] != '\n'
		}
		f.lost += uint64(lines)
		f.why = err
		return
	}
	f.lost, f.why, f.torn = 0, nil, false
}
