package serial

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/creack/pty"
	"golang.org/x/sys/unix"

	"heartbeat/transport"
	"heartbeat/transport/mediumtest"
)

const (
	baud     = 115200
	patience = 30 * time.Second
)

// cable is a null modem cable: two ptys whose masters are connected. Its ends
// are paths that stay when the ptys behind them change.
type cable struct {
	a, b             string
	dir              string
	masterA, masterB *os.File
	slaves           [2]*os.File
}

func newCable(t testing.TB) *cable {
	c := &cable{dir: t.TempDir()}
	c.a, c.b = filepath.Join(c.dir, "ttyA"), filepath.Join(c.dir, "ttyB")
	c.connect(t)
	t.Cleanup(c.hangUp)
	return c
}

// connect plugs in: new ptys, and a goroutine for each direction that ends with
// hangUp.
func (c *cable) connect(t testing.TB) {
	t.Helper()
	plug := func(path string, slave **os.File) *os.File {
		master, s := openPTY(t)
		*slave = s // held open, or the master fails when the medium closes it
		if err := os.Symlink(s.Name(), path); err != nil {
			t.Fatal(err)
		}
		return master
	}
	c.masterA, c.masterB = plug(c.a, &c.slaves[0]), plug(c.b, &c.slaves[1])
	go carry(c.masterA, c.masterB)
	go carry(c.masterB, c.masterA)
}

// openPTY opens a pty whose master frees a blocked read when it is closed.
func openPTY(t testing.TB) (master, slave *os.File) {
	t.Helper()
	blocking, slave, err := pty.Open()
	if err != nil {
		t.Fatal(err)
	}
	defer blocking.Close()
	fd, err := unix.FcntlInt(blocking.Fd(), unix.F_DUPFD_CLOEXEC, 0)
	if err == nil {
		err = unix.SetNonblock(fd, true)
	}
	if err != nil {
		t.Fatal(err)
	}
	return os.NewFile(uintptr(fd), blocking.Name()), slave
}

func carry(from, to *os.File) {
	buf := make([]byte, 512)
	for {
		n, err := from.Read(buf)
		if err != nil {
			return
		}
		if _, err := to.Write(buf[:n]); err != nil {
			return
		}
	}
}

// hangUp pulls the cable out of both ends. The paths go first: the next pty can
// get a number that one of them still points to.
func (c *cable) hangUp() {
	os.Remove(c.a)
	os.Remove(c.b)
	for _, file := range []*os.File{c.masterA, c.masterB, c.slaves[0], c.slaves[1]} {
		file.Close()
	}
}

func open(t testing.TB, device, lockDir string) transport.Medium {
	t.Helper()
	m, err := Open(Spec{Device: device, Baud: baud, LockDir: lockDir})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { m.Close() })
	return m
}

func (c *cable) open(t testing.TB) (a, b transport.Medium) {
	t.Helper()
	return open(t, c.a, c.dir), open(t, c.b, c.dir)
}

// TestContinue passes the line to a successor: what waits in the kernel is read,
// which a line that is opened anew would throw away.
func TestContinue(t *testing.T) {
	c := newCable(t)
	old, b := c.open(t)
	hearB := mediumtest.Listen(b)
	mediumtest.Exchange(t, old, hearB)
	in, ok, err := HandOver(old)
	if !ok || err != nil {
		t.Fatal(ok, err)
	}
	old.Close()
	waits := mediumtest.Packet(transport.FormatClassic, "waits", 300)
	if err := b.Send(waits); err != nil {
		t.Fatal(err)
	}
	for deadline := time.Now().Add(patience); ; time.Sleep(time.Millisecond) {
		n, err := unix.IoctlGetInt(int(c.slaves[0].Fd()), unix.TIOCINQ)
		if err != nil || time.Now().After(deadline) {
			t.Fatalf("%d bytes wait: %v", n, err)
		}
		if n >= len(waits) {
			break
		}
	}
	spec := Spec{Device: c.a, Baud: baud, LockDir: c.dir}
	next, err := Continue(spec, in)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { next.Close() })
	mediumtest.Expect(t, mediumtest.Listen(next), waits)
	mediumtest.Exchange(t, next, hearB)

	for name, spec := range map[string]Spec{"rate": {Device: c.a, Baud: 9600, LockDir: c.dir}, "device": {Device: c.b, Baud: baud, LockDir: c.dir}} {
		if l := continueLine(spec, in); l != nil {
			l.close()
			t.Errorf("a line with another %s was continued", name)
		}
	}
	in.File.Close()
}

func TestMedium(t *testing.T) {
	mediumtest.Run(t, 9000, func(t *testing.T) mediumtest.Ends {
		a, b := newCable(t).open(t)
		return mediumtest.Ends{A: a, B: b}
	})
}

// TestLineSettings: as heartbeat 3.0.6 sets a line up.
func TestLineSettings(t *testing.T) {
	for _, noFlowControl := range []bool{false, true} {
		t.Run(fmt.Sprintf("no flow control %t", noFlowControl), func(t *testing.T) {
			c := newCable(t)
			m, err := Open(Spec{Device: c.a, Baud: 57600, NoFlowControl: noFlowControl, LockDir: c.dir})
			if err != nil {
				t.Fatal(err)
			}
			defer m.Close()
			settings, err := unix.IoctlGetTermios(int(c.slaves[0].Fd()), unix.TCGETS)
			if err != nil {
				t.Fatal(err)
			}
			want := uint32(unix.CREAD | unix.CLOCAL | unix.HUPCL | unix.CS8 | unix.B57600)
			if !noFlowControl {
				want |= unix.CRTSCTS
			}
			if settings.Cflag != want {
				t.Errorf("control flags %#o, want %#o", settings.Cflag, want)
			}
			if want := uint32(unix.INPCK | unix.ISTRIP | unix.IGNCR | unix.BRKINT); settings.Iflag != want {
				t.Errorf("input flags %#o, want %#o", settings.Iflag, want)
			}
			if settings.Oflag != 0 || settings.Lflag != unix.NOFLSH {
				t.Errorf("output flags %#o, local flags %#o: want a raw line", settings.Oflag, settings.Lflag)
			}
		})
	}
}

// TestDamagedInput writes to the line by hand. Each damage is followed by whole
// messages; the first of them may be lost where its begin cannot be told, never
// more.
func TestDamagedInput(t *testing.T) {
	good := func(n int) string { return fmt.Sprintf(">>>\nt=status\nseq=%d\n<<<\n", n) }
	for _, test := range []struct{ name, damage string }{
		{"nothing", ""},
		{"carriage returns", ">>>\r\nt=x\r\n<<<\r\n"},
		{"noise", "\x00\xff\xfe&%$\r\n\x13\x11>>> no"},
		{"a message without end", ">>>\nt=status\n"},
		{"an end without message", "t=status\nseq=1\n<<<\n"},
		{"a message cut in a line", ">>>\nt=status\nse"},
		{"endless", ">>>\n" + strings.Repeat("x=y\n", 20000)},
	} {
		t.Run(test.name, func(t *testing.T) {
			c := newCable(t)
			b := open(t, c.b, c.dir)
			hear := mediumtest.Listen(b)
			writeRaw(t, c, test.damage+"\n")
			writeRaw(t, c, good(1)+good(2))
			mediumtest.Expect(t, hear, []byte(good(1)))
			mediumtest.Expect(t, hear, []byte(good(2)))
		})
	}
	t.Run("eighth bit and carriage returns", func(t *testing.T) {
		c := newCable(t)
		hear := mediumtest.Listen(open(t, c.b, c.dir))
		writeRaw(t, c, "\xbe\xbe\xbe\r\n\xf4=x\r\n<<\xbc\r\n")
		mediumtest.Expect(t, hear, []byte(">>>\nt=x\n<<<\n"))
	})
}

// writeRaw puts bytes onto the line towards b.
func writeRaw(t *testing.T, c *cable, text string) {
	t.Helper()
	if _, err := c.masterB.WriteString(text); err != nil {
		t.Fatal(err)
	}
}

func TestHangUp(t *testing.T) {
	c := newCable(t)
	a, b := c.open(t)
	hearA, hearB := mediumtest.Listen(a), mediumtest.Listen(b)
	mediumtest.Exchange(t, a, hearB)
	for range 2 {
		c.hangUp()
		waitFor(t, "Send says that the line is gone", func() bool {
			err := a.Send(mediumtest.Packet(a.Format(), "into the void", 100))
			return err != nil && strings.Contains(err.Error(), "serial "+c.a)
		})
		c.connect(t)
		mediumtest.Exchange(t, a, hearB)
		mediumtest.Exchange(t, b, hearA)
	}
	if n := a.(transport.Counted).Stats().Reopened; n < 2 {
		t.Errorf("reopened %d times, want 2", n)
	}
}

// TestHangUpInMessage: half a message from before does not swallow the first
// one after.
func TestHangUpInMessage(t *testing.T) {
	c := newCable(t)
	b := open(t, c.b, c.dir)
	hear := mediumtest.Listen(b)
	whole := []byte(">>>\nt=status\n<<<\n")
	writeRaw(t, c, string(whole)+">>>\nt=sta")
	mediumtest.Expect(t, hear, whole)
	c.hangUp()
	c.connect(t)
	waitFor(t, "the line is back", func() bool { return b.(transport.Counted).Stats().Reopened > 0 })
	writeRaw(t, c, string(whole))
	mediumtest.Expect(t, hear, whole)
}

// TestOldInput: what came while nobody listened was meant for a former life of
// the node and is not read; 3.0.6 drops it, too.
func TestOldInput(t *testing.T) {
	c := newCable(t)
	open(t, c.b, c.dir).Close() // the settings stay
	old, fresh := []byte(">>>\nt=old\n<<<\n"), []byte(">>>\nt=status\n<<<\n")
	writeRaw(t, c, string(old))
	waitFor(t, "the old message waits in the kernel", func() bool {
		n, err := unix.IoctlGetInt(int(c.slaves[1].Fd()), unix.TIOCINQ)
		return err == nil && n == len(old)
	})
	hear := mediumtest.Listen(open(t, c.b, c.dir))
	writeRaw(t, c, string(fresh))
	mediumtest.Expect(t, hear, fresh)
	if hear.Heard(old) != 0 {
		t.Error("a message was read that waited from before the line was opened")
	}
}

// TestHangUpUnread: without a reader it is the writer who notices.
func TestHangUpUnread(t *testing.T) {
	c := newCable(t)
	a, b := c.open(t)
	mediumtest.Exchange(t, a, mediumtest.Listen(b))
	c.hangUp()
	waitFor(t, "Send says that the line is gone", func() bool {
		return a.Send(mediumtest.Packet(a.Format(), "into the void", 100)) != nil
	})
}

func TestMissingAtOpen(t *testing.T) {
	c := newCable(t)
	c.hangUp()
	a := open(t, c.a, c.dir)
	if err := a.Send([]byte(">>>\n<<<\n")); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("Send without device: %v, want ENOENT", err)
	}
	hearA := mediumtest.Listen(a)
	c.connect(t)
	b := open(t, c.b, c.dir)
	mediumtest.Exchange(t, b, hearA)
	mediumtest.Exchange(t, a, mediumtest.Listen(b))
}

func waitFor(t *testing.T, what string, condition func() bool) {
	t.Helper()
	for deadline := time.Now().Add(patience); !condition(); time.Sleep(time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatalf("not seen: %s", what)
		}
	}
}

// TestNobodyReads: the other end takes nothing. Send does not wait, says so,
// queues no more than its few packets; Close is not held up; and when the other
// end reads again it finds whole messages, and fresh ones.
func TestNobodyReads(t *testing.T) {
	master, slave := openPTY(t)
	defer master.Close()
	defer slave.Close()
	a := open(t, slave.Name(), t.TempDir())
	sends := 0
	waitFor(t, "a stall", func() bool {
		sends++
		before := time.Now()
		err := a.Send(mediumtest.Packet(a.Format(), fmt.Sprintf("packet %d", sends), 1000))
		if took := time.Since(before); took > 10*time.Second {
			t.Fatalf("Send took %v", took)
		}
		return errors.Is(err, errStalled)
	})
	waitFor(t, "drops", func() bool {
		_ = a.Send(mediumtest.Packet(a.Format(), "more", 1000))
		return a.(transport.Counted).Stats().SendDrops > 2*queuePackets
	})

	// The other end wakes up.
	heard := make(chan []byte, 4096)
	go func() {
		buf := make([]byte, 4096)
		for {
			n, err := master.Read(buf)
			if err != nil {
				close(heard)
				return
			}
			heard <- bytes.Clone(buf[:n])
		}
	}()
	fresh := mediumtest.Packet(a.Format(), "fresh", 300)
	var stream []byte
	waitFor(t, "a whole message after the stall", func() bool {
		_ = a.Send(fresh)
		for {
			select {
			case piece := <-heard:
				stream = append(stream, piece...)
			default:
				return bytes.Contains(stream, append([]byte("\n"), fresh...))
			}
		}
	})
	// What was cut off must not hide the begin of the next.
	if at := regexp.MustCompile(`[^\n]>>>`).FindIndex(stream); at != nil {
		t.Errorf("a message begins in a line: %q", stream[max(at[0]-20, 0):at[1]])
	}
	waitFor(t, "the end of the stall", func() bool { return a.Send(fresh) == nil })
}

func TestCloseWhileStalled(t *testing.T) {
	master, slave := openPTY(t)
	defer master.Close()
	defer slave.Close()
	a := open(t, slave.Name(), t.TempDir())
	waitFor(t, "a stall", func() bool {
		return errors.Is(a.Send(mediumtest.Packet(a.Format(), "x", 1000)), errStalled)
	})
	closed := make(chan struct{})
	go func() {
		a.Close()
		close(closed)
	}()
	select {
	case <-closed:
	case <-time.After(patience):
		t.Fatal("Close hangs behind the write")
	}
}

// TestQueue: the oldest goes.
func TestQueue(t *testing.T) {
	m := &medium{queued: make(chan struct{}, 1), closed: make(chan struct{}), changed: make(chan struct{})}
	m.set(&line{}, nil)
	for n := range queuePackets + 3 {
		if err := m.Send([]byte{byte(n)}); err != nil {
			t.Fatal(err)
		}
	}
	for n := 3; n < queuePackets+3; n++ {
		if got := m.take([]byte("\n")); !bytes.Equal(got, []byte{'\n', byte(n)}) {
			t.Fatalf("took %q, want packet %d", got, n)
		}
	}
	if got := m.take(nil); got != nil {
		t.Errorf("took %q from an empty queue", got)
	}
	if n := m.Stats().SendDrops; n != 3 {
		t.Errorf("%d drops, want 3", n)
	}
	// What waited for a line that is gone is too old for the next one.
	if err := m.Send([]byte("old")); err != nil {
		t.Fatal(err)
	}
	m.set(nil, os.ErrClosed)
	m.set(&line{}, nil)
	if got := m.take(nil); got != nil {
		t.Errorf("took %q after the line came back", got)
	}
}

// TestPace: what is sent faster than the line carries does not pile up in the
// kernel, where it would grow old.
func TestPace(t *testing.T) {
	c := newCable(t)
	a, err := Open(Spec{Device: c.a, Baud: 9600, LockDir: c.dir})
	if err != nil {
		t.Fatal(err)
	}
	defer a.Close()
	b := open(t, c.b, c.dir)
	hear := mediumtest.Listen(b)
	packet := mediumtest.Packet(a.Format(), "paced", 480) // half a second
	start := time.Now()
	for hear.Heard(packet) < 3 {
		if err := a.Send(packet); err != nil {
			t.Fatal(err)
		}
		time.Sleep(time.Millisecond)
		if time.Since(start) > patience {
			t.Fatal("nothing heard")
		}
	}
	if took := time.Since(start); took < time.Second {
		t.Errorf("three half seconds of packets took %v", took)
	}
}

func TestLock(t *testing.T) {
	c := newCable(t)
	path := filepath.Join(c.dir, "LCK.."+lockID(c.a))
	own := fmt.Sprintf("%10d\n", os.Getpid())
	old := time.Now().Add(-time.Hour)
	for _, test := range []struct {
		name, lock string
		old, taken bool
	}{
		{"none", "", false, true},
		{"of this process, before it replaced its program", own, false, true},
		{"of a process that is gone", "   4194999\n", false, true},
		{"of a process that lives", "         1\n", false, false},
		{"being written", "", false, false},
		{"left without content", "", true, true},
		{"of no process", "        -1\n", true, true},
	} {
		t.Run(test.name, func(t *testing.T) {
			defer os.Remove(path)
			if test.name != "none" {
				if err := os.WriteFile(path, []byte(test.lock), 0o644); err != nil {
					t.Fatal(err)
				}
			}
			if test.old {
				if err := os.Chtimes(path, old, old); err != nil {
					t.Fatal(err)
				}
			}
			m := open(t, c.a, c.dir)
			err := m.Send([]byte(">>>\n<<<\n"))
			if (err == nil) != test.taken {
				t.Errorf("Send: %v, want the lock taken: %t", err, test.taken)
			}
			if text, _ := os.ReadFile(path); test.taken && string(text) != own {
				t.Errorf("lock %q, want %q", text, own)
			}
			m.Close()
			if _, err := os.Stat(path); errors.Is(err, os.ErrNotExist) != test.taken {
				t.Errorf("lock after Close: %v", err)
			}
			if drafts, _ := filepath.Glob(filepath.Join(c.dir, "LTMP.*")); len(drafts) != 0 {
				t.Errorf("left behind: %q", drafts)
			}
		})
	}
	t.Run("given up by its owner", func(t *testing.T) {
		if err := os.WriteFile(path, []byte("         1\n"), 0o644); err != nil {
			t.Fatal(err)
		}
		a, b := c.open(t)
		if err := a.Send([]byte("x")); err == nil || !strings.Contains(err.Error(), "locked by process 1 ") {
			t.Errorf("Send: %v", err)
		}
		if err := os.Remove(path); err != nil {
			t.Fatal(err)
		}
		mediumtest.Exchange(t, a, mediumtest.Listen(b))
	})
	t.Run("no directory", func(t *testing.T) {
		m := open(t, c.a, filepath.Join(c.dir, "none"))
		if err := m.Send([]byte(">>>\n<<<\n")); err != nil {
			t.Error(err)
		}
	})
}

func TestLockID(t *testing.T) {
	for device, want := range map[string]string{
		"/dev/ttyS0": "ttyS0", "/dev/ttyUSB1": "ttyUSB1", "/dev/pts/3": "pts_3", "/tmp/line": "tmp_line",
	} {
		if got := lockID(device); got != want {
			t.Errorf("%s: %s, want %s", device, got, want)
		}
	}
}

func TestOpenErrors(t *testing.T) {
	for _, test := range []struct {
		name, want string
		spec       Spec
	}{
		{"no full path", "not a full path", Spec{Device: "ttyS0", Baud: baud}},
		{"no baud rate", "baud rate 0", Spec{Device: "/dev/ttyS0"}},
	} {
		t.Run(test.name, func(t *testing.T) {
			if _, err := Open(test.spec); err == nil || !strings.Contains(err.Error(), test.want) {
				t.Errorf("error %v, want %q", err, test.want)
			}
		})
	}
	t.Run("not a terminal", func(t *testing.T) {
		m := open(t, "/dev/null", t.TempDir())
		if err := m.Send([]byte("x")); !errors.Is(err, unix.ENOTTY) {
			t.Errorf("Send: %v, want ENOTTY", err)
		}
	})
}

func TestBanner(t *testing.T) {
	m := &medium{spec: Spec{Device: "/dev/ttyS0", Baud: 19200}}
	want := "glib: Starting serial heartbeat on tty /dev/ttyS0 (19200 baud)"
	if got := m.Banner(); len(got) != 1 || got[0] != want {
		t.Errorf("%q, want %q", got, want)
	}
}

func BenchmarkSend(b *testing.B) {
	a, _ := newCable(b).open(b)
	packet := mediumtest.Packet(transport.FormatClassic, "bench", 306)
	b.ReportAllocs()
	for b.Loop() {
		if err := a.Send(packet); err != nil {
			b.Fatal(err)
		}
	}
}

// BenchmarkReceive is bound by the pty, not by the baud rate.
func BenchmarkReceive(b *testing.B) {
	c := newCable(b)
	m := open(b, c.b, c.dir)
	packet := mediumtest.Packet(transport.FormatClassic, "bench", 306)
	buf := make([]byte, transport.PacketBytesMax)
	b.ReportAllocs()
	for b.Loop() {
		if _, err := c.masterB.Write(packet); err != nil {
			b.Fatal(err)
		}
		if _, _, err := m.Receive(buf); err != nil {
			b.Fatal(err)
		}
	}
}
