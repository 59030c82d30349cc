// Package cluster decides, for one node, who is alive and who owns what.
//
// The problem: two nodes, packets that get lost, and no third opinion. Each
// node must end up with the same answer to "who runs this group?", must never
// run a group that the other one still runs, and must say why it did what it
// did.
//
// The package is a function: Step takes the time and one event and returns the
// actions to carry out, in order. It performs nothing itself: no I/O, no
// clock, no goroutine, and nothing depends on map order, so that a recorded
// history replays exactly.
package cluster
