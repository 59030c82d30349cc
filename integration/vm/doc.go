// Package vm runs small virtual machines with Debian's kernel, for what needs a
// kernel of its own: a watchdog that resets it, a serial line with all its
// wires, a machine that stands still as a whole, a system run by systemd.
//
//	LAN 0  eth0 10.77.0.N  ---+--------+---
//	LAN 1  eth1 10.77.1.N  ---|-+------|-+-
//	                        [ n1 ]   [ n2 ]
//	serial ttyS1               +--------+
//	serial ttyS2     at its other end nobody is ready
//
// Machines run under qemu's own translator: /dev/kvm is not needed, and
// everything takes about ten times as long as it would. This process carries
// the LANs and the cable, so nothing touches the host's network.
//
// A machine's root is a read-only disk under a tmpfs: after a reset it is as
// new. The folder Options.Share is at /share in every machine.
package vm
