// Package integration holds the end-to-end tests: two nodes and a client in
// network namespaces, started from nothing but ha.cf, haresources and
// authkeys, with the real programs. Nothing here imports the project's other
// packages; everything is seen as an operator and a client see it.
//
// The tests run this project's program on both nodes. With
//
//	go test ./integration -args -programs heartbeat
//
// they run heartbeat 3.0.6 instead, which is how the tests themselves are
// tested; -programs mixed puts ours on n1 and 3.0.6 on n2, -programs
// mixed-reverse the other way round.
//
// The machine that runs them may be busy and may stand still for seconds. So they wait
// for conditions, and demand order and state: what the kernel's own news tell
// (lab.Node.Removals) rather than for how long a client missed an answer. Where a pause
// can change what happens rightly, lab.Paused says that there was one.
//
// The demonstration (go run ./integration/demo) and the benchmark
// (go run ./integration/bench) use the same lab.
package integration
