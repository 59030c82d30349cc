package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"slices"
	"strconv"
	"strings"
	"time"

	"heartbeat/cluster/control"
)

// The exit codes of cl_status.
const (
	clOK         = 0
	clNo         = 1  // stopped, dead, or no daemon
	clWrong      = 11 // wrong parameters, or a node that nobody knows
	clTimeout    = 12 // the whole run took longer than clTimeLimit
	clNoAnswer   = 13
	clTimeLimit  = 5 * time.Second
	noSignon     = "hb_api_signon: Can't initiate connection to heartbeat"
	clNodeWeight = 100 // of every node: nothing but the original's own test programs sets another
)

// clHelp is the original's help text, to the letter.
const clHelp = `Usage: cl_status <sub-command> [<options>] [<parameters>]

Sub-commands:
clientstatus <node-name> <client-id> [<timeout>]
	Show the status of heartbeat clients.
hblinkstatus <node-name> <link-name>
	Show the status of a heartbeat link
hbstatus
	Indicate if heartbeat is running on the local system.
	Options:
		-v	verbose: also add "listnodes -v" output
listnodes [<option>]
	List the nodes in the cluster.
	Options:
		-p	list only 'ping' type nodes
		-n	list only 'normal' type nodes
		-v	verbose: also list type and status,
			then add "listhblinks -v" output
listhblinks <node-name>
	List the network interfaces used as hearbeat links.
	Options:
		-v	verbose: list link status as well
nodestatus <node-name>
	List the node status.
nodeweight <node-name>
	List the node weight.
nodesite <node-name>
	List the node site.
nodetype <node-name>
	List the nodes of a given type.
rscstatus
	Show the status of cluster resources.
hbparameter -p <parameter-name>
	Retrieve the value of a cluster parameter.
	As for the valid parameter names, please refer to the man page.
`

// clQuery is one run of cl_status: the sub-command, what it may ask and how it
// was asked for.
type clQuery struct {
	*invocation
	ctx    context.Context
	client *control.Client
	status control.Status
	// human is -m, verbose is -v.
	human, verbose bool
	parameters     []string
}

// clCommand is one sub-command.
type clCommand struct {
	letters string // for getopt
	// complaint follows getopt's own after a wrong option; empty when the
	// original overlooks it.
	complaint string
	run       func(q *clQuery, options []option) int
}

const (
	complaint     = "Error: getopt returnedcharacter ?."
	complaintCode = "Error: getopt returnedcharacter code ?."
)

var clCommands = map[string]clCommand{
	"hbstatus":     {"mv", "", (*clQuery).hbStatus},
	"listnodes":    {"mpnv", complaintCode, (*clQuery).listNodes},
	"nodestatus":   {"m", complaint, (*clQuery).nodeStatus},
	"nodetype":     {"m", complaint, (*clQuery).nodeType},
	"nodeweight":   {"m", complaint, (*clQuery).nodeWeight},
	"nodesite":     {"m", complaint, (*clQuery).nodeSite},
	"listhblinks":  {"mv", complaintCode, (*clQuery).listLinks},
	"hblinkstatus": {"m", complaint, (*clQuery).linkStatus},
	"clientstatus": {"m", complaint, (*clQuery).clientStatus},
	"rscstatus":    {"m", complaint, (*clQuery).resourceStatus},
	"hbparameter":  {"mp:", complaintCode, (*clQuery).parameter},
}

// clStatus is cl_status.
func clStatus(ctx context.Context, v *invocation) int {
	if len(v.args) == 0 || v.args[0] == "-h" {
		fmt.Fprint(v.stdout, clHelp)
		return clOK
	}
	name := v.args[0]
	command, ok := clCommands[name]
	if name != "test" && !ok {
		v.clError("%s: invalid sub-command.", name)
		return clWrong
	}
	ctx, cancel := context.WithTimeout(ctx, clTimeLimit)
	defer cancel()
	q := &clQuery{invocation: v, ctx: ctx, client: control.Dial(socketPath())}
	status, err := q.client.Status(ctx)
	if errors.Is(err, control.ErrTimeout) || ctx.Err() != nil {
		return clTimeout
	}
	q.status = status
	if err != nil || !status.CommUp {
		return q.stopped(name, err)
	}
	if name == "test" {
		return q.test()
	}
	options, parameters := getopt(v.stderr, name, v.args[1:], command.letters, command.complaint != "")
	q.parameters = parameters
	for _, o := range options {
		switch o.letter {
		case 'm':
			q.human = true
		case 'v':
			q.verbose = true
		case '?':
			if command.complaint != "" {
				v.clError("%s", command.complaint)
				return clWrong
			}
		}
	}
	return command.run(q, options)
}

// clError writes a line of the original's log to stderr.
func (v *invocation) clError(format string, args ...any) {
	host, _ := os.Hostname()
	fmt.Fprintf(v.stderr, "%s %s cl_status: [%d]: ERROR: %s\n", stamp(), host, os.Getpid(), fmt.Sprintf(format, args...))
}

// stopped answers when no daemon does. One that still starts counts as stopped.
func (q *clQuery) stopped(name string, err error) int {
	if name != "hbstatus" {
		q.clError("Cannot signon with heartbeat")
		q.clError("REASON: %s", noSignon)
		return clNo
	}
	if errors.Is(err, control.ErrPermission) {
		fmt.Fprintln(q.stdout, "Heartbeat is apparently running on this machine, but refuses my connection")
	} else {
		fmt.Fprintln(q.stdout, "Heartbeat is stopped on this machine.")
	}
	options, _ := getopt(q.stderr, name, q.args[1:], clCommands[name].letters, false)
	if slices.Contains(options, option{letter: 'v'}) {
		fmt.Fprintf(q.stdout, "(%s)\n", noSignon)
	}
	return clNo
}

// node looks a node up as the original does, in any case.
func (q *clQuery) node(name string) (control.Node, bool) {
	for _, n := range q.status.Nodes {
		if strings.EqualFold(n.Name, name) {
			return n, true
		}
	}
	return control.Node{}, false
}

func (q *clQuery) hbStatus([]option) int {
	switch {
	case !q.verbose:
		fmt.Fprintln(q.stdout, "Heartbeat is running on this machine.")
		return clOK
	case q.human:
		fmt.Fprintf(q.stdout, "Heartbeat version %s\nResources controlled by \"%s\"\n", q.status.Version, q.status.ManagedBy)
	default:
		fmt.Fprintf(q.stdout, "version:\t%s\nmanaged by:\t\"%s\"\n", q.status.Version, q.status.ManagedBy)
	}
	return q.listNodes(nil)
}

// listNodes goes backwards through the configuration, as the original does;
// both -n and -p is all of them.
func (q *clQuery) listNodes(options []option) int {
	normal := slices.Contains(options, option{letter: 'n'})
	ping := slices.Contains(options, option{letter: 'p'})
	if q.human {
		fmt.Fprintln(q.stdout, "The nodes are as follow:")
	}
	for _, n := range slices.Backward(q.status.Nodes) {
		if normal != ping && ping != (n.Type == "ping") {
			continue
		}
		if !q.verbose {
			fmt.Fprintln(q.stdout, n.Name)
			continue
		}
		fmt.Fprintf(q.stdout, "\n%s\t%s\t(nodetype: %s)\n", n.Name, n.State, n.Type)
		q.printLinks(n)
	}
	return clOK
}

func (q *clQuery) printLinks(n control.Node) {
	if q.human {
		fmt.Fprintln(q.stdout, "\tthis node has the following heartbeat links:")
	}
	for _, l := range slices.Backward(n.Links) {
		if q.verbose {
			fmt.Fprintf(q.stdout, "\t%s\t%s\n", l.Name, l.State())
		} else {
			fmt.Fprintf(q.stdout, "\t%s\n", l.Name)
		}
	}
}

// The original has a wording of its own for the same thing here and there.
const (
	notEnough     = "Not enough parameters."
	noEnough      = "No enough parameter."
	wrongNode     = "Error. May be due to incorrect node name"
	wrongWeighted = "Error. Maybe due to incorrect node name."
)

// wrong ends the run with a bare line on stderr.
func (q *clQuery) wrong(text string) int {
	fmt.Fprintln(q.stderr, text)
	return clWrong
}

// about finds the node that the first parameter names; without one, code is
// the exit code and the complaint has been made.
func (q *clQuery) about(few, unknown string) (n control.Node, name string, code int) {
	if len(q.parameters) == 0 {
		return n, "", q.wrong(few)
	}
	name = q.parameters[0]
	n, ok := q.node(name)
	if !ok {
		return n, name, q.wrong(unknown)
	}
	return n, name, clOK
}

// say prints the bare answer, or with -m the sentence.
func (q *clQuery) say(bare, format string, args ...any) {
	if q.human {
		bare = fmt.Sprintf(format, args...)
	}
	fmt.Fprintln(q.stdout, bare)
}

func (q *clQuery) nodeStatus([]option) int {
	n, name, code := q.about(notEnough, wrongNode)
	if code != clOK {
		return code
	}
	q.say(n.State, "The cluster node %s is %s", name, n.State)
	switch n.State {
	case "active", "up", "ping":
		return clOK
	}
	return clNo
}

func (q *clQuery) nodeType([]option) int {
	n, name, code := q.about(noEnough, wrongNode)
	if code == clOK {
		q.say(n.Type, "The node %s's type: %s", name, n.Type)
	}
	return code
}

func (q *clQuery) nodeWeight([]option) int {
	_, name, code := q.about(notEnough, wrongWeighted)
	if code == clOK {
		q.say(strconv.Itoa(clNodeWeight), "The weight of the cluster node %s is %d", name, clNodeWeight)
	}
	return code
}

func (q *clQuery) nodeSite([]option) int {
	_, name, code := q.about(notEnough, wrongNode)
	if code == clOK {
		q.say("", "The site of the cluster node %s is ", name)
	}
	return code
}

// noAnswer ends the run as the original does when a request comes back empty.
func (q *clQuery) noAnswer(what, reason string, code int) int {
	q.clError("%s", what)
	q.clError("REASON: %s", reason)
	return code
}

func (q *clQuery) listLinks([]option) int {
	if len(q.parameters) == 0 {
		return q.wrong(noEnough)
	}
	n, ok := q.node(q.parameters[0])
	if !ok {
		return q.noAnswer("Cannot start heartbeat link interface walk.", "EINVAL", clNoAnswer)
	}
	q.printLinks(n)
	return clOK
}

func (q *clQuery) linkStatus([]option) int {
	if len(q.parameters) < 2 {
		return q.wrong(noEnough)
	}
	n, _ := q.node(q.parameters[0])
	for _, l := range n.Links {
		if l.Name != q.parameters[1] {
			continue
		}
		q.say(l.State(), "The node %s's heartbeat link %s is %s", q.parameters[0], l.Name, l.State())
		if l.Up {
			return clOK
		}
		return clNo
	}
	return q.noAnswer("Cannot get heartbeat link status", "", clNoAnswer)
}

// clientStatus: this daemon has no clients of the original's kind, so they are
// offline here, and on a node that is dead. Another node that lives would have
// to be asked, and 3.0.6 stays silent about a client that it does not have. A
// time limit of 0 lets no answer arrive.
func (q *clQuery) clientStatus([]option) int {
	if len(q.parameters) < 2 {
		return q.wrong(noEnough)
	}
	n, known := q.node(q.parameters[0])
	known = known && (n.Self || n.State == "dead")
	if known && len(q.parameters) > 2 {
		ms, err := strconv.Atoi(q.parameters[2])
		known = err == nil && ms > 0
	}
	if !known {
		return q.noAnswer("Cannot get heartbeat client "+q.parameters[1]+"'s status", "No timely response.", clNoAnswer)
	}
	fmt.Fprintln(q.stdout, "offline")
	return clNo
}

// resourceStatus: with auto_failback legacy the original keeps no account of
// what it holds, and says none whatever it is.
func (q *clQuery) resourceStatus([]option) int {
	hold := q.status.Hold
	if q.status.AutoFailback == "legacy" {
		hold = "none"
	}
	q.say(hold, "This node is holding %s resources.", hold)
	return clOK
}

func (q *clQuery) parameter(options []option) int {
	var name string
	var named bool
	for _, o := range options {
		if o.letter == 'p' {
			name, named = o.value, true
		}
	}
	if !named {
		q.clError("parameter name required")
		return clWrong
	}
	value, ok, err := q.client.Parameter(q.ctx, name)
	switch {
	case errors.Is(err, control.ErrTimeout) || q.ctx.Err() != nil:
		return clTimeout
	case err != nil:
		return q.noAnswer("Cannot get parameter "+name+"'s value", err.Error(), clNo)
	case !ok:
		return q.noAnswer("Cannot get parameter "+name+"'s value", "", clNo)
	}
	q.say(value, "Heartbeat parameter %s's value: %s", name, value)
	return clOK
}

func (q *clQuery) test() int {
	s := q.status
	fmt.Fprintf(q.stdout, "Dead time: %d\n keeplive time: %d\n mynodeid: %s\n rsc: %s\n",
		time.Duration(s.Deadtime).Milliseconds(), time.Duration(s.Keepalive).Milliseconds(), s.Self, s.Hold)
	return clOK
}
