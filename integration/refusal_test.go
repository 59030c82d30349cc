package integration

import (
	"os"
	"strings"
	"testing"

	"heartbeat/integration/lab"
)

// nothingLeft checks that a start that was refused left nothing behind: no
// process, no pid file, no control socket, no address.
func (c *cluster) nothingLeft(n *lab.Node, cfg lab.Cluster) {
	c.t.Helper()
	for _, a := range cfg.Addrs {
		if n.Holds(a) { // first: an address with a lifetime goes by itself
			c.t.Errorf("%s holds %s", n.Name, a)
		}
	}
	c.ended(n)
	for _, path := range []string{"/run/heartbeat.pid", "/run/heartbeat/control.sock"} {
		if o := c.run(n, "test", "-e", path); o.Code == 0 {
			c.t.Errorf("%s remains on %s", path, n.Name)
		}
	}
	if o := c.run(n, c.on(n).Daemon, "-s"); o.Code != 3 || o.Stdout != "heartbeat is stopped. No process\n" {
		c.t.Errorf("heartbeat -s on %s: %+v", n.Name, o)
	}
}

// TestRefusedStart: a start that cannot succeed ends with the original's exit
// code and sentence, says in our own words what is wrong and where, and leaves
// nothing behind. Once the cause is gone the same node starts.
func TestRefusedStart(t *testing.T) {
	t.Parallel()
	cfg := calm()
	c := newCluster(t, both(), cfg)
	n := c.N1
	fill := "mount -t tmpfs -o size=64k tmpfs /var/lib/heartbeat && { head -c 100000 /dev/zero >/var/lib/heartbeat/filler; df /var/lib/heartbeat | grep -q 100%; }"
	for _, f := range []struct {
		name string
		// Exactly one of these makes the start impossible.
		file, content string
		shell, undo   string
		code          int
		say           []string // on stderr
	}{
		{name: "unknown node in haresources", file: "haresources", content: "node9 IPaddr2::10.77.4.1/16/eth0\n", code: 6,
			say: []string{"ERROR: Bad nodename in /etc/ha.d//haresources [node9]", "ERROR: Configuration error, heartbeat not started.", "haresources:1:1: "}},
		{name: "no such interface", file: "ha.cf", content: cfg.HaCf() + "bcast eth7\n", code: 6,
			say: []string{"ERROR: glib: Get broadcast for interface eth7 failed: No such device", "ERROR: glib: IP interface [eth7] does not exist",
				"ERROR: Illegal bcast [UDP/IP broadcast] in config file [eth7]", "ERROR: Configuration error, heartbeat not started."}},
		{name: "unknown directive", file: "ha.cf", content: cfg.HaCf() + "deadtme 3\n", code: 6, say: []string{"deadtme", "deadtime"}},
		{name: "no auth line", file: "authkeys", content: "1 sha1 laboratory\n", code: 6,
			say: []string{"ERROR: Missing auth directive in keyfile [/etc/ha.d//authkeys]", "ERROR: Authentication configuration error."}},
		{name: "no such key", file: "authkeys", content: "auth 2\n1 sha1 laboratory\n", code: 6,
			say: []string{"ERROR: Auth Key [2] not found in keyfile [/etc/ha.d//authkeys]", "ERROR: Authentication configuration error."}},
		{name: "no key file", shell: "mv /etc/ha.d/authkeys /etc/ha.d/gone", undo: "mv /etc/ha.d/gone /etc/ha.d/authkeys", code: 6,
			say: []string{"ERROR: Cannot open keyfile [/etc/ha.d//authkeys].  Stop."}},
		{name: "state directory cannot be written", shell: "mount -t tmpfs -o ro tmpfs /var/lib/heartbeat", undo: "umount /var/lib/heartbeat", code: 1,
			say: []string{"ERROR: heartbeat not started: ", "/var/lib/heartbeat", "read-only file system"}},
		{name: "disk full under the state directory", shell: fill, undo: "umount /var/lib/heartbeat", code: 1,
			say: []string{"ERROR: heartbeat not started: ", "/var/lib/heartbeat", "no space left on device"}},
	} {
		t.Run(f.name, func(t *testing.T) {
			c := &cluster{Lab: c.Lab, t: t, pair: c.pair}
			var before []byte
			if f.file != "" {
				var err error
				before, err = os.ReadFile(n.Path("/etc/ha.d/" + f.file))
				c.must(err)
				c.must(n.Write("/etc/ha.d/"+f.file, f.content, 0o600))
			} else if o := c.run(n, "sh", "-c", f.shell); o.Code != 0 {
				t.Fatalf("%s: %+v", f.shell, o)
			}
			o := c.run(n, c.on(n).Daemon)
			if o.Code != f.code {
				t.Errorf("exit code %d, want %d", o.Code, f.code)
			}
			for _, s := range f.say {
				if !strings.Contains(o.Stderr, s) {
					t.Errorf("nothing says %q", s)
				}
			}
			c.nothingLeft(n, cfg)
			if t.Failed() {
				t.Logf("stderr: %s", o.Stderr)
			}
			if f.file != "" {
				c.must(n.Write("/etc/ha.d/"+f.file, string(before), 0o600))
			} else if o := c.run(n, "sh", "-c", f.undo); o.Code != 0 {
				t.Fatalf("%s: %+v", f.undo, o)
			}
		})
	}
	c.startBoth(cfg)
}
