package datagram

import (
	"errors"
	"net"
	"os"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

func TestClampArrival(t *testing.T) {
	now := time.Now()
	for _, test := range []struct {
		name       string
		age, empty time.Duration // empty: how long ago the queue was seen empty
		want       time.Duration
	}{
		{"a moment ago", time.Millisecond, time.Second, time.Millisecond},
		{"read late", 20 * time.Second, 30 * time.Second, 20 * time.Second},
		{"wall clock stepped forwards", time.Hour, time.Second, time.Second},
		{"wall clock stepped backwards", -time.Hour, time.Second, 0},
	} {
		t.Run(test.name, func(t *testing.T) {
			if got := now.Sub(clampArrival(now, test.age, now.Add(-test.empty))); got != test.want {
				t.Errorf("arrived %v ago, want %v", got, test.want)
			}
		})
	}
	t.Run("never seen empty", func(t *testing.T) {
		if got := now.Sub(clampArrival(now, time.Hour, time.Time{})); got != time.Hour {
			t.Errorf("arrived %v ago, want an hour", got)
		}
	})
}

func newLoopback(t *testing.T) (*Socket, *unix.SockaddrInet4) {
	t.Helper()
	s, err := New("test", unix.AF_INET, unix.SOCK_DGRAM, 0)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { s.Close() })
	var local unix.Sockaddr
	if err := s.Control(func(fd int) (err error) {
		if err = unix.Bind(fd, &unix.SockaddrInet4{Addr: [4]byte{127, 0, 0, 1}}); err == nil {
			local, err = unix.Getsockname(fd)
		}
		return err
	}); err != nil {
		t.Fatal(err)
	}
	return s, local.(*unix.SockaddrInet4)
}

func TestTooLong(t *testing.T) {
	s, to := newLoopback(t)
	for _, packet := range []string{"too long", "fits"} {
		if err := s.Send([]byte(packet), to); err != nil {
			t.Fatal(err)
		}
	}
	buf := make([]byte, 4)
	if _, _, err := s.Receive(buf); !errors.Is(err, ErrTooLong) {
		t.Errorf("first: %v, want ErrTooLong", err)
	}
	if n, _, err := s.Receive(buf); err != nil || string(buf[:n]) != "fits" {
		t.Errorf("second: %q, %v", buf[:n], err)
	}
}

func TestInterrupt(t *testing.T) {
	s, to := newLoopback(t)
	result := make(chan error)
	go func() {
		_, _, err := s.Receive(make([]byte, 10))
		result <- err
	}()
	s.Interrupt()
	if err := <-result; !errors.Is(err, os.ErrDeadlineExceeded) {
		t.Errorf("interrupted: %v", err)
	}
	s.Resume()
	if err := s.Send([]byte("x"), to); err != nil {
		t.Fatal(err)
	}
	if _, _, err := s.Receive(make([]byte, 10)); err != nil {
		t.Errorf("resumed: %v", err)
	}
}

// TestErrors: a failing socket does not spin, and Close ends the pause.
func TestErrors(t *testing.T) {
	s, to := newLoopback(t)
	if err := s.Control(func(fd int) error { return unix.SetsockoptInt(fd, unix.IPPROTO_IP, unix.IP_RECVERR, 1) }); err != nil {
		t.Fatal(err)
	}
	gone, goneAddr := newLoopback(t)
	gone.Close()
	if err := s.Send([]byte("x"), goneAddr); err != nil {
		t.Fatal(err)
	}
	start := time.Now()
	if _, _, err := s.Receive(make([]byte, 10)); !errors.Is(err, unix.ECONNREFUSED) {
		t.Errorf("receive: %v, want ECONNREFUSED", err)
	}
	if pause := time.Since(start); pause < errorPause {
		t.Errorf("returned after %v, want at least %v", pause, errorPause)
	}
	if err := s.Close(); err != nil {
		t.Error(err)
	}
	if err := s.Send([]byte("x"), to); !errors.Is(err, net.ErrClosed) {
		t.Errorf("send after close: %v", err)
	}
	if _, _, err := s.Receive(make([]byte, 10)); !errors.Is(err, net.ErrClosed) {
		t.Errorf("receive after close: %v", err)
	}
}
