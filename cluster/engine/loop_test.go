package engine

import (
	"testing"
	"time"

	"heartbeat/cluster"
)

// TestOwnLink: our own link is up when a copy of our packet comes back on it, and
// when the medium says that it leads back here.
func TestOwnLink(t *testing.T) {
	for _, c := range []struct {
		name string
		back func(sent []byte) Input
		up   bool
	}{
		{"nothing comes back", func([]byte) Input { return Wake{} }, false},
		{"copy", func(sent []byte) Input { return Packet{Link: "eth1", Data: sent, At: 1} }, true},
		{"forged copy", func(sent []byte) Input {
			sent[len(sent)-3] ^= 1
			return Packet{Link: "eth1", Data: sent, At: 1}
		}, false},
		{"the medium leads back", func([]byte) Input { return Looped{Link: "eth1"} }, true},
		{"another one does", func([]byte) Input { return Looped{Link: "eth2"} }, false},
	} {
		t.Run(c.name, func(t *testing.T) {
			e := newPair(t, cluster.FailbackLegacy)[0]
			var sent []byte
			for _, out := range e.Step(0, Readings{}, Wake{}) {
				if out, ok := out.(Transmit); ok {
					sent = append([]byte(nil), out.Netstring...)
				}
			}
			e.Step(1, Readings{}, c.back(sent))
			for _, n := range e.View().Nodes {
				if n.Name != "n1" {
					continue
				}
				for _, l := range n.Links {
					if l.Name == "eth1" && l.Up != c.up {
						t.Errorf("eth1 up: %t, want %t", l.Up, c.up)
					}
				}
			}
		})
	}
}

const pairKeepalive = 20 * time.Millisecond

// newPair are the engines of two new nodes, n1 and n2, with one group of n1.
func newPair(t testing.TB, failback cluster.Failback) (engines [2]*Engine) {
	t.Helper()
	names := []string{"n1", "n2"}
	for i, self := range names {
		e, err := New(Boot{
			Config: Config{
				Self: self, Nodes: names, Groups: []cluster.Group{{Node: "n1", Key: "10.0.0.1", Resources: []string{"10.0.0.1"}}},
				Failback:  failback,
				Links:     []Link{{Name: "eth1"}, {Name: "eth2"}},
				Keepalive: pairKeepalive, Deadtime: 200 * time.Millisecond, Warntime: 150 * time.Millisecond, Initdead: 3 * time.Second,
				MaxRexmitDelay: 250 * time.Millisecond, HopFudge: 1, InnerAuth: true, Conflict: cluster.ConflictWarn,
				Keys: Keys{Outbound: 1, Keys: []Key{{Index: 1, Method: "sha1", Secret: "laboratory"}}},
			},
			UUID: [16]byte{byte(i + 1)}, Generation: 1, Seed: uint64(i), Digest: "digest",
		})
		if err != nil {
			t.Fatal(err)
		}
		engines[i] = e
	}
	return engines
}
