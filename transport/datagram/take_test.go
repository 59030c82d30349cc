package datagram

import (
	"bytes"
	"fmt"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// TestTake: packets come in order, with the time of their arrival, and none that is
// too long; nothing is waited for.
func TestTake(t *testing.T) {
	s, err := NewUnwatched("test", unix.AF_INET, unix.SOCK_DGRAM, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	var to *unix.SockaddrInet4
	if err := s.Control(func(fd int) error {
		if err := unix.Bind(fd, &unix.SockaddrInet4{Addr: [4]byte{127, 0, 0, 1}}); err != nil {
			return err
		}
		local, err := unix.Getsockname(fd)
		to, _ = local.(*unix.SockaddrInet4)
		return err
	}); err != nil {
		t.Fatal(err)
	}
	none := func() {
		t.Helper()
		if packet, _, ok := s.Take(); ok {
			t.Errorf("there is %.20q", packet)
		}
	}
	// take is patient: on a busy machine a packet may be under way for a moment.
	take := func() (packet []byte, at time.Time, ok bool) {
		for deadline := time.Now().Add(30 * time.Second); time.Now().Before(deadline); {
			if packet, at, ok = s.Take(); ok {
				return packet, at, true
			}
		}
		return nil, time.Time{}, false
	}
	none()
	for count := range 3*takeAtOnce + 1 {
		before := time.Now()
		var want []string
		for i := range count {
			want = append(want, fmt.Sprintf("packet %d of %d", i, count))
			if i == 2 {
				if err := s.Send(make([]byte, TakeBytesMax+1), to); err != nil {
					t.Fatal(err)
				}
			}
			if err := s.Send([]byte(want[i]), to); err != nil {
				t.Fatal(err)
			}
		}
		for _, want := range want {
			packet, at, ok := take()
			if !ok || string(packet) != want {
				t.Fatalf("%q, %t; want %q", packet, ok, want)
			}
			// The stamp is of the wall clock, which is read beside ours.
			if at.Before(before.Add(-time.Second)) || at.After(time.Now().Add(time.Second)) {
				t.Errorf("%q arrived at %v, sent after %v", want, at, before)
			}
		}
		none()
	}
	long := bytes.Repeat([]byte("x"), TakeBytesMax)
	if err := s.Send(long, to); err != nil {
		t.Fatal(err)
	}
	if packet, _, ok := take(); !ok || !bytes.Equal(packet, long) {
		t.Errorf("the longest packet: %d bytes, %t", len(packet), ok)
	}
	none()
	short := []byte("packet")
	exchange := func() {
		if err := s.Send(short, to); err != nil {
			t.Fatal(err)
		}
		if _, _, ok := take(); !ok {
			t.Fatal("nothing came")
		}
		none()
	}
	if n := testing.AllocsPerRun(100, exchange); n != 0 {
		t.Errorf("%v allocations per packet", n)
	}
	s.Close()
	none()
}
