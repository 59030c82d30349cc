// Package interop runs this project's program and heartbeat 3.0.6 as the two
// nodes of one cluster.
//
// A scenario is a sequence of acts on a lab: something is done to the nodes,
// and after it the same is demanded whatever they run: which kernel holds
// which address, what cl_status says on both, and that the change ends. While
// it lasts a client probes every address on its own path and on each node, so
// outages and double ownership are measured, not assumed.
//
// Every scenario runs with four pairs: heartbeat 3.0.6 on both nodes, ours on
// n1, ours on n2, ours on both. What two nodes of 3.0.6 do is recorded in
// testdata/original.json: the ERROR and CRIT lines that they log, and how long
// both own an address. A mixed pair must not do worse than that.
//
// What 3.0.6 does not survive by itself is told by evidence (lost.go), never
// left out: it must be in the log, and it is in the table.
//
// The tests here are the core subset; the matrix command runs everything and
// writes the table in docs/COMPATIBILITY.md.
package interop
