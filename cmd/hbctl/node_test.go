package main

import (
	"context"
	"errors"
	"net"
	"path/filepath"
	"sync"
	"testing"
	"time"

	"heartbeat/cluster/control"
)

// testNode is the node behind a real control server on a real socket.
type testNode struct {
	mu     sync.Mutex
	status control.Status
	events []control.Event
	params map[string]string
	// steps an order takes before it ends with err; block makes it wait for
	// its caller to go away first.
	steps []string
	err   error
	block bool
	// then is done when an order has been accepted: a daemon that ends.
	then   func()
	orders []control.Order
}

func (n *testNode) Status(context.Context) (control.Status, error) {
	n.mu.Lock()
	defer n.mu.Unlock()
	return n.status, nil
}

func (n *testNode) Why(_ context.Context, count int) ([]control.Event, error) {
	n.mu.Lock()
	defer n.mu.Unlock()
	return n.events[:min(count, len(n.events))], nil
}

func (n *testNode) Order(ctx context.Context, o control.Order, step func(control.Step)) error {
	n.mu.Lock()
	n.orders = append(n.orders, o)
	steps, err, block, then := n.steps, n.err, n.block, n.then
	n.mu.Unlock()
	for _, text := range steps {
		step(control.Step{At: time.Date(2001, 2, 3, 4, 5, 6, 7e6, time.UTC), Text: text})
	}
	if block {
		<-ctx.Done()
	}
	if then != nil {
		then()
	}
	return err
}

func (n *testNode) Parameter(_ context.Context, name string) (string, bool) {
	n.mu.Lock()
	defer n.mu.Unlock()
	v, ok := n.params[name]
	return v, ok
}

// serveNode starts the server; stop ends it as a daemon's end does.
func serveNode(path string, n *testNode) (stop func(), err error) {
	l, err := control.Listen(path)
	if err != nil {
		return nil, err
	}
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan error, 1)
	go func() { ended <- control.Serve(ctx, l, n, control.Options{}) }()
	return sync.OnceFunc(func() {
		cancel()
		if err := <-ended; err != nil {
			panic(err)
		}
	}), nil
}

// useNode points this process at a daemon with node n; nil is a dead daemon.
func useNode(t *testing.T, n *testNode) {
	t.Helper()
	path := filepath.Join(t.TempDir(), "control.sock")
	t.Setenv("HEARTBEAT_SOCKET", path)
	if n == nil {
		return
	}
	stop, err := serveNode(path, n)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(stop)
}

// useFrozenDaemon points this process at a daemon that accepts connections, as
// the kernel does for a stopped one, and answers nothing.
func useFrozenDaemon(t *testing.T) {
	t.Helper()
	path := filepath.Join(t.TempDir(), "control.sock")
	l, err := net.Listen("unix", path)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { l.Close() })
	t.Setenv("HEARTBEAT_SOCKET", path)
}

// exampleStatus is a pair with a half-broken peer, and something of everything.
func exampleStatus() control.Status {
	at := time.Date(2001, 2, 3, 4, 5, 6, 0, time.UTC)
	s := func(d time.Duration) control.Seconds { return control.Seconds(d) }
	return control.Status{
		At: at, Version: "3.0.6 (ours)", ManagedBy: "haresources", Self: "node1", PID: 4711, Generation: 12,
		Started: at.Add(-26 * time.Hour), AutoFailback: "on", CommUp: true, Phase: "STABLE", Stable: true,
		Hold: "all", PeerHold: "none",
		Keepalive: s(500 * time.Millisecond), Warntime: s(2 * time.Second), Deadtime: s(4 * time.Second), Initdead: s(8 * time.Second),
		Nodes: []control.Node{
			{Name: "node1", Self: true, Type: "normal", State: "active", Generation: 12, Heard: true,
				Links: []control.Link{{Name: "eth0", Up: true, Heard: true, Age: s(200 * time.Millisecond)}, {Name: "/dev/ttyS0"}}},
			{Name: "node2", Type: "normal", State: "dead", Old: true, Heard: true, Age: s(65 * time.Second),
				Links: []control.Link{{Name: "eth0", Heard: true, Age: s(65 * time.Second)}, {Name: "/dev/ttyS0", Up: true, Heard: true, Age: s(1200 * time.Millisecond), OneWay: true}}},
			{Name: "192.0.2.1", Type: "ping", State: "ping", Heard: true, Age: s(300 * time.Millisecond),
				Links: []control.Link{{Name: "192.0.2.1", Up: true, Heard: true, Age: s(300 * time.Millisecond)}}},
		},
		Groups: []control.Group{
			{Key: "192.0.2.10", Resources: []string{"192.0.2.10", "httpd"}, Preferred: "node1", Owner: "node1", State: "running", Since: at.Add(-25 * time.Hour), Reason: "startup"},
			{Key: "192.0.2.11", Resources: []string{"192.0.2.11"}, Preferred: "node2", State: "failed", Since: at.Add(-time.Minute), Reason: "node2 dead: silent for 4.0s", Err: "start 192.0.2.11: link eth1: no such device"},
		},
		Next:     &control.Timer{In: s(2300 * time.Millisecond), What: "192.0.2.1 is declared dead"},
		Last:     &control.Event{At: at.Add(-time.Minute), Kind: "owner", Text: "took over the resources of node2", Reason: "node2 dead: silent for 4.0s"},
		Warnings: []string{"haresources differs between node1 and node2"},
		Lateness: control.Lateness{Worst: s(340 * time.Millisecond), WorstAt: at.Add(-3 * time.Hour), Count: 2},
	}
}

func exampleEvents() []control.Event {
	at := time.Date(2001, 2, 3, 4, 5, 6, 0, time.UTC)
	return []control.Event{
		{At: at, Kind: "owner", Text: "took over the resources of node2", Reason: "node2 dead: silent for 4.0s"},
		{At: at.Add(-time.Second), Kind: "node", Text: "node2 is dead", Reason: "silent for 4.0s"},
		{At: at.Add(-time.Hour), Kind: "daemon", Text: "started"},
	}
}

var errFlux = errors.New("standby refused: the resources of node2 are in flux")
