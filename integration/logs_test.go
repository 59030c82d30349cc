package integration

import (
	"os"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"heartbeat/integration/lab"
)

// TestLogRotation: after the log was renamed, the daemon writes to a new file,
// at once when it is told by SIGHUP, and without a word too. No line is lost on
// the way, and nothing goes to the old file.
func TestLogRotation(t *testing.T) {
	t.Parallel()
	for _, told := range []bool{true, false} {
		name := "renamed only"
		if told {
			name = "renamed and told"
		}
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			cfg := calm()
			c := startCluster(t, both(), cfg)
			n := c.N1
			pid := c.pid(n)
			old := haLog + ".1"
			c.must(os.Rename(n.Path(haLog), n.Path(old)))
			if told {
				c.signal(n, unix.SIGHUP)
				c.says(n, "Configuration unchanged.")
			}
			size := len(n.Read(old))
			// What is logged next: a link's death and return, seconds later.
			c.must(c.Cut(lab.HeartbeatLink))
			c.says(n, "Link n2:eth1 dead.")
			for _, each := range c.Nodes() {
				c.says(each, "node "+each.Peer().Name+": is dead")
			}
			c.must(c.Heal(lab.HeartbeatLink))
			c.link(n, "eth1", "up")
			c.settled()
			if told && len(n.Read(old)) != size {
				t.Errorf("the old log grew after SIGHUP:\n%s", n.Read(old)[size:])
			}
			both := n.Read(old) + n.Read(haLog)
			for _, s := range []string{"heartbeat: version 3.0.6", "node n2: is dead", "Link n2:eth1 dead.", "Link n2:eth1 up."} {
				if !strings.Contains(both, s) {
					t.Errorf("neither file has %q", s)
				}
			}
			if st, err := os.Stat(n.Path(haLog)); err != nil || st.Mode().Perm() != 0o644 {
				t.Errorf("the new log: %v %v", st, err)
			}
			if now := c.pid(n); now != pid {
				t.Errorf("the process was %s and is %s", pid, now)
			}
		})
	}
}
