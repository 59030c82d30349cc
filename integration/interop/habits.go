package interop

import (
	"errors"
	"fmt"
	"strings"
	"time"

	"heartbeat/integration/lab"
)

// slow is a resource that takes its time, so that something can happen
// meanwhile.
const slow = `#!/bin/sh
case "$1" in
start) sleep 2; touch /run/slow ;;
stop) sleep 2; rm -f /run/slow ;;
status) if [ -e /run/slow ]; then echo running; else echo stopped; fi ;;
esac
`

func withSlow(n *lab.Node) error { return n.Write("/etc/ha.d/resource.d/slow", slow, 0o755) }

// overlapping asks for a standby while another one is under way: it is
// refused, whoever asks.
func overlapping(r *Run) {
	r.cold()
	for _, m := range []struct {
		first, second *lab.Node
		owners        Owners
	}{{r.N1, r.N2, allN2}, {r.N2, r.N1, allN1}} {
		r.act(fmt.Sprintf("%s: hb_standby all during %s: hb_standby local", m.second.Name, m.first.Name), m.owners, func() {
			r.standby(m.first, "local")
			r.says(m.second, m.first.Name+" wants to go standby [local]")
			r.do(func() error {
				o, err := m.second.Run(r.ctx, r.on[index(m.second)].Standby, "all")
				if ours := r.on[index(m.second)] == r.progs.Ours; err == nil && ours != (o.Code != 0) {
					err = fmt.Errorf("hb_standby all on %s ended with %d: 3.0.6 never knows, ours must", m.second.Name, o.Code)
				}
				return err
			})
			if r.on[index(m.second)] != r.progs.Ours {
				r.says(m.second, "new request from "+m.second.Name+" ignored")
			}
		})
		r.act(m.first.Name+": hb_takeover local", home, func() { r.takeover(m.first, "local") })
	}
}

// reload changes the files of a running pair, one node after the other.
func reload(r *Run) {
	r.cold()
	for i, n := range r.Nodes() {
		r.act(n.Name+": ha.cf changed, heartbeat -r", home, func() {
			r.do(func() error {
				text := strings.Replace(n.Read("/etc/ha.d/ha.cf"), "deadtime 4\n", "deadtime 5\n", 1)
				return n.Write("/etc/ha.d/ha.cf", text, 0o600)
			})
			r.order(n, r.on[i].Daemon, "-r")
			r.expect(n, 0, "5\n", r.on[i].Status, "hbparameter", "-p", "deadtime")
		})
	}
	r.act("a second key on both", home, func() { r.keys("auth 1\n1 sha1 laboratory\n2 sha1 successor\n") })
	r.act("auth changed on both", home, func() { r.keys("auth 2\n1 sha1 laboratory\n2 sha1 successor\n") })
	r.act("the first key removed from both", home, func() { r.keys("auth 2\n2 sha1 successor\n") })
}

// keys gives both nodes a new key file and tells both at once: 3.0.6 checks
// what it hears with the key of its own auth line.
func (r *Run) keys(text string) {
	r.do(func() error {
		var errs []error
		for _, n := range r.Nodes() {
			errs = append(errs, n.Write("/etc/ha.d/authkeys", text, 0o600))
		}
		return errors.Join(errs...)
	})
	r.do(func() error {
		errs := make(chan error, 2)
		for i, n := range r.Nodes() {
			go func() {
				_, err := r.on[i].Run(r.ctx, n, r.on[i].Daemon, "-r")
				errs <- err
			}()
		}
		return errors.Join(<-errs, <-errs)
	})
	// Longer than deadtime: whoever lost the other would say so.
	for _, n := range r.Nodes() {
		r.do(func() error { return r.keepalives(n, int(8*time.Second/keepalive)) })
	}
	r.calm()
}

// keepalives waits for so many from a node.
func (r *Run) keepalives(n *lab.Node, count int) error {
	c, err := r.Capture(n, lab.HeartbeatLink, r.on[index(n)].Keepalive)
	if err != nil {
		return err
	}
	defer c.Close()
	seen := 0
	return lab.Wait(r.ctx, limit, fmt.Sprintf("%d keepalives of %s", count, n.Name), func() (bool, string) {
		seen += len(c.Times())
		return seen >= count, fmt.Sprint(seen, " seen")
	})
}

// calm demands that nobody was declared dead in this act.
func (r *Run) calm() {
	for _, n := range r.Nodes() {
		if r.err == nil && strings.Contains(r.since(n), "node "+n.Peer().Name+": is dead") {
			r.problem("%s: %s declared %s dead", r.acts[len(r.acts)-1].Name, n.Name, n.Peer().Name)
		}
	}
}

// lossyTime is how long the link is bad.
const lossyTime = 2 * time.Minute

// lossy moves the groups to and fro over a link that loses every fifth packet,
// and doubles and reorders others.
func lossy(r *Run) {
	r.cold()
	var mend func() error
	r.do(func() (err error) {
		mend, err = r.Degrade(lab.HeartbeatLink, lab.Faults{Loss: 0.2, Duplication: 0.1, Reordering: 0.1, Delay: 300 * time.Millisecond, Seed: 1})
		return err
	})
	for until := time.Now().Add(lossyTime); r.err == nil && time.Now().Before(until); {
		r.act("20 % loss, n1: hb_standby all", allN2, func() { r.insist(r.N1, "all", allN2) })
		r.act("20 % loss, n2: hb_standby foreign", home, func() { r.insist(r.N2, "foreign", home) })
		r.act("20 % loss, n2 is stopped", allN1, func() { r.stop(r.N2) })
		r.act("20 % loss, n2 is started", home, func() { r.start(r.N2) })
	}
	if mend != nil {
		err := mend()
		r.do(func() error { return err })
	}
	r.act("the link is good again, n1: hb_standby all", allN2, func() { r.standby(r.N1, "all") })
}

// insist orders a standby as an operator does who watches: what 3.0.6 refused
// because a claim of the other node was still on its way, or what got no
// answer within its 10 s, is ordered again.
func (r *Run) insist(n *lab.Node, set string, owners Owners) {
	const tries, patience = 5, 15 * time.Second
	for range tries {
		r.standby(n, set)
		if r.err != nil || lab.Wait(r.ctx, patience, "", func() (bool, string) { return r.match(owners), "" }) == nil {
			return
		}
	}
}

// note is a script of rc.d that writes down what it was given.
const note = "#!/bin/sh\necho \"$HA_src $HA_word\" >>/var/log/noted\n"

func withNote(n *lab.Node) error { return n.Write("/etc/ha.d/rc.d/third_party", note, 0o755) }

// post writes a message to a node's FIFO, as a script does.
func (r *Run) post(n *lab.Node, text string) {
	record := ">>>\n" + text + "<<<\n"
	r.do(func() error {
		o, err := n.Run(r.ctx, "sh", "-c", "printf '"+strings.ReplaceAll(record, "\n", `\n`)+"' >/var/lib/heartbeat/fifo")
		if err == nil && o.Code != 0 {
			err = fmt.Errorf("write to the FIFO of %s: %s", n.Name, o.Stderr)
		}
		return err
	})
}

// habits are messages that scripts write to the FIFO themselves.
func habits(r *Run) {
	r.cold()
	for _, n := range r.Nodes() {
		other := [2]Owners{allN2, allN1}[index(n)]
		r.act(n.Name+": ask_resources in the FIFO", other, func() { r.post(n, "t=ask_resources\nrsc_hold=all\ninfo=me\n") })
		r.act(n.Name+": hb_takeover in the FIFO", home, func() { r.post(n, "t=hb_takeover\nrsc_hold=local\n") })
		r.act(n.Name+": a message of a third party, for its script in rc.d", home, func() {
			r.post(n, "t=third_party\nword=hello\n")
			for _, m := range r.Nodes() {
				r.do(func() error { return m.WaitLog(r.ctx, limit, "/var/log/noted", n.Name+" hello") })
			}
		})
	}
}

// habitsLegacy has each node ask the other for its group by hand, and then a
// standby, which this mode has not.
func habitsLegacy(r *Run) {
	r.cold()
	key := func(k int) string { return fmt.Sprintf("%s::%s/16/eth0", scripts[k], addrs[k]) }
	r.act("n2: ip-request for n1's group in the FIFO", allN2, func() { r.post(r.N2, "t=ip-request\nipaddr="+key(0)+"\n") })
	r.act("n1: ip-request for it in the FIFO", home, func() { r.post(r.N1, "t=ip-request\nipaddr="+key(0)+"\n") })
	r.act("n1: ip-request for n2's group in the FIFO", allN1, func() { r.post(r.N1, "t=ip-request\nipaddr="+key(1)+"\n") })
	r.act("n2: ip-request for it in the FIFO", home, func() { r.post(r.N2, "t=ip-request\nipaddr="+key(1)+"\n") })
	for i, n := range r.Nodes() {
		r.act(n.Name+": hb_standby is refused", home, func() {
			r.do(func() error {
				o, err := n.Run(r.ctx, r.on[i].Standby, "all")
				if ours := r.on[i] == r.progs.Ours; err == nil && ours != (o.Code != 0) {
					err = fmt.Errorf("hb_standby on %s ended with %d: 3.0.6 never knows, ours must", n.Name, o.Code)
				}
				return err
			})
			if r.on[i] != r.progs.Ours {
				r.says(n, "Standby mode only implemented when nice_failback on")
			}
		})
	}
}

// sentAgain demands that packets were sent again in both directions.
func sentAgain(o Outcome) (out []string) {
	for i, text := range o.Logs {
		if !strings.Contains(text, " lost packet(s) for [") || !strings.Contains(text, "No pkts missing from ") {
			out = append(out, fmt.Sprintf("n%d missed no packet, or got none again", i+1))
		}
	}
	return out
}

// pinging has a node that can no longer reach what its clients are behind.
func pinging(r *Run) {
	r.cold()
	ping := lab.ClientAddr.String()
	for i, n := range r.Nodes() {
		r.expect(n, 0, "ping\n", r.on[i].Status, "nodestatus", ping)
	}
	for _, n := range r.Nodes() {
		r.act(n.Name+" loses the ping node", [2]Owners{allN2, allN1}[index(n)], func() {
			r.do(func() error { return r.Unplug(n, lab.ServiceLink) })
			r.says(n, "node "+ping+": is dead")
		})
		r.act(n.Name+" reaches it again", home, func() { r.do(func() error { return r.Plug(n, lab.ServiceLink) }) })
	}
}
