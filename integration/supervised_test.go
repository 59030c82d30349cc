package integration

import (
	"fmt"
	"strconv"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"heartbeat/integration/lab"
)

// reborn waits until another daemon than the dead one says that nothing is
// pending.
func (c *cluster) reborn(n *lab.Node, dead string) {
	c.t.Helper()
	c.must(lab.Wait(c.t.Context(), limit, "another daemon than "+dead+" is settled on "+n.Name, func() (bool, string) {
		now := strings.TrimSpace(c.run(n, "cat", "/run/heartbeat.pid").Stdout)
		ok, why := c.on(n).Settled(c.t.Context(), n)
		return ok && now != dead, fmt.Sprintf("pid %s, %s", now, why)
	}))
}

// TestOwnerKilledAgainAndAgain: the owner's daemon is killed twenty times, at
// every age. It is there again each time before its peer misses it; the client
// sees nothing, and the program of a respawn line runs once.
func TestOwnerKilledAgainAndAgain(t *testing.T) {
	t.Parallel()
	cfg := calm()
	cfg.Deadtime, cfg.Initdead = 20*time.Second, 30*time.Second
	cfg.Extra = []string{"respawn nobody /bin/sleep 4713"}
	c := startCluster(t, both(), cfg)
	p, err := c.Probe(t.Context(), lab.ProbeOptions{Addrs: cfg.Addrs, Interval: 5 * time.Millisecond, Nodes: true})
	c.must(err)
	t0, kept := time.Now(), c.kept(c.N1, cfg)
	const kills = 20
	dead := ""
	for i := range kills {
		if dead != "" && i%2 == 0 { // every second one dies as soon as it has a pid
			c.reborn(c.N1, dead)
		}
		c.must(lab.Wait(t.Context(), limit, "there is another daemon", func() (bool, string) {
			now := strings.TrimSpace(c.run(c.N1, "cat", "/run/heartbeat.pid").Stdout)
			if now == dead || now == "" || c.run(c.N1, "kill", "-9", now).Code != 0 {
				return false, now
			}
			dead = now
			return true, ""
		}))
	}
	c.reborn(c.N1, dead)
	c.says(c.N2, "Heartbeat restart on node n1")
	c.settled()
	c.owns(c.N1, cfg.Addrs...)
	c.expect(c.N1, 0, "local\n", c.on(c.N1).Status, "rscstatus")
	if n := strings.Count(c.N1.Read("/var/log/ha-log"), "was killed by signal 9 (SIGKILL): starting it again"); n != kills {
		t.Errorf("the log tells of %d deaths, there were %d", n, kills)
	}
	c.must(lab.Wait(t.Context(), limit, "one program runs", func() (bool, string) {
		o := c.run(c.N1, "pgrep", "-c", "-f", "^/bin/sleep 4713")
		return o.Stdout == "1\n", o.Stdout
	}))
	res, err := p.Stop()
	c.must(err)
	if res.Owned("n2") != 0 || res.Dual() != 0 || c.deaths() != 0 {
		t.Errorf("n2 owned the address %d times, dual ownership %v, %d nodes declared dead", res.Owned("n2"), res.Dual(), c.deaths())
	}
	out := res.Outage(t0)
	t.Logf("%d kills in %v, the client's worst outage %v", kills, time.Since(t0).Round(time.Second), out.Worst)
	if out.Worst > silenceMax {
		t.Errorf("the client saw an outage of %v", out.Worst)
	}
	kept()
	m, err := c.N2.Memory()
	c.must(err)
	t.Logf("n2, which lived on: RSS %d kB, PSS %d kB in %d processes", m.RSS>>10, m.PSS>>10, m.Processes)
	c.must(c.on(c.N1).Stop(t.Context(), c.N1))
	c.nothingLeft(c.N1, cfg)
}

// TestKilledForTooLong: the owner's daemon is killed, and its supervisor cannot
// do anything about it before the other node has taken over. The daemon that
// comes then lets go of what it finds.
func TestKilledForTooLong(t *testing.T) {
	t.Parallel()
	cfg := calm()
	cfg.Failback = "off"
	c := startCluster(t, both(), cfg)
	above, err := strconv.Atoi(strings.TrimSpace(c.run(c.N1, "cat", "/run/heartbeat/supervisor").Stdout))
	c.must(err)
	c.run(c.N1, "kill", "-STOP", fmt.Sprint(above))
	dead := c.pid(c.N1)
	c.signal(c.N1, unix.SIGKILL)
	c.says(c.N2, "mach_down takeover complete for node n1.")
	c.run(c.N1, "kill", "-CONT", fmt.Sprint(above))
	c.reborn(c.N1, dead)
	c.owns(c.N2, cfg.Addrs...)
	c.expect(c.N1, 0, "none\n", c.on(c.N1).Status, "rscstatus")
	c.must(c.WaitAnswerer(t.Context(), c.N2, limit, cfg.Addrs[0]))
}
