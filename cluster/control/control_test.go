package control

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"os/user"
	"path/filepath"
	"reflect"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"
)

// node is a Backend that answers what the test wants.
type node struct {
	status Status
	events []Event
	asked  chan int
	params map[string]string
	// order is called with every order; nil accepts and succeeds at once.
	order func(ctx context.Context, o Order, step func(Step)) error
}

func (n *node) Status(ctx context.Context) (Status, error) { return n.status, ctx.Err() }

func (n *node) Why(_ context.Context, count int) ([]Event, error) {
	if n.asked != nil {
		n.asked <- count
	}
	return n.events, nil
}

func (n *node) Order(ctx context.Context, o Order, step func(Step)) error {
	if n.order == nil {
		step(Step{At: time.Now(), Text: "accepted"})
		return nil
	}
	return n.order(ctx, o, step)
}

func (n *node) Parameter(_ context.Context, name string) (string, bool) {
	v, ok := n.params[name]
	return v, ok
}

// openDir is a directory that other users may enter, which t.TempDir is not.
func openDir(t *testing.T) string {
	t.Helper()
	dir, err := os.MkdirTemp("", "control")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	if err := os.Chmod(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	return dir
}

// serve starts a real server on a real socket and returns its path.
func serve(t *testing.T, b Backend, o Options) string {
	t.Helper()
	path := filepath.Join(openDir(t), "run", "control.sock")
	l, err := Listen(path)
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan error, 1)
	go func() { ended <- Serve(ctx, l, b, o) }()
	t.Cleanup(func() {
		cancel()
		if err := <-ended; err != nil {
			t.Errorf("Serve: %v", err)
		}
	})
	return path
}

func fullStatus() Status {
	at := time.Date(2026, 11, 21, 3, 4, 5, 0, time.UTC)
	return Status{
		At: at, Version: "1.0", ManagedBy: "haresources", Self: "node1", PID: 4711, Generation: 12,
		Started: at.Add(-time.Hour), AutoFailback: "on", CommUp: true, Phase: "STABLE", Stable: true,
		Hold: "local", PeerHold: "local", Standby: "giving",
		Keepalive: Seconds(time.Second), Warntime: Seconds(1500 * time.Millisecond),
		Deadtime: Seconds(3 * time.Second), Initdead: Seconds(time.Minute),
		Nodes: []Node{{Name: "node1", Self: true, Type: "normal", State: "active", Old: true, Generation: 12, Heard: true,
			Age: Seconds(250 * time.Millisecond), Deadtime: Seconds(3 * time.Second),
			Links: []Link{{Name: "eth0", Up: true, Heard: true, Age: Seconds(time.Millisecond), OneWay: true}}}},
		Groups: []Group{{Key: "10.0.0.1", Resources: []string{"10.0.0.1", "httpd"}, Preferred: "node1", Owner: "node1",
			State: "running", Since: at, Reason: "startup", Err: "start httpd: exit 1"}},
		Next:     &Timer{In: Seconds(-time.Second), What: "node2 is declared dead"},
		Last:     &Event{At: at, Kind: "owner", Text: "took 10.0.0.1", Reason: "startup"},
		Warnings: []string{"one medium only"},
		Lateness: Lateness{Worst: Seconds(20 * time.Millisecond), WorstAt: at, Count: 2},
	}
}

func TestQueriesArriveWhole(t *testing.T) {
	want := fullStatus()
	n := &node{status: want, events: []Event{*want.Last}, asked: make(chan int, 1), params: map[string]string{"deadtime": "3", "empty": ""}}
	c := Dial(serve(t, n, Options{}))
	ctx := t.Context()

	got, err := c.Status(ctx)
	if err != nil {
		t.Fatal(err)
	}
	if !reflect.DeepEqual(got, want) {
		t.Errorf("status\n got %+v\nwant %+v", got, want)
	}
	events, err := c.Why(ctx, 7)
	if err != nil || !reflect.DeepEqual(events, n.events) {
		t.Errorf("why: %v, %v", events, err)
	}
	if asked := <-n.asked; asked != 7 {
		t.Errorf("why asked the node for %d, want 7", asked)
	}
	for _, p := range []struct {
		name, value string
		ok          bool
	}{{"deadtime", "3", true}, {"empty", "", true}, {"nosuch", "", false}, {"a b&c=d", "", false}} {
		value, ok, err := c.Parameter(ctx, p.name)
		if value != p.value || ok != p.ok || err != nil {
			t.Errorf("parameter %q: %q, %v, %v", p.name, value, ok, err)
		}
	}
}

// The keys are an interface: this list may only grow.
func TestStatusKeysAreStable(t *testing.T) {
	text, err := json.Marshal(fullStatus())
	if err != nil {
		t.Fatal(err)
	}
	const want = `{"at":"2026-11-21T03:04:05Z","version":"1.0","managed_by":"haresources","self":"node1","pid":4711,"generation":12,` +
		`"started":"2026-11-21T02:04:05Z","auto_failback":"on","comm_up":true,"phase":"STABLE","stable":true,"hold":"local",` +
		`"peer_hold":"local","standby":"giving","keepalive_seconds":1,"warntime_seconds":1.5,"deadtime_seconds":3,"initdead_seconds":60,` +
		`"nodes":[{"name":"node1","self":true,"type":"normal","state":"active","old":true,"generation":12,"heard":true,"age_seconds":0.25,` +
		`"deadtime_seconds":3,"links":[{"name":"eth0","up":true,"heard":true,"age_seconds":0.001,"one_way":true}]}],` +
		`"groups":[{"key":"10.0.0.1","resources":["10.0.0.1","httpd"],"preferred":"node1","owner":"node1","state":"running",` +
		`"since":"2026-11-21T03:04:05Z","reason":"startup","error":"start httpd: exit 1"}],` +
		`"next":{"in_seconds":-1,"what":"node2 is declared dead"},` +
		`"last":{"at":"2026-11-21T03:04:05Z","kind":"owner","text":"took 10.0.0.1","reason":"startup"},` +
		`"warnings":["one medium only"],"lateness":{"worst_seconds":0.02,"worst_at":"2026-11-21T03:04:05Z","count":2}}`
	if string(text) != want {
		t.Errorf("got  %s\nwant %s", text, want)
	}
	text, _ = json.Marshal(Status{}.filled())
	for _, key := range []string{`"nodes":[]`, `"groups":[]`, `"warnings":[]`} {
		if !strings.Contains(string(text), key) {
			t.Errorf("empty status lacks %s: %s", key, text)
		}
	}
}

// Every sentence arrives while the order still runs, the outcome last.
func TestOrderReportsEachStepAsItHappens(t *testing.T) {
	goOn := make(chan struct{})
	var given Order
	n := &node{order: func(_ context.Context, o Order, step func(Step)) error {
		given = o
		for _, text := range []string{"one", "two"} {
			step(Step{At: time.Now(), Text: text})
			<-goOn
		}
		return nil
	}}
	c := Dial(serve(t, n, Options{}))
	var heard []string
	err := c.Order(t.Context(), Order{Verb: VerbStandby, Set: "all", From: "hbctl"}, func(st Step) bool {
		heard = append(heard, st.Text)
		goOn <- struct{}{}
		return true
	})
	if err != nil || !reflect.DeepEqual(heard, []string{"one", "two"}) {
		t.Errorf("heard %q, %v", heard, err)
	}
	if want := (Order{Verb: "standby", Set: "all", From: "hbctl, root (uid 0)"}); given != want {
		t.Errorf("the node got %+v, want %+v", given, want)
	}
}

func TestOrderErrors(t *testing.T) {
	busy := errors.New("node2 is in flux")
	for _, tc := range []struct {
		name  string
		order Order
		steps int
		err   error
		want  error
	}{
		{"refused outright", Order{Verb: VerbTakeover, Set: "local"}, 0, busy, &Refused{Reason: "node2 is in flux"}},
		{"failed on the way", Order{Verb: VerbTakeover, Set: "local"}, 2, busy, &Refused{Reason: "node2 is in flux", Begun: true}},
		{"done without a word", Order{Verb: VerbStop}, 0, nil, nil},
		{"more steps than fit", Order{Verb: VerbStop}, 10 * stepsMax, nil, nil},
		{"no such verb", Order{Verb: "explode"}, 0, nil, &Refused{Reason: `order "explode": no such verb`}},
		{"no set", Order{Verb: VerbStandby}, 0, nil, &Refused{Reason: `order standby: set "": must be all, local or foreign`}},
		{"a set too many", Order{Verb: VerbReload, Set: "all"}, 0, nil, &Refused{Reason: `order reload: takes no set`}},
		{"a forged log line", Order{Verb: VerbStop, From: "x\ny"}, 0, nil, &Refused{Reason: "order stop: from has a control character"}},
		{"endless from", Order{Verb: VerbStop, From: strings.Repeat("x", 65)}, 0, nil, &Refused{Reason: "order stop: from is longer than 64 bytes"}},
	} {
		t.Run(tc.name, func(t *testing.T) {
			n := &node{order: func(_ context.Context, _ Order, step func(Step)) error {
				for range tc.steps {
					step(Step{Text: "working", Final: true, Err: "not the last word"})
				}
				return tc.err
			}}
			err := Dial(serve(t, n, Options{})).Order(t.Context(), tc.order, nil)
			if !reflect.DeepEqual(err, tc.want) {
				t.Errorf("got %#v, want %#v", err, tc.want)
			}
		})
	}
}

// Hanging up ends the reporting, not the order.
func TestCallerHangsUp(t *testing.T) {
	ended := make(chan error, 1)
	n := &node{order: func(ctx context.Context, _ Order, step func(Step)) error {
		step(Step{Text: "accepted"})
		select {
		case <-ctx.Done():
		case <-time.After(time.Minute):
		}
		step(Step{Text: "into the void"})
		ended <- ctx.Err()
		return nil
	}}
	err := Dial(serve(t, n, Options{})).Order(t.Context(), Order{Verb: VerbStop}, func(Step) bool { return false })
	if err != nil {
		t.Fatal(err)
	}
	if err := <-ended; !errors.Is(err, context.Canceled) {
		t.Errorf("the backend saw %v, want the end of its context", err)
	}
}

// An order may take longer than a request may take to arrive.
func TestLongOrderKeepsItsContext(t *testing.T) {
	n := &node{order: func(ctx context.Context, _ Order, step func(Step)) error {
		step(Step{Text: "accepted"})
		select {
		case <-ctx.Done():
			return errors.New("cut off")
		case <-time.After(readTimeout + 500*time.Millisecond):
			return nil
		}
	}}
	if err := Dial(serve(t, n, Options{})).Order(t.Context(), Order{Verb: VerbStop}, nil); err != nil {
		t.Error(err)
	}
}

func TestNoDaemon(t *testing.T) {
	dir := t.TempDir()
	absent := filepath.Join(dir, "absent")
	left := filepath.Join(dir, "left")
	leave(t, left)
	for _, path := range []string{absent, left} {
		_, err := Dial(path).Status(t.Context())
		if !errors.Is(err, ErrNoDaemon) || !strings.Contains(err.Error(), path) {
			t.Errorf("status at %s: %v", path, err)
		}
		err = Dial(path).Order(t.Context(), Order{Verb: VerbStop}, nil)
		if !errors.Is(err, ErrNoDaemon) {
			t.Errorf("order at %s: %v", path, err)
		}
	}
}

// leave makes a socket file whose daemon is dead.
func leave(t *testing.T, path string) {
	t.Helper()
	l, err := net.ListenUnix("unix", &net.UnixAddr{Name: path, Net: "unix"})
	if err != nil {
		t.Fatal(err)
	}
	l.SetUnlinkOnClose(false)
	l.Close()
}

func TestDaemonVanishesInMidAnswer(t *testing.T) {
	path := filepath.Join(t.TempDir(), "sock")
	l, err := net.Listen("unix", path)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { l.Close() })
	go func() {
		for _, answer := range []string{"", "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n14\r\n{\"text\":\"accepted\"}\n\r\n"} {
			conn, err := l.Accept()
			if err != nil {
				return
			}
			_, _ = http.ReadRequest(bufio.NewReader(conn))
			_, _ = io.WriteString(conn, answer)
			conn.Close()
		}
	}()
	for range 2 {
		if err := Dial(path).Order(t.Context(), Order{Verb: VerbStop}, nil); !errors.Is(err, ErrHungUp) {
			t.Errorf("got %v, want %v", err, ErrHungUp)
		}
	}
}

func TestListen(t *testing.T) {
	old := syscall.Umask(0o077)
	t.Cleanup(func() { syscall.Umask(old) })
	dir := t.TempDir()
	left := filepath.Join(dir, "left")
	leave(t, left)
	l, err := Listen(left)
	if err != nil {
		t.Fatalf("stale socket: %v", err)
	}
	info, err := os.Stat(left)
	if err != nil || info.Mode().Perm() != 0o666 {
		t.Errorf("mode %v, %v; want 0666 whatever the umask", info.Mode(), err)
	}
	if _, err := Listen(left); err == nil || !strings.Contains(err.Error(), "another daemon is listening there") {
		t.Errorf("second daemon: %v", err)
	}
	l.Close()

	file := filepath.Join(dir, "file")
	if err := os.WriteFile(file, []byte("precious"), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := Listen(file); err == nil || !strings.Contains(err.Error(), "not a socket") {
		t.Errorf("ordinary file: %v", err)
	}
	if text, _ := os.ReadFile(file); string(text) != "precious" {
		t.Error("the file in the socket's place was changed")
	}
}

// What arrives is bounded, and what makes no sense gets a sentence.
func TestBadRequests(t *testing.T) {
	path := serve(t, &node{}, Options{})
	web := &http.Client{Transport: &http.Transport{DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
		return new(net.Dialer).DialContext(ctx, "unix", path)
	}}}
	for _, tc := range []struct {
		method, target, body string
		code                 int
	}{
		{"GET", "/v1/nosuch", "", 404},
		{"DELETE", "/v1/status", "", 404},
		{"GET", "/v1/order", "", 404},
		{"GET", "/v1/why?n=0", "", 400},
		{"GET", "/v1/why?n=x", "", 400},
		{"GET", "/v1/why?n=1001", "", 400},
		{"GET", "/v1/parameter?name=" + strings.Repeat("x", 200), "", 400},
		{"GET", "/v1/status?" + strings.Repeat("x", 2*headerBytesMax), "", 431},
		{"POST", "/v1/order", "", 400},
		{"POST", "/v1/order", "{", 400},
		{"POST", "/v1/order", `{"verb":"stop","force":true}`, 400},
		{"POST", "/v1/order", `{"verb":"stop"}{"verb":"stop"}`, 400},
		{"POST", "/v1/order", `{"verb":"stop","from":"` + strings.Repeat("x", 2*orderBytesMax) + `"}`, 400},
	} {
		req, err := http.NewRequest(tc.method, "http://heartbeat"+tc.target, strings.NewReader(tc.body))
		if err != nil {
			t.Fatal(err)
		}
		resp, err := web.Do(req)
		if err != nil {
			t.Errorf("%s %.40s: %v", tc.method, tc.target, err)
			continue
		}
		text, _ := io.ReadAll(resp.Body)
		resp.Body.Close()
		if resp.StatusCode != tc.code {
			t.Errorf("%s %.40s %.40s: %d %s, want %d", tc.method, tc.target, tc.body, resp.StatusCode, text, tc.code)
		}
		var f failure
		if tc.code != 431 && (json.Unmarshal(text, &f) != nil || f.Error == "") {
			t.Errorf("%s %.40s: no sentence in %q", tc.method, tc.target, text)
		}
	}
}

// One user's idle connections leave room for the others.
func TestConnectionsAreBoundedPerUser(t *testing.T) {
	l := &limited{uids: map[uint32]int{}}
	alice, bob, root := caller{uid: 1}, caller{uid: 2}, caller{uid: 0}
	for i := range connsPerUIDMax {
		if !l.admit(alice) {
			t.Fatalf("connection %d refused", i)
		}
	}
	if l.admit(alice) {
		t.Error("one too many was admitted")
	}
	if !l.admit(bob) {
		t.Error("another user was locked out")
	}
	l.leave(alice)
	if !l.admit(alice) {
		t.Error("a freed place was not given away")
	}
	for uid := uint32(3); l.admit(caller{uid: uid}); uid++ {
	}
	for range connsMax / 4 {
		if !l.admit(root) {
			t.Fatal("users locked root out")
		}
	}
	if l.admit(root) {
		t.Error("no limit for root")
	}
}

// TestMain lets the test binary be another user's client.
func TestMain(m *testing.M) {
	if path := os.Getenv("CONTROL_TEST_CLIENT"); path != "" {
		_, err := Dial(path).Status(context.Background())
		fmt.Printf("status: %v\n", err)
		err = Dial(path).Order(context.Background(), Order{Verb: VerbStop}, nil)
		fmt.Printf("stop: %v\n", err)
		os.Exit(0)
	}
	os.Exit(m.Run())
}

// Rights are what the kernel says of a real process of another user.
func TestRights(t *testing.T) {
	var from []string
	n := &node{order: func(_ context.Context, o Order, _ func(Step)) error {
		from = append(from, o.From)
		return nil
	}}
	path := serve(t, n, Options{Group: "daemon"})
	group, err := user.LookupGroup("daemon")
	if err != nil {
		t.Fatal(err)
	}
	gid, _ := strconv.ParseUint(group.Gid, 10, 32)
	var many []uint32 // more than fit into the first question to the kernel
	for i := range uint32(200) {
		many = append(many, 100000+i)
	}
	client := filepath.Join(openDir(t), "client")
	self, err := os.ReadFile("/proc/self/exe")
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(client, self, 0o755); err != nil {
		t.Fatal(err)
	}
	const no = "stop: permission denied: nobody (uid 65534) is neither root nor in group daemon\n"
	for _, tc := range []struct {
		name string
		cred syscall.Credential
		want string
	}{
		{"root", syscall.Credential{}, "stop: <nil>\n"},
		{"nobody", syscall.Credential{Uid: 65534, Gid: 65534}, no},
		{"nobody in root's group", syscall.Credential{Uid: 65534, Gid: 0}, no},
		{"primary group", syscall.Credential{Uid: 65534, Gid: uint32(gid)}, "stop: <nil>\n"},
		{"supplementary group", syscall.Credential{Uid: 65534, Gid: 65534, Groups: []uint32{uint32(gid)}}, "stop: <nil>\n"},
		{"last of many groups", syscall.Credential{Uid: 65534, Gid: 65534, Groups: append([]uint32{uint32(gid)}, many...)}, "stop: <nil>\n"},
		{"many other groups", syscall.Credential{Uid: 65534, Gid: 65534, Groups: many}, no},
	} {
		t.Run(tc.name, func(t *testing.T) {
			cmd := exec.Command(client)
			cmd.Dir = "/"
			cmd.Env = []string{"CONTROL_TEST_CLIENT=" + path}
			cmd.SysProcAttr = &syscall.SysProcAttr{Credential: &tc.cred}
			out, err := cmd.CombinedOutput()
			if err != nil {
				t.Fatalf("%v\n%s", err, out)
			}
			if want := "status: <nil>\n" + tc.want; string(out) != want {
				t.Errorf("got %q, want %q", out, want)
			}
		})
	}
	if want := "nobody (uid 65534)"; from[len(from)-1] != want {
		t.Errorf("the node was told %q, want %q", from[len(from)-1], want)
	}
}

// A group that does not exist has no members, and does not break root.
func TestUnknownGroup(t *testing.T) {
	who := caller{uid: 65534, gid: 65534}
	if who.mayOrder("no-such-group") {
		t.Error("nobody may order")
	}
	if !(caller{}).mayOrder("no-such-group") {
		t.Error("root may not order")
	}
}

func TestSecondsRejectsWords(t *testing.T) {
	var s Seconds
	if err := json.NewDecoder(bytes.NewReader([]byte(`"soon"`))).Decode(&s); err == nil {
		t.Error("a word was taken for seconds")
	}
}
