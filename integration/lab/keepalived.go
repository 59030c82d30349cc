package lab

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"strings"
	"time"
)

// Keepalived drives keepalived as a VRRP pair: unicast adverts on the
// heartbeat link, addresses on the service LAN. A planned switch lowers the
// owner's priority through a tracked file.
type Keepalived struct {
	// Realtime gives it a real-time priority and locked memory, which it needs
	// for advert intervals below 200 ms.
	Realtime bool
}

const keepalivedPath = "/usr/sbin/keepalived"

// keepalivedDir is on the node's disk; the configuration lives there.
const keepalivedDir = "/etc/ha.d/keepalived"

// Name implements Driver.
func (k *Keepalived) Name() string { return "keepalived" }

// Check implements Driver.
func (k *Keepalived) Check() error {
	if _, err := os.Stat(keepalivedPath); err != nil {
		return fmt.Errorf("keepalived needs %s, which is not there: apt-get install keepalived", keepalivedPath)
	}
	return nil
}

// Version implements Driver.
func (k *Keepalived) Version() string {
	out, _ := exec.Command(keepalivedPath, "--version").CombinedOutput()
	v, _, _ := strings.Cut(string(out), "\n")
	return v
}

// Configure implements Driver. Deadtime has no place here: VRRP fixes it.
func (k *Keepalived) Configure(n *Node, c Cluster) error {
	priority := map[string]int{"n1": 150, "n2": 100}[n.Name]
	var b strings.Builder
	p := func(format string, args ...any) { fmt.Fprintf(&b, format+"\n", args...) }
	p("global_defs {\n router_id %s", n.Name)
	if k.Realtime {
		p(" vrrp_rt_priority 50\n vrrp_rlimit_rttime 1000000\n vrrp_no_swap")
	}
	p("}\ntrack_file adm {\n file %s/weight\n weight 1\n}", keepalivedDir)
	p("vrrp_instance V1 {\n version 3\n state BACKUP\n interface eth1\n virtual_router_id 51\n priority %d", priority)
	p(" advert_int %.3f", c.Keepalive.Seconds())
	if c.Failback == "off" {
		p(" nopreempt")
	}
	p(" unicast_src_ip %s\n unicast_peer {\n  %s\n }", n.Addr(HeartbeatLink), n.Peer().Addr(HeartbeatLink))
	p(" track_file {\n  adm\n }\n virtual_ipaddress {\n  %s/16 dev eth0\n }", c.Addrs[0])
	if len(c.Addrs) > 1 {
		p(" virtual_ipaddress_excluded {")
		for _, a := range c.Addrs[1:] {
			p("  %s/16 dev eth0", a)
		}
		p(" }")
	}
	p("}")
	if err := n.Write(keepalivedDir+"/keepalived.conf", b.String(), 0o644); err != nil {
		return err
	}
	return k.weigh(n, 0)
}

// weigh writes what is added to the node's priority.
func (k *Keepalived) weigh(n *Node, w int) error {
	return n.Write(keepalivedDir+"/weight", fmt.Sprintln(w), 0o644)
}

// Start implements Driver. The log is the terse one: with -D keepalived logs
// each announcement, and with hundreds of addresses starves itself by that.
func (k *Keepalived) Start(_ context.Context, n *Node) error {
	if err := k.weigh(n, 0); err != nil {
		return err
	}
	return n.Start(k.Log(), keepalivedPath, "-n", "-l", "-f", keepalivedDir+"/keepalived.conf", "-p", "/run/ka.pid", "-r", "/run/ka-vrrp.pid")
}

// Stop implements Driver.
func (k *Keepalived) Stop(ctx context.Context, n *Node) error {
	ctx, cancel := context.WithTimeout(ctx, time.Minute)
	defer cancel()
	o, err := n.Run(ctx, "sh", "-c", "p=$(cat /run/ka.pid) && kill -TERM $p && while kill -0 $p 2>/dev/null; do sleep 0.01; done")
	if err == nil && o.Code != 0 {
		err = fmt.Errorf("stop keepalived on %s: exit code %d: %s", n.Name, o.Code, o.Stderr)
	}
	return err
}

// SwitchOver implements Driver: 150 becomes 50, less than the backup's 100.
func (k *Keepalived) SwitchOver(_ context.Context, owner *Node) error { return k.weigh(owner, -100) }

// SwitchBack implements Driver: the preferred node gets its priority back.
func (k *Keepalived) SwitchBack(_ context.Context, owner *Node) error {
	return k.weigh(owner.Peer(), 0)
}

// Settled implements Driver: keepalived has no transition that would show.
func (k *Keepalived) Settled(context.Context, *Node) (bool, string) { return true, "" }

// Detection implements Driver: three adverts and the backup's skew
// (RFC 5798, section 6.1, with the backup's priority 100).
func (k *Keepalived) Detection(c Cluster) time.Duration {
	return 3*c.Keepalive + c.Keepalive*(256-100)/256
}

// Keepalive implements Driver: VRRP.
func (k *Keepalived) Keepalive(f []byte) bool { return ipv4(f, 112) != nil }

// PeerDeaths implements Driver. It cannot tell a death from other reasons to
// become master; on the standby node and without orders there is no other.
func (k *Keepalived) PeerDeaths(n *Node) int {
	if n.Name == "n1" {
		return 0
	}
	return strings.Count(n.Read(k.Log()), "Entering MASTER STATE")
}

// Log implements Driver.
func (k *Keepalived) Log() string { return "/var/log/keepalived.log" }
