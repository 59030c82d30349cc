package integration

import (
	"fmt"
	"strings"
	"sync"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"heartbeat/integration/lab"
)

// TestStopBoth: both nodes are stopped at the same moment. Neither waits for
// the other, and nothing is left anywhere.
func TestStopBoth(t *testing.T) {
	t.Parallel()
	cfg := calm()
	c := startCluster(t, chosen(t), cfg)
	begun := time.Now()
	var wg sync.WaitGroup
	errs := make([]error, 2)
	for i, n := range c.Nodes() {
		wg.Go(func() { errs[i] = c.on(n).Stop(t.Context(), n) })
	}
	wg.Wait()
	for i, n := range c.Nodes() {
		c.must(errs[i])
		if *programs == "ours" {
			c.nothingLeft(n, cfg)
		}
	}
	t.Logf("both stopped within %v", time.Since(begun).Round(time.Millisecond))
	if c.deaths() != 0 {
		t.Error("a node was declared dead; both were stopped")
	}
}

// TestStopWhileScriptHangs: a script whose stop never ends is ended by its
// budget, said in the log, and the daemon does not stay for ever; nor does the
// script's process.
func TestStopWhileScriptHangs(t *testing.T) {
	t.Parallel()
	cfg := calm()
	cfg.Services = []string{"hang"}
	c := newCluster(t, both(), cfg)
	c.script("hang", marker+"[ \"$1\" = stop ] && sleep 100000\n[ \"$1\" = status ] && echo stopped\nexit 0\n")
	for _, n := range c.Nodes() {
		c.must(n.Write("/etc/ha.d/heartbeat.toml", "[scripts]\nstop = \"1s\"\n", 0o644))
	}
	c.startBoth(cfg)
	c.must(c.on(c.N1).Stop(t.Context(), c.N1))
	c.says(c.N1, "hang stop has been running for 100ms, its limit is 1s")
	c.says(c.N1, "ERROR: Return code 1 from /etc/ha.d/resource.d/hang")
	c.nothingLeft(c.N1, cfg)
	c.must(lab.Wait(t.Context(), limit, "nothing runs on n1", func() (bool, string) {
		list, err := c.N1.Processes()
		return err == nil && len(list) == 0, fmt.Sprint(list, err)
	}))
}

// TestPeerKilledDuringStandby: the peer is killed in the middle of a standby,
// before and after it has begun to start what it takes. The node that gave gets
// everything back.
func TestPeerKilledDuringStandby(t *testing.T) {
	t.Parallel()
	for _, when := range []struct{ name, wait string }{
		{"while the giver stops", "slow stop"},
		{"while the taker starts", "slow start"},
	} {
		t.Run(when.name, func(t *testing.T) {
			t.Parallel()
			cfg := calm()
			cfg.Services = []string{"slow"}
			c := newCluster(t, both(), cfg)
			// Each action waits for leave after the first start.
			c.script("slow", marker+`if [ "$1" = status ]; then [ -e /run/slow ] && echo running OK || echo stopped; exit 0; fi
[ -e /var/log/hold ] && until [ -e /var/log/go ]; do sleep 0.05; done
[ "$1" = start ] && touch /run/slow || rm -f /run/slow
exit 0
`)
			c.startBoth(cfg)
			victimWaits := c.N1
			if when.wait == "slow start" {
				victimWaits = c.N2
			}
			before := strings.Count(victimWaits.Read("/var/log/calls"), when.wait)
			c.must(victimWaits.Write("/var/log/hold", "", 0o644))
			if o := c.run(c.N1, c.on(c.N1).Standby, "all"); o.Code != 0 {
				t.Fatalf("hb_standby: %+v", o)
			}
			c.must(lab.Wait(t.Context(), limit, when.wait, func() (bool, string) {
				return strings.Count(victimWaits.Read("/var/log/calls"), when.wait) > before, victimWaits.Read("/var/log/calls")
			}))
			c.must(c.N2.Crash())
			c.says(c.N1, "WARN: node n2: is dead")
			c.must(c.N1.Write("/var/log/go", "", 0o644))
			c.owns(c.N1, cfg.Addrs...)
			c.settled()
			c.owns(c.N1, cfg.Addrs...)
			c.must(c.WaitAnswerer(t.Context(), c.N1, limit, cfg.Addrs[0]))
			c.expect(c.N1, 0, "running OK\n", "/etc/ha.d/resource.d/slow", "status")
			c.expect(c.N1, 0, "all\n", c.on(c.N1).Status, "rscstatus")

			// And the pair is whole again.
			c.must(c.N2.Boot(t.Context()))
			c.start(c.N2)
			c.says(c.N1, "Heartbeat restart on node n2")
			c.settled()
			c.owns(c.N1, cfg.Addrs...)
		})
	}
}

// TestQuickRestarts: a node is started and stopped again and again, stopped at
// every age, and killed now and then. Nothing is left over, and the pair works
// afterwards.
func TestQuickRestarts(t *testing.T) {
	t.Parallel()
	cfg := calm()
	c := newCluster(t, both(), cfg)
	c.start(c.N2)
	for i := range 10 {
		c.start(c.N1)
		if i%3 == 1 {
			c.must(c.keepalives(c.N1, 2))
		}
		if i%5 == 4 {
			if k, err := c.N1.Signal(unix.SIGKILL, "heartbeat"); err != nil || k == 0 {
				t.Fatalf("killed %d processes: %v", k, err)
			}
			c.ended(c.N1)
			continue
		}
		c.must(c.on(c.N1).Stop(t.Context(), c.N1))
		c.nothingLeft(c.N1, cfg)
	}
	o := c.run(c.N1, "sh", "-c", "ls -A /var/lib/heartbeat /run/heartbeat /run/heartbeat/rsctmp /run/lock")
	for _, word := range strings.Fields(o.Stdout) {
		if strings.HasPrefix(word, ".hb_") || strings.HasPrefix(word, "LTMP") || strings.HasPrefix(word, "LCK") {
			t.Errorf("%s is left over", word)
		}
	}
	c.start(c.N1)
	c.owns(c.N1, cfg.Addrs...)
	c.settled()
	c.becomes(c.N2, 0, "active\n", c.on(c.N2).Status, "nodestatus", "n1")
	c.must(c.WaitAnswerer(t.Context(), c.N1, limit, cfg.Addrs[0]))
}
