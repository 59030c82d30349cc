// Package sim runs whole clusters in virtual time: the real engine on every
// node, an in-memory network, simulated disks, clocks, processes and resources,
// and a list of faults drawn from a seed. After every event it compares what
// the nodes do with what they may do; see [Failure] for the rules.
//
// A run is a function of its [Scenario]: the same scenario gives the same run,
// so a failure can be made smaller by leaving faults out ([Minimise]) and told
// as a transcript ([Transcript]).
package sim
