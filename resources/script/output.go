package script

import (
	"fmt"
	"io"
	"os"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

const (
	// outputHeadBytes and outputTailBytes are kept of what a script prints.
	// Enough for any status text; 10 MB of it cost no more.
	outputHeadBytes = 64 << 10
	outputTailBytes = 64 << 10
	// capturePoll is how often a running script's output is cut down.
	capturePoll = 50 * time.Millisecond
	// punchBytes is the granularity of cutting: whole pages, aligned.
	punchBytes = 64 << 10
	// lineBytesMax bounds one line taken over into an error or a log.
	lineBytesMax = 512
)

// Output is the bounded record of one stream of a script.
type Output struct {
	// Head is the beginning, Tail the end if there was more than Head holds.
	Head, Tail string
	// Total is how many bytes were printed.
	Total int64
}

// Text is all of it, with a mark where something was left out.
func (o Output) Text() string {
	left := o.Total - int64(len(o.Head)) - int64(len(o.Tail))
	if left <= 0 {
		return o.Head + o.Tail
	}
	return fmt.Sprintf("%s\n[%d bytes left out]\n%s", o.Head, left, o.Tail)
}

// Lines are the lines that are not blank, each cut to a bounded length; at most
// limit of them, with a mark for the middle ones that were left out.
func (o Output) Lines(limit int) []string {
	lines := splitLines(o.Text())
	if len(lines) <= limit {
		return lines
	}
	half := limit / 2
	mark := fmt.Sprintf("[%d lines left out]", len(lines)-2*half)
	return append(append(append(make([]string, 0, limit+1), lines[:half]...), mark), lines[len(lines)-half:]...)
}

// LastLines are the last n lines that are not blank.
func (o Output) LastLines(n int) []string {
	text := o.Tail
	if o.Total <= int64(len(o.Head)+len(o.Tail)) {
		text = o.Head + o.Tail
	}
	lines := splitLines(text)
	return lines[max(0, len(lines)-n):]
}

func splitLines(text string) []string {
	var lines []string
	for line := range strings.Lines(text) {
		line = strings.TrimSpace(line)
		if len(line) > lineBytesMax {
			line = strings.ToValidUTF8(line[:lineBytesMax], "") + "…"
		}
		if line != "" {
			lines = append(lines, line)
		}
	}
	return lines
}

// capture is an unnamed file in memory that a script prints to.
//
// A pipe would either block the script, or keep the reader busy as long as a
// daemon started by the script lives, or kill that daemon with SIGPIPE one day.
// The file never blocks; its middle is given back to the kernel while it grows,
// and once the script has ended it is sealed: a daemon that still prints gets
// EPERM and costs no memory.
type capture struct {
	file    *os.File
	punched int64 // bytes from outputHeadBytes on that are gone already
}

func newCapture(name string) (*capture, error) {
	fd, err := unix.MemfdCreate("script-"+name, unix.MFD_CLOEXEC|unix.MFD_ALLOW_SEALING)
	if err != nil {
		return nil, fmt.Errorf("memory file for a script's output: %w", err)
	}
	if _, err := unix.FcntlInt(uintptr(fd), unix.F_SETFL, unix.O_APPEND); err != nil {
		unix.Close(fd)
		return nil, fmt.Errorf("memory file for a script's output: %w", err)
	}
	return &capture{file: os.NewFile(uintptr(fd), name)}, nil
}

func (c *capture) fd() int { return int(c.file.Fd()) }

func (c *capture) size() int64 {
	var st unix.Stat_t
	if unix.Fstat(c.fd(), &st) != nil {
		return 0
	}
	return st.Size
}

// trim gives back what is neither head nor tail.
func (c *capture) trim() {
	from := outputHeadBytes + c.punched
	length := (c.size() - outputTailBytes - from) / punchBytes * punchBytes
	if length <= 0 {
		return
	}
	// A failure only costs memory until the script ends.
	if unix.Fallocate(c.fd(), unix.FALLOC_FL_PUNCH_HOLE|unix.FALLOC_FL_KEEP_SIZE, from, length) == nil {
		c.punched += length
	}
}

// finish seals the file and returns what was kept.
func (c *capture) finish() Output {
	_, _ = unix.FcntlInt(c.file.Fd(), unix.F_ADD_SEALS, unix.F_SEAL_GROW)
	total := c.size()
	out := Output{Total: total}
	out.Head = c.read(0, min(total, outputHeadBytes))
	if rest := total - outputHeadBytes; rest > 0 {
		tail := min(rest, outputTailBytes)
		out.Tail = c.read(total-tail, tail)
	}
	// What a daemon left behind keeps open shall not hold the text in memory.
	_ = unix.Fallocate(c.fd(), unix.FALLOC_FL_PUNCH_HOLE|unix.FALLOC_FL_KEEP_SIZE, 0, max(total, 1))
	return out
}

func (c *capture) read(offset, length int64) string {
	buf := make([]byte, length)
	n, _ := io.ReadFull(io.NewSectionReader(c.file, offset, length), buf)
	return strings.ReplaceAll(string(buf[:n]), "\x00", "")
}

func (c *capture) close() { c.file.Close() }
