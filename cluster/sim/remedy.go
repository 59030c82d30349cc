package sim

import (
	"fmt"

	"heartbeat/cluster"
)

// remedies say what would close a finding that follows from the configuration.
func (p Pair) remedies(class string) (list []string) {
	links, fenced := len(p.scenario().Cluster.Links), true
	for _, n := range p.Nodes {
		fenced = fenced && n.Stonith
	}
	medium := fmt.Sprintf("one more medium on a path of its own (bcast, ucast, mcast or serial in ha.cf): then it takes %d cuts", links+1)
	const (
		fencing  = "fencing (stonith or stonith_host in ha.cf): then nothing is taken from a node that was not reset"
		watchdog = "a watchdog (watchdog in ha.cf): it resets a machine whose daemon does not run"
	)
	add := func(text string) { list = append(list, text) }
	guard := func() {
		if p.Nodes[0].Conflict != cluster.ConflictRefuse {
			add("guard.address_conflict = \"refuse\" in heartbeat.toml: addresses that are answered for on the service network are not taken")
		}
	}
	lifetime := func() {
		if p.Gone == 0 {
			add("address lifetimes (guard.address_lifetime = \"auto\" in heartbeat.toml, and a deadtime of 3s or more): the kernel removes the addresses of a daemon that does not run before the other node takes them; they guard nothing but addresses")
		} else {
			add("the address lifetimes, which are on, for what is nothing but addresses")
		}
	}
	fence := func() {
		if !fenced {
			add(fencing)
		}
	}
	switch class {
	case string(ClassPartition), string(ClassOneWay), string(ClassStart):
		add(medium)
		fence()
		guard()
	case string(ClassStall):
		lifetime()
		add(watchdog)
		fence()
		guard()
	case string(ClassFreeze):
		fence()
		add("a watchdog in hardware, which runs on while the machine is paused")
	case string(ClassKill):
		add("the supervisor of the systemd unit or init script, which starts a killed daemon again within the deadtime")
		lifetime()
		add(watchdog)
		fence()
		guard()
	case string(ClassLegacy), reasonLegacy:
		add("auto_failback on or off in ha.cf instead of legacy")
	case reasonScript, reasonRetrying:
		add("a script that works: it is tried again, at last every 10 minutes; hbctl status shows the error")
	case reasonReset:
		add("a fencing device that answers without the power of the node it resets")
	case reasonBoth:
		add("a delay that keeps the two resets apart (fencing.delay in heartbeat.toml)")
		add(medium)
	case reasonResets:
		add(medium)
		if !p.Nodes[0].FenceWait {
			add("fencing.at_start = \"wait\" in heartbeat.toml: a node that has just started resets nobody of whom it has heard nothing")
		}
	case reasonNoNode:
		add("nothing: a machine must run to own anything")
	}
	return list
}
