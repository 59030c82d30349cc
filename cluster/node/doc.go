// Package node is the running node: one loop that feeds the clock, the media,
// the results of jobs and the operators' orders into the engine and carries
// its outputs out.
//
// The loop owns the engine and is the only one to touch it. It never waits for
// a disk, a log, a script or an operator: each of those has goroutines of its
// own behind a bounded channel. A packet that finds its channel full is
// dropped and counted; results and orders wait outside.
//
// Order: what the engine puts behind a Persist is carried out when that is
// durable; keepalives overtake. Before a wake-up is stepped, all packets that
// have been received are.
package node
