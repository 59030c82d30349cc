//go:build vm

package vm

import (
	"strings"
	"testing"
	"time"
)

// TestFreeze: a machine that stood still with all its clocks cannot know it,
// and neither can its watchdog. When it goes on both machines own the address,
// until the first packets have gone between them: as after a partition the one
// that took it from the other lets go. A keepalive's interval and a step.
func TestFreeze(t *testing.T) {
	p := guarded(t, addressOnly)
	boots := [2]int{p.n1.Boots(), p.n2.Boots()}
	for _, owner := range p.Nodes { // softdog, then i6300esb
		other := p.other(owner)
		p.own(owner)
		stop := p.Ask(service)
		p.must(owner.Freeze())
		p.owns(other) // by now a watchdog that ran on would have expired
		thawed := time.Now()
		p.must(owner.Thaw())
		p.sees(other)
		p.sees(owner)
		p.lone()
		answers := stop()
		last := map[*Node]time.Duration{}
		count := map[*Node]int{}
		for _, a := range answers {
			if a.At.After(thawed) {
				last[a.Node] = a.At.Sub(thawed)
				count[a.Node]++
			}
		}
		both := min(last[owner], last[other])
		t.Logf("%s thawed, and both machines answered for the address for %v (%d and %d answers)", owner.Name, both.Round(time.Millisecond), count[owner], count[other])
		// One keepalive, a step, and what a busy host adds.
		if bound := time.Second + 4*time.Second; both > bound {
			t.Errorf("after %s had thawed both machines answered for the address for %v; %v is allowed", owner.Name, both, bound)
		}
	}
	p.steady(boots, "a freeze")
}

// lone waits until one machine has the service address, and the other says so.
func (p *pair) lone() {
	p.t.Helper()
	const question = "ip -4 -br addr show dev eth0; cl_status rscstatus"
	p.untilTrue(p.n1, "one machine owns the address", func() (bool, string) {
		one, two := p.run(p.n1, question), p.run(p.n2, question)
		owners := 0
		for _, text := range []string{one, two} {
			if strings.Contains(text, address) {
				owners++
			}
		}
		return owners == 1 && !strings.Contains(one+two, "transition"), one + two
	})
}

// own makes a machine the owner.
func (p *pair) own(n *Node) {
	p.t.Helper()
	p.until(n, "hbctl takeover all >/dev/null 2>&1; ip -4 -br addr show dev eth0", address)
	p.lone()
}
