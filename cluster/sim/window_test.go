package sim

import (
	"testing"
	"time"
)

// TestWindows holds the formula of each unavoidable window of two new nodes on
// links that lose nothing: for how long a group is up on both after the cause has
// ended or, for a one-way cut, in all. stop is the time that the loser's stop
// takes at most, step what a message and its answer need.
func TestWindows(t *testing.T) {
	c := quietPair().Cluster
	stop := c.Stop + c.Stop/4
	step := 4*c.Delay + scriptTime
	for _, tt := range []struct {
		name  string
		class Class
		fault Fault
		// whole: the bound is for all of the window, not for what is left when
		// the cause has ended.
		whole bool
		bound time.Duration
	}{
		{
			// The first keepalive that is heard again, and the exchange of claims.
			name: "partition", class: ClassPartition, bound: c.Keepalive + step + stop,
			fault: Fault{Kind: Partition, For: 30 * time.Second, Node: "node1", Peer: "node2"},
		},
		{
			// Held for dead with one keepalive, and still with the first after
			// three more intervals.
			name: "one-way", class: ClassOneWay, whole: true, bound: 4*c.Keepalive + step + stop,
			fault: Fault{Kind: Cut, For: time.Minute, Node: "node1", Peer: "node2"},
		},
		{
			name: "stall", class: ClassStall, bound: stop,
			fault: Fault{Kind: Stall, For: 30 * time.Second, Node: "node1"},
		},
		{
			// The boot clock shows it in the first step: the next keepalive of one
			// of them, or a script's end.
			name: "suspend", class: ClassFreeze, bound: c.Keepalive + step + stop,
			fault: Fault{Kind: Suspend, For: 30 * time.Second, Node: "node1"},
		},
		{
			// No clock shows it: until a keepalive is heard.
			name: "freeze", class: ClassFreeze, bound: c.Keepalive + step + stop,
			fault: Fault{Kind: Freeze, For: 30 * time.Second, Node: "node1"},
		},
		{
			// The restarted daemon hears the other one, asks it for the list of
			// nodes, and is told that the group is taken.
			name: "killed", class: ClassKill, bound: c.Keepalive + 3*step + stop + execTime,
			fault: Fault{Kind: Kill, For: 30 * time.Second, Node: "node1"},
		},
	} {
		t.Run(tt.name, func(t *testing.T) {
			var longest time.Duration
			for i := range time.Duration(20) {
				s := quietPair()
				s.Faults = []Fault{tt.fault}
				s.Faults[0].At = time.Minute + i*c.Keepalive/20
				r := Run(s)
				if r.Failure != nil {
					t.Fatal(r.Failure)
				}
				w, ok := r.Windows[tt.class]
				if !ok || len(r.Windows) != 1 {
					t.Fatalf("windows %v, want one of class %q", r.Windows, tt.class)
				}
				length := w.Past
				if tt.whole {
					length = w.Longest
				}
				longest = max(longest, length)
			}
			if longest > tt.bound {
				t.Errorf("%v, at most %v wanted", longest, tt.bound)
			}
			t.Logf("longest %v, bound %v", longest, tt.bound)
		})
	}
}
