// Command demo shows the main job on a network of its own: two nodes and a
// client in network namespaces, a real configuration, a crash, a failback, a
// standby, a clean stop. Every step is asserted; the exit code is 1 when one
// is wrong. It needs root and leaves nothing behind, however it ends.
package main

import (
	"cmp"
	"context"
	"errors"
	"flag"
	"fmt"
	"math/rand/v2"
	"os"
	"os/signal"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"heartbeat/integration/lab"
	"heartbeat/integration/probe"
)

// limit is how long a step may take that should take seconds.
const limit = 90 * time.Second

func main() {
	lab.Main()
	original := flag.Bool("original", false, "run heartbeat 3.0.6 instead of this project's program")
	flag.Parse()
	ctx, stop := signal.NotifyContext(context.Background(), unix.SIGINT, unix.SIGTERM, unix.SIGHUP)
	defer stop()
	if err := run(ctx, *original); err != nil {
		fmt.Fprintf(os.Stderr, "\nThe demo failed: %v\n", err)
		os.Exit(1)
	}
}

func run(ctx context.Context, original bool) (err error) {
	d := &demo{ctx: ctx, began: time.Now()}
	if original {
		d.prog = lab.Original()
	} else {
		dir, err := os.MkdirTemp("", "heartbeat-demo-")
		if err != nil {
			return err
		}
		defer os.RemoveAll(dir)
		d.step("building the programs")
		if err := lab.Build(ctx, dir); err != nil {
			return err
		}
		d.prog, d.hbctl = lab.Ours(dir), filepath.Join(dir, "hbctl")
	}
	if err := d.prog.Check(); err != nil {
		return err
	}
	d.step("two nodes, a client and a switch in network namespaces")
	if d.lab, err = lab.New(ctx, "demo"); err != nil {
		return err
	}
	defer func() {
		if err != nil {
			for _, n := range d.lab.Nodes() {
				fmt.Printf("\n---- the end of %s's log\n%s\n", n.Name, n.Tail(d.prog.Log(), 30))
			}
		}
		cerr := d.lab.Close()
		if _, serr := os.Stat(d.lab.Dir); cerr == nil && serr == nil {
			cerr = fmt.Errorf("%s is still there", d.lab.Dir)
		}
		if err = errors.Join(err, cerr); err == nil {
			d.step("namespaces, mounts and files are gone: done in %.0f s", time.Since(d.began).Seconds())
		}
	}()
	return d.show()
}

type demo struct {
	ctx   context.Context
	began time.Time
	prog  *lab.Heartbeat
	hbctl string
	lab   *lab.Lab
}

func (d *demo) step(format string, args ...any) {
	fmt.Printf("\n[%5.1f s] %s\n", time.Since(d.began).Seconds(), fmt.Sprintf(format, args...))
}

// web is the init-style service beside the address.
const web = "web"

var vip = lab.ServiceAddr(0)

func (d *demo) show() error {
	n1, n2 := d.lab.N1, d.lab.N2
	cfg := lab.Cluster{
		Keepalive: time.Second, Deadtime: 5 * time.Second, Warntime: 3 * time.Second, Initdead: 10 * time.Second,
		Media: []string{"bcast eth1", "ucast eth0 10.77.0.1", "ucast eth0 10.77.0.2"},
		Addrs: lab.ServiceAddrs(1), Script: "IPaddr", Services: []string{web},
	}
	for _, f := range [][2]string{{"ha.cf", cfg.HaCf()}, {"haresources", cfg.HaResources()}, {"authkeys", cfg.AuthKeys()}} {
		fmt.Printf("\n    # /etc/ha.d/%s\n    %s\n", f[0], strings.ReplaceAll(strings.TrimSpace(f[1]), "\n", "\n    "))
	}
	for _, n := range d.lab.Nodes() {
		if err := errors.Join(d.prog.Configure(n, cfg), n.Write("/etc/ha.d/resource.d/"+web, lab.WebScript(), 0o755)); err != nil {
			return err
		}
	}

	d.step("starting heartbeat on n1 and n2")
	for _, n := range d.lab.Nodes() {
		if err := d.prog.Start(d.ctx, n); err != nil {
			return err
		}
	}
	if err := d.owned(n1); err != nil {
		return err
	}
	if err := d.status(n1, "local"); err != nil {
		return err
	}

	if err := d.crash(n1, n2, cfg); err != nil {
		return err
	}
	if err := d.status(n2, "all"); err != nil {
		return err
	}

	d.step("n1 is switched on again: with auto_failback on it gets its group back")
	err := d.planned(n1, func() error {
		if err := n1.Boot(d.ctx); err != nil {
			return err
		}
		return d.prog.Start(d.ctx, n1)
	})
	if err != nil {
		return err
	}
	if err := d.status(n1, "local"); err != nil {
		return err
	}

	d.step("hb_standby on n1: it hands everything to n2")
	if err := d.planned(n2, func() error { return d.prog.SwitchOver(d.ctx, n1) }); err != nil {
		return err
	}
	if err := d.status(n2, "all"); err != nil {
		return err
	}

	d.step("clean stop of n1, then of n2")
	for _, n := range d.lab.Nodes() {
		if err := d.prog.Stop(d.ctx, n); err != nil {
			return err
		}
	}
	for _, n := range d.lab.Nodes() {
		if n.Holds(vip) {
			return fmt.Errorf("%s still holds %s after its clean stop", n.Name, vip)
		}
		list, err := n.Processes()
		if err != nil {
			return err
		}
		for _, p := range list {
			if strings.Contains(p.Command, "heartbeat") || strings.Contains(p.Command, "lab:serve") {
				return fmt.Errorf("%s still runs on %s after its clean stop", p.Command, n.Name)
			}
		}
		fmt.Printf("          %s: stopped, no address, no process\n", n.Name)
	}
	return nil
}

// owned waits until a node owns the address alone, serves the page and has
// nothing pending.
func (d *demo) owned(n *lab.Node) error {
	if err := d.lab.WaitOwner(d.ctx, n, limit, vip); err != nil {
		return err
	}
	for _, m := range d.lab.Nodes() {
		if !m.Running() {
			continue
		}
		err := lab.Wait(d.ctx, limit, m.Name+" is settled", func() (bool, string) { return d.prog.Settled(d.ctx, m) })
		if err != nil {
			return err
		}
	}
	http, err := d.lab.ProbeHTTP(d.ctx, "http://"+vip.String()+"/", 20*time.Millisecond)
	if err != nil {
		return err
	}
	res, err := http.Stop()
	if err != nil {
		return err
	}
	if by := res.Answers[len(res.Answers)-1].Body; by != n.Name {
		return fmt.Errorf("http://%s/ is answered by %q, not by %s", vip, by, n.Name)
	}
	fmt.Printf("          %s owns %s and answers http://%s/\n", n.Name, vip, vip)
	return nil
}

// status prints the cluster's state as a node sees it and asserts what it
// holds.
func (d *demo) status(n *lab.Node, holds string) error {
	cmd := []string{d.prog.Status, "listnodes", "-v"}
	if d.hbctl != "" {
		cmd = []string{d.hbctl, "status"}
	}
	text, err := d.prog.Run(d.ctx, n, cmd...)
	if err != nil {
		return err
	}
	fmt.Printf("\n    %s# %s\n    %s\n", n.Name, strings.Join(append([]string{filepath.Base(cmd[0])}, cmd[1:]...), " "),
		strings.ReplaceAll(strings.TrimSpace(text), "\n", "\n    "))
	for _, m := range d.lab.Nodes() {
		if !strings.Contains(text, m.Name) {
			return fmt.Errorf("the status does not mention %s", m.Name)
		}
		want := "active\n"
		if !m.Running() {
			want = "dead\n"
		}
		if m == n {
			continue
		}
		if o, err := n.Run(d.ctx, d.prog.Status, "nodestatus", m.Name); err != nil || o.Stdout != want {
			return fmt.Errorf("%s says that %s is %q, want %q (%v)", n.Name, m.Name, o.Stdout, want, err)
		}
	}
	word, err := d.prog.Run(d.ctx, n, d.prog.Status, "rscstatus")
	if err != nil {
		return err
	}
	if got := strings.TrimSpace(word); got != holds {
		return fmt.Errorf("cl_status rscstatus on %s: %q, want %q", n.Name, got, holds)
	}
	return nil
}

// watch runs f while the client probes, and returns what it saw.
func (d *demo) watch(f func() error) (*probe.Result, *probe.HTTPResult, error) {
	icmp, err := d.lab.Probe(d.ctx, lab.ProbeOptions{Addrs: lab.ServiceAddrs(1), Interval: time.Millisecond, Nodes: true})
	if err != nil {
		return nil, nil, err
	}
	http, err := d.lab.ProbeHTTP(d.ctx, "http://"+vip.String()+"/", 10*time.Millisecond)
	if err != nil {
		return nil, nil, err
	}
	if err := f(); err != nil {
		return nil, nil, err
	}
	ir, err1 := icmp.Stop()
	hr, err2 := http.Stop()
	return ir, hr, errors.Join(err1, err2)
}

// planned carries out a change without a crash and reports its outage.
func (d *demo) planned(to *lab.Node, change func() error) error {
	var t0 time.Time
	icmp, http, err := d.watch(func() error {
		t0 = time.Now()
		if err := change(); err != nil {
			return err
		}
		return d.owned(to)
	})
	if err != nil {
		return err
	}
	return d.outage(t0, icmp, http)
}

func (d *demo) outage(t0 time.Time, icmp *probe.Result, http *probe.HTTPResult) error {
	out := icmp.Outage(t0)
	h, _, open := http.Outage(t0)
	fmt.Printf("          outage that the client saw: %s (ICMP each ms), %s (HTTP each 10 ms); two owners at once: %s\n",
		brief(out.Worst), brief(h), brief(icmp.Dual()))
	if out.Open > 0 || open {
		return errors.New("the client has no answer in the end")
	}
	if dual := icmp.Dual(); dual > 50*time.Millisecond {
		return fmt.Errorf("both nodes answered for %s during %v", vip, dual)
	}
	return nil
}

// crash cuts the master's power and prints the timeline of the takeover.
func (d *demo) crash(master, standby *lab.Node, cfg lab.Cluster) error {
	d.step("%s loses its power, without warning", master.Name)
	capture, err := d.lab.Capture(master, lab.HeartbeatLink, d.prog.Keepalive)
	if err != nil {
		return err
	}
	defer capture.Close()
	var last, t0, noticed time.Time
	icmp, http, err := d.watch(func() error {
		err := lab.Wait(d.ctx, limit, "a keepalive of "+master.Name, func() (bool, string) {
			return len(capture.Times()) > 0, "none seen"
		})
		if err != nil {
			return err
		}
		last = time.Now()
		// Anywhere between two keepalives, as a power cut would be.
		select {
		case <-d.ctx.Done():
			return d.ctx.Err()
		case <-time.After(rand.N(cfg.Keepalive)):
		}
		t0 = time.Now()
		if err := master.Crash(); err != nil {
			return err
		}
		for _, at := range capture.Times() {
			last = at
		}
		if err := standby.WaitLog(d.ctx, limit, d.prog.Log(), "node "+master.Name+": is dead"); err != nil {
			return err
		}
		noticed = time.Now()
		return d.owned(standby)
	})
	if err != nil {
		return err
	}
	took, ok := icmp.Takeover(standby.Name, t0)
	if !ok {
		return fmt.Errorf("%s never answered for %s", standby.Name, vip)
	}
	out := icmp.Outage(t0)
	h, hback, _ := http.Outage(t0)
	type event struct {
		at   time.Duration
		what string
	}
	timeline := []event{
		{last.Sub(t0), master.Name + "'s last keepalive"},
		{0, master.Name + " loses its power"},
		{noticed.Sub(t0), fmt.Sprintf("%s's log says: node %s: is dead (deadtime is %v)", standby.Name, master.Name, cfg.Deadtime)},
		{took, standby.Name + "'s kernel answers for " + vip.String()},
		{out.Back.Sub(t0), "the client has answers to ICMP again: outage " + brief(out.Worst)},
		{hback.Sub(t0), "the client has pages again: outage " + brief(h)},
	}
	slices.SortStableFunc(timeline, func(a, b event) int { return cmp.Compare(a.at, b.at) })
	fmt.Println()
	for _, e := range timeline {
		fmt.Printf("          %+8.3f s  %s\n", e.at.Seconds(), e.what)
	}
	if out.Worst < cfg.Deadtime-2*cfg.Keepalive {
		return fmt.Errorf("the outage was %v: shorter than deadtime %v allows after a crash", out.Worst, cfg.Deadtime)
	}
	if out.Worst > 2*cfg.Deadtime {
		return fmt.Errorf("the outage was %v, with a deadtime of %v", out.Worst, cfg.Deadtime)
	}
	fmt.Println()
	return d.outage(t0, icmp, http)
}

func brief(t time.Duration) string {
	if t < 5*time.Millisecond {
		return "none"
	}
	return t.Round(time.Millisecond).String()
}
