package engine

import (
	"testing"
	"time"

	"heartbeat/cluster"
)

// BenchmarkKeepalive is one node's share of an idle interval: its own keepalive,
// the copy of it that comes back, and the peer's.
func BenchmarkKeepalive(b *testing.B) {
	engines := newPair(b)
	read := Readings{Unix: 1700000000, Load: "0.00 0.01 0.05 1/123 4567"}
	now := cluster.Instant(0)
	type delivery struct {
		to   int
		data []byte
	}
	var wire []delivery
	carry := func(i int, outs []Output) {
		for _, out := range outs {
			switch out := out.(type) {
			case Transmit:
				wire = append(wire, delivery{i, out.Netstring}, delivery{1 - i, out.Netstring})
			case Run:
				done := JobDone{ID: out.Job.ID}
				for _, key := range out.Job.Keys {
					done.Groups = append(done.Groups, cluster.GroupResult{Key: key})
				}
				for _, out := range engines[i].Step(now, read, done) {
					if t, ok := out.(Transmit); ok {
						wire = append(wire, delivery{i, t.Netstring}, delivery{1 - i, t.Netstring})
					}
				}
			}
		}
	}
	// interval goes on until both have sent the next keepalive.
	interval := func() {
		for range engines {
			first, at := 0, cluster.Instant(0)
			for i, e := range engines {
				if due, ok := e.Deadline(); ok && (i == 0 || due < at) {
					first, at = i, due
				}
			}
			now = max(now, at)
			carry(first, engines[first].Step(now, read, Wake{}))
			for len(wire) > 0 {
				d := wire[0]
				wire = wire[1:]
				carry(d.to, engines[d.to].Step(now, read, Packet{Link: "eth1", Data: d.data, At: now}))
			}
		}
	}
	for now < cluster.Instant(time.Minute) {
		interval()
	}
	if !engines[0].View().CommUp {
		b.Fatal("the nodes have not met")
	}
	b.ReportAllocs()
	for b.Loop() {
		interval()
	}
}
