package lab

import (
	"context"
	"encoding/binary"
	"fmt"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"time"
)

// Driver runs one program as a cluster on the nodes of a lab. Faults, probing
// and observation are the lab's and the same for every program.
type Driver interface {
	// Name is "ours", "heartbeat" or "keepalived".
	Name() string
	// Check says what is missing on this machine, in a sentence.
	Check() error
	// Version is the program's own word.
	Version() string
	// Configure writes the program's files on a node.
	Configure(n *Node, c Cluster) error
	// Start starts the program on a node and returns when it is in the
	// background.
	Start(ctx context.Context, n *Node) error
	// Stop ends it cleanly and returns when it is gone.
	Stop(ctx context.Context, n *Node) error
	// SwitchOver orders the owner to hand everything to its peer; it returns
	// when the order is given.
	SwitchOver(ctx context.Context, owner *Node) error
	// SwitchBack undoes SwitchOver: owner hands everything back.
	SwitchBack(ctx context.Context, owner *Node) error
	// Settled reports whether no change is under way on a node; else why not.
	Settled(ctx context.Context, n *Node) (bool, string)
	// Detection is the silence after which this program declares a peer dead.
	Detection(c Cluster) time.Duration
	// Keepalive says whether a frame is one of the program's keepalives.
	Keepalive(frame []byte) bool
	// PeerDeaths counts how often the node's log declared its peer dead.
	PeerDeaths(n *Node) int
	// Log is the program's log file, as the node sees it.
	Log() string
}

// Cluster is what to configure. n1 is the preferred owner.
type Cluster struct {
	Keepalive, Deadtime time.Duration
	// Warntime and Initdead are three quarters and twice of Deadtime (but 3 s
	// at least) when zero.
	Warntime, Initdead time.Duration
	// Media are lines of ha.cf; none: unicast on the heartbeat link.
	Media []string
	// Failback is the value of auto_failback; "" is on.
	Failback string
	// Extra are more lines of ha.cf.
	Extra []string
	// Addrs are the service addresses of n1's group, and Services what follows
	// them in the line.
	Addrs    []netip.Addr
	Services []string
	// Script is the address's resource script; "" is IPaddr2.
	Script string
	// Haresources replaces the line made of the three above.
	Haresources string
	// Authkeys replaces the file, which otherwise has one sha1 key.
	Authkeys string
}

// span writes a time as ha.cf has it: whole seconds without a unit.
func span(d time.Duration) string {
	if d%time.Second == 0 {
		return fmt.Sprint(int(d / time.Second))
	}
	return fmt.Sprintf("%dms", d.Milliseconds())
}

// HaCf is the cluster's ha.cf.
func (c Cluster) HaCf() string {
	warn, init, failback, media := c.Warntime, c.Initdead, c.Failback, c.Media
	if warn == 0 {
		warn = c.Deadtime * 3 / 4
	}
	if init == 0 {
		init = max(2*c.Deadtime, 3*time.Second)
	}
	if failback == "" {
		failback = "on"
	}
	if media == nil {
		media = []string{"ucast eth1 10.78.0.1", "ucast eth1 10.78.0.2"}
	}
	lines := []string{"logfile /var/log/ha-log", "debugfile /var/log/ha-debug", "logfacility none",
		"keepalive " + span(c.Keepalive), "deadtime " + span(c.Deadtime), "warntime " + span(warn), "initdead " + span(init), "udpport 694"}
	lines = append(lines, media...)
	lines = append(lines, "auto_failback "+failback, "node n1 n2")
	lines = append(lines, c.Extra...)
	return strings.Join(lines, "\n") + "\n"
}

// HaResources is the cluster's file of that name.
func (c Cluster) HaResources() string {
	if c.Haresources != "" {
		return c.Haresources
	}
	script := c.Script
	if script == "" {
		script = "IPaddr2"
	}
	var b strings.Builder
	b.WriteString("n1")
	for i, a := range c.Addrs {
		if i > 0 {
			b.WriteString(" \\\n ")
		}
		fmt.Fprintf(&b, " %s::%s/16/eth0", script, a)
	}
	for _, s := range c.Services {
		b.WriteString(" " + s)
	}
	return b.String() + "\n"
}

// AuthKeys is the cluster's file authkeys.
func (c Cluster) AuthKeys() string {
	if c.Authkeys != "" {
		return c.Authkeys
	}
	return "auth 1\n1 sha1 laboratory\n"
}

// Heartbeat drives heartbeat 3.0.6 and anything with its files and commands.
type Heartbeat struct {
	name string
	// The programs, as paths or as a path and first arguments.
	Daemon, Standby, Takeover, Status string
	// skeleton is copied to a node's /etc/ha.d before the three files.
	skeleton string
	hint     string
}

// Original is heartbeat 3.0.6 as Debian installs it.
func Original() *Heartbeat {
	return &Heartbeat{name: "heartbeat", Daemon: "/usr/libexec/heartbeat/heartbeat",
		Standby: "/usr/share/heartbeat/hb_standby", Takeover: "/usr/share/heartbeat/hb_takeover", Status: "/usr/bin/cl_status",
		skeleton: "/etc/ha.d", hint: "apt-get install heartbeat resource-agents"}
}

// Ours is this project's program, built into a directory by Build.
func Ours(dir string) *Heartbeat {
	return &Heartbeat{name: "ours", Daemon: filepath.Join(dir, "heartbeat"), Standby: filepath.Join(dir, "hb_standby"),
		Takeover: filepath.Join(dir, "hb_takeover"), Status: filepath.Join(dir, "cl_status"), hint: "build it with lab.Build"}
}

// Hbctl is the operator command of this project's program.
func (h *Heartbeat) Hbctl() string { return filepath.Join(filepath.Dir(h.Daemon), "hbctl") }

// Build compiles this project's programs into dir, with hbctl's other names
// beside it.
func Build(ctx context.Context, dir string) error {
	root, err := exec.CommandContext(ctx, "go", "env", "GOMOD").Output()
	if err != nil {
		return fmt.Errorf("find the module: %w", err)
	}
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return err
	}
	cmd := exec.CommandContext(ctx, "go", "build", "-o", dir+"/", "./cmd/...")
	cmd.Dir = filepath.Dir(strings.TrimSpace(string(root)))
	cmd.Env = append(os.Environ(), "CGO_ENABLED=0")
	if out, err := cmd.CombinedOutput(); err != nil {
		return fmt.Errorf("build the programs: %w\n%s", err, out)
	}
	for _, name := range []string{"hb_standby", "hb_takeover", "cl_status"} {
		p := filepath.Join(dir, name)
		if _, err := os.Lstat(p); err == nil {
			continue
		}
		if err := os.Symlink("hbctl", p); err != nil {
			return err
		}
	}
	return nil
}

// Name implements Driver.
func (h *Heartbeat) Name() string { return h.name }

// Check implements Driver.
func (h *Heartbeat) Check() error {
	for _, p := range []string{h.Daemon, h.Standby, h.Takeover, h.Status} {
		if st, err := os.Stat(p); err != nil || st.Mode()&0o111 == 0 {
			return fmt.Errorf("%s needs %s, which is not there: %s", h.name, p, h.hint)
		}
	}
	return nil
}

// Version implements Driver.
func (h *Heartbeat) Version() string {
	out, _ := exec.Command(h.Daemon, "-V").CombinedOutput()
	v, _, _ := strings.Cut(strings.TrimSpace(string(out)), "\n")
	return v
}

// Configure implements Driver.
func (h *Heartbeat) Configure(n *Node, c Cluster) error {
	if h.skeleton != "" {
		if _, err := os.Stat(n.Path("/etc/ha.d/shellfuncs")); err != nil {
			if err := os.CopyFS(n.Path("/etc/ha.d"), os.DirFS(h.skeleton)); err != nil {
				return fmt.Errorf("copy %s: %w", h.skeleton, err)
			}
		}
	}
	// The cores directory is part of the package too; without it the original
	// complains at every start.
	if err := os.MkdirAll(n.Path("/var/lib/heartbeat/cores/root"), 0o755); err != nil {
		return err
	}
	for name, text := range map[string]string{"ha.cf": c.HaCf(), "haresources": c.HaResources(), "authkeys": c.AuthKeys()} {
		if err := n.Write("/etc/ha.d/"+name, text, 0o600); err != nil {
			return err
		}
	}
	return nil
}

const commandLimit = 10 * time.Minute // stopping 500 addresses by shell scripts takes minutes

// Run runs one of the program's commands on a node; a non-zero exit code is an
// error with the output in it.
func (h *Heartbeat) Run(ctx context.Context, n *Node, argv ...string) (string, error) {
	ctx, cancel := context.WithTimeout(ctx, commandLimit)
	defer cancel()
	o, err := n.Run(ctx, argv...)
	if err == nil && o.Code != 0 {
		err = fmt.Errorf("%s on %s: exit code %d: %s", strings.Join(argv, " "), n.Name, o.Code, strings.TrimSpace(o.Stderr+o.Stdout))
	}
	return o.Stdout, err
}

// Start implements Driver.
func (h *Heartbeat) Start(ctx context.Context, n *Node) error {
	_, err := h.Run(ctx, n, h.Daemon)
	return err
}

// Stop implements Driver.
func (h *Heartbeat) Stop(ctx context.Context, n *Node) error {
	_, err := h.Run(ctx, n, h.Daemon, "-k")
	return err
}

// SwitchOver implements Driver.
func (h *Heartbeat) SwitchOver(ctx context.Context, owner *Node) error {
	_, err := h.Run(ctx, owner, h.Standby, "all")
	return err
}

// SwitchBack implements Driver.
func (h *Heartbeat) SwitchBack(ctx context.Context, owner *Node) error {
	return h.SwitchOver(ctx, owner)
}

// Settled implements Driver.
func (h *Heartbeat) Settled(ctx context.Context, n *Node) (bool, string) {
	ctx, cancel := context.WithTimeout(ctx, 10*time.Second)
	defer cancel()
	o, err := n.Run(ctx, h.Status, "rscstatus")
	if err != nil {
		return false, err.Error()
	}
	word := strings.TrimSpace(o.Stdout)
	return o.Code == 0 && word != "" && word != "transition", fmt.Sprintf("rscstatus of %s: %q %s", n.Name, word, strings.TrimSpace(o.Stderr))
}

// Detection implements Driver.
func (h *Heartbeat) Detection(c Cluster) time.Duration { return c.Deadtime }

// Keepalive implements Driver: UDP to port 694.
func (h *Heartbeat) Keepalive(f []byte) bool {
	p := ipv4(f, 17)
	return len(p) >= 8 && binary.BigEndian.Uint16(p[2:]) == 694
}

// PeerDeaths implements Driver.
func (h *Heartbeat) PeerDeaths(n *Node) int {
	return strings.Count(n.Read(h.Log()), "node "+n.Peer().Name+": is dead")
}

// Log implements Driver.
func (h *Heartbeat) Log() string { return "/var/log/ha-log" }

// ipv4 is the payload of a frame that carries IPv4 with a protocol, or nil.
func ipv4(f []byte, protocol byte) []byte {
	if len(f) < 34 || f[12] != 8 || f[13] != 0 || f[23] != protocol {
		return nil
	}
	if hl := int(f[14]&0xf) * 4; len(f) > 14+hl {
		return f[14+hl:]
	}
	return nil
}
