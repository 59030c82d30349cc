package integration

import (
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"heartbeat/integration/lab"
)

// TestRest: a node at rest wakes once per keepalive, for its own; on no medium does
// the other one's keepalive wake it, nor a copy of what it has sent itself.
func TestRest(t *testing.T) {
	t.Parallel()
	for name, media := range map[string][]string{
		"ucast": nil,
		"bcast": {"bcast " + lab.HeartbeatLink},
		"mcast": {"mcast " + lab.HeartbeatLink + " 239.0.0.77 694 1 1"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			cfg := calm()
			cfg.Keepalive, cfg.Media = 100*time.Millisecond, media
			c := startCluster(t, both(), cfg)
			c.owns(c.N1, cfg.Addrs...)
			c.settled()
			const window = 3 * time.Second
			// When the machine is busy, steps come late; that is news, which wakes.
			c.must(lab.Wait(t.Context(), limit, "n2 wakes once per keepalive", func() (bool, string) {
				before, err := switches(c.N2)
				if err != nil {
					return false, err.Error()
				}
				begun := time.Now()
				time.Sleep(window)
				after, err := switches(c.N2)
				if err != nil {
					return false, err.Error()
				}
				per := float64(after-before) / (float64(time.Since(begun)) / float64(cfg.Keepalive))
				return per < 1.4, fmt.Sprintf("%.2f times", per)
			}))
		})
	}
}

// switches is how often the threads of a node's daemon have gone to sleep.
func switches(n *lab.Node) (count int, err error) {
	list, err := n.Processes()
	if err != nil {
		return 0, err
	}
	for _, p := range list {
		if !strings.HasSuffix(strings.Fields(p.Command)[0], "heartbeat") {
			continue // the supervisor's title ends with a colon
		}
		threads, err := filepath.Glob(fmt.Sprintf("/proc/%d/task/*/status", p.PID))
		if err != nil {
			return 0, err
		}
		for _, thread := range threads {
			text, err := os.ReadFile(thread)
			if err != nil {
				continue // it has just ended
			}
			for line := range strings.Lines(string(text)) {
				if value, ok := strings.CutPrefix(line, "voluntary_ctxt_switches:"); ok {
					times, err := strconv.Atoi(strings.TrimSpace(value))
					if err != nil {
						return 0, err
					}
					count += times
				}
			}
		}
	}
	return count, nil
}
