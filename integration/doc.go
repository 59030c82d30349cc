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
// The demonstration (go run ./integration/demo) and the benchmark
// (go run ./integration/bench) use the same lab.
package integration
