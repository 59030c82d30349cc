package node

import (
	"net"
	"os"
	"strconv"
	"time"
)

// Notifier tells systemd how the daemon is (sd_notify(3)). Without systemd it
// does nothing. A socket that systemd does not read must not stop the loop, so
// states go through a goroutine; one that does not fit in is dropped.
type Notifier struct {
	states chan string
	// watchdog is how often the loop shows that it lives; 0: nobody asks.
	watchdog time.Duration
	fed      time.Duration
}

// notifyEnv are the variables of sd_notify. Scripts must not inherit them: a
// service they start would report to systemd in our name.
var notifyEnv = []string{"NOTIFY_SOCKET", "WATCHDOG_USEC", "WATCHDOG_PID"}

// StartNotifier reads NOTIFY_SOCKET and WATCHDOG_USEC and takes them out of
// the environment; env gives them back for an exec of the daemon itself. It is
// nil without systemd. Its goroutine lives as long as the process.
func StartNotifier() (n *Notifier, env []string) {
	values := make(map[string]string)
	for _, name := range notifyEnv {
		if v, ok := os.LookupEnv(name); ok {
			values[name] = v
			env = append(env, name+"="+v)
			_ = os.Unsetenv(name) // fails for impossible names only
		}
	}
	if values["NOTIFY_SOCKET"] == "" {
		return nil, nil
	}
	n = &Notifier{states: make(chan string, 8)}
	usec, err := strconv.ParseInt(values["WATCHDOG_USEC"], 10, 64)
	if pid := values["WATCHDOG_PID"]; err == nil && usec > 0 && (pid == "" || pid == strconv.Itoa(os.Getpid())) {
		n.watchdog = time.Duration(usec) * time.Microsecond / 3
	}
	go func() {
		for s := range n.states {
			conn, err := net.DialUnix("unixgram", nil, &net.UnixAddr{Name: values["NOTIFY_SOCKET"], Net: "unixgram"})
			if err != nil {
				continue // what cannot be told to systemd cannot be told to anybody
			}
			_ = conn.SetWriteDeadline(time.Now().Add(time.Second))
			_, _ = conn.Write([]byte(s))
			_ = conn.Close()
		}
	}()
	return n, env
}

func (n *Notifier) send(state string) {
	if n == nil {
		return
	}
	select {
	case n.states <- state:
	default:
	}
}

// Ready reports that the node runs.
func (n *Notifier) Ready() { n.send("READY=1") }

// Stopping reports that it ends.
func (n *Notifier) Stopping() { n.send("STOPPING=1") }

// Reloading reports a reload that begins now; mono is CLOCK_MONOTONIC.
func (n *Notifier) Reloading(mono time.Duration) {
	n.send("RELOADING=1\nMONOTONIC_USEC=" + strconv.FormatInt(mono.Microseconds(), 10))
}

// feed shows systemd's watchdog that the loop goes round, no oftener than
// needed.
func (n *Notifier) feed(now time.Duration) {
	if n == nil || n.watchdog == 0 || n.fed != 0 && now-n.fed < n.watchdog {
		return
	}
	n.fed = now
	n.send("WATCHDOG=1")
}

// next is when the loop should come round to feed; false when never.
func (n *Notifier) next() (time.Duration, bool) {
	if n == nil || n.watchdog == 0 {
		return 0, false
	}
	return n.fed + n.watchdog, true
}
