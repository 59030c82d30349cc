// Package lab builds a small network on this machine and runs a two-node
// cluster in it, with the real programs.
//
//	client 10.77.0.100          n1 10.77.0.1            n2 10.77.0.2
//	      |eth0                    |eth0                   |eth0
//	======+========================+=======================+====== service LAN
//	                               |eth1 10.78.0.1         |eth1 10.78.0.2
//	===============================+=======================+====== heartbeat link
//
// Each node has its own network, process, mount and host name namespaces, with
// a process 1 that reaps, and private /etc/ha.d, /var/lib/heartbeat, /var/log
// and /run; /etc and /var are overlays, so what a program under test writes
// there stays in the node. Faults are put in at the switch or by SIGKILL of
// process 1, which is as sudden as a power cut.
//
// Nothing has a name outside the namespaces and nothing is pinned: when the
// process that made a lab ends, however it ends, the nodes end with it. What
// remains of a killed run (a directory in /tmp, a cgroup) is swept by the next.
//
// A program that uses this package must call Main first thing, because the
// nodes' processes are the program itself, started again.
package lab
