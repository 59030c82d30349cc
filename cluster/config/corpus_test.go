package config

import (
	"encoding/json"
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"

	"github.com/google/go-cmp/cmp"
)

// lab is the machine on which the corpus was recorded: node1 with eth0 and
// eth1, no logging daemon, no name server.
type lab struct {
	name    string         // node1 when empty
	noAddr  string         // interface without an IPv4 address
	service map[string]int // services database
}

func (l lab) NodeName() string {
	if l.name != "" {
		return l.name
	}
	return "node1"
}

func (l lab) Broadcast(iface string) error { return l.Address(iface) }

func (l lab) Address(iface string) error {
	if iface == l.noAddr || iface == "eth0:1" {
		return syscall.EADDRNOTAVAIL
	}
	_, err := l.InterfaceIndex(iface)
	return err
}

func (l lab) InterfaceIndex(iface string) (int, error) {
	if i := slices.Index([]string{"lo", "x", "eth0", "y", "eth1"}, iface); i >= 0 {
		return i + 1, nil
	}
	return 0, syscall.ENODEV
}

func (lab) Resolve(name string, v6 bool) error {
	if strings.Contains(name, ":") == v6 && strings.Trim(name, "0123456789.:abcdef") == "" {
		return nil
	}
	return errors.New("no such host")
}

func (lab) UserExists(name string) bool  { return name == "root" || name == "hacluster" }
func (lab) GroupExists(name string) bool { return name == "root" || name == "haclient" }
func (lab) Executable(path string) bool {
	return path == "/usr/libexec/heartbeat/ipfail" || path == "/bin/true" || path == "/etc/ha.d/resource.d/Ipaddr"
}
func (lab) Readable(path string) error {
	if path == "/etc/stonith.conf" {
		return nil
	}
	return fs.ErrNotExist
}

func (lab) CharDevice(path string) error {
	switch {
	case path == "/dev/null" || path == "/dev/ttyS0":
		return nil
	case path == "/etc/passwd":
		return ErrNotCharDevice
	}
	return fs.ErrNotExist
}

func (l lab) ServicePort(name string) int { return l.service[name] }

func (l lab) ServiceName(port int) string {
	for name, p := range l.service {
		if p == port {
			return name
		}
	}
	return ""
}

func (lab) Program(path string) bool { return path == "/usr/sbin/fence_dummy" }

func (lab) StonithType(name string) bool { return name == "null" || name == "meatware" }
func (lab) LogdRunning() bool            { return false }

// named are the intended differences from the recording, with the reason.
var named = map[string]struct {
	reason  string
	exit    int
	stderr  []string
	nodes   []string
	problem string // text that a reported problem must contain
}{
	"20-authkeys-bad-method": {
		reason: "sha512 is a method here; heartbeat 3.0.6 refuses the file, which is a warning",
		exit:   0, problem: "3.0.6 cannot read this file",
		stderr: []string{
			"heartbeat: udpport setting must precede media statements",
			"info: Pacemaker support: false",
			"WARN: Logging daemon is disabled --enabling logging daemon is recommended",
			"info: **************************",
			"info: Configuration validated. Starting heartbeat 3.0.6",
		},
	},
	"46-duplicate-node": {
		reason: "a node named twice is one node, and a warning; 3.0.6 keeps two entries",
		nodes:  []string{"node1", "node2"}, problem: "node node2 is named twice",
	},
}

func TestCorpus(t *testing.T) {
	const dir = "testdata/conf-corpus"
	var expected struct {
		Cases map[string]struct {
			AuthkeysMode string            `json:"authkeys_mode"`
			ExitCode     int               `json:"exit_code"`
			Stderr       []string          `json:"stderr"`
			Parameters   map[string]string `json:"effective_parameters"`
			Nodes        []string          `json:"nodes"`
			Media        []string          `json:"media"`
		} `json:"cases"`
	}
	data, err := os.ReadFile(filepath.Join(dir, "expected.json"))
	if err != nil {
		t.Fatal(err)
	}
	if err := json.Unmarshal(data, &expected); err != nil {
		t.Fatal(err)
	}
	if len(expected.Cases) != 64 {
		t.Fatalf("%d cases", len(expected.Cases))
	}
	for name, want := range expected.Cases {
		t.Run(name, func(t *testing.T) {
			files := ReadFiles(filepath.Join(dir, name))
			files.Dir = "/etc/ha.d"
			mode, err := strconv.ParseUint(want.AuthkeysMode, 8, 32)
			if err != nil {
				t.Fatal(err)
			}
			files.AuthKeys.Mode = fs.FileMode(mode)
			c, probs := Parse(files)
			probs = append(probs, Check(c, lab{})...)

			exit, stderr, nodes := want.ExitCode, want.Stderr, want.Nodes
			if n, ok := named[name]; ok {
				t.Log("named difference:", n.reason)
				exit = n.exit
				if n.stderr != nil {
					stderr = n.stderr
				}
				if n.nodes != nil {
					nodes = n.nodes
				}
				if !slices.ContainsFunc(probs, func(p Problem) bool { return strings.Contains(p.String(), n.problem) }) {
					t.Errorf("no problem says %q: %v", n.problem, probs.Report())
				}
			}
			if got := probs.ExitCode(); got != exit {
				t.Errorf("exit code %d, want %d: %v", got, exit, probs.Report())
			}
			if diff := cmp.Diff(stderr, probs.Classic()); diff != "" {
				t.Errorf("stderr (-recorded +ours):\n%s", diff)
			}
			for _, p := range probs.Report() {
				if p.Severity == Error && (p.Why == "" || p.Fix == "" || p.Pos.File == "") {
					t.Errorf("says too little: %v", p)
				}
			}
			if exit != 0 && !probs.Failed() {
				t.Error("no error among the problems")
			}
			if want.Parameters == nil {
				return
			}
			got := map[string]string{}
			for _, p := range c.Params {
				got[p.Name] = p.Value
			}
			if diff := cmp.Diff(want.Parameters, got); diff != "" {
				t.Errorf("parameters (-recorded +ours):\n%s", diff)
			}
			all, media := slices.Clone(c.Nodes), []string{}
			for _, m := range c.Media {
				media = append(media, m.Kind+" "+m.Link())
			}
			for _, n := range c.PingNodes {
				all = append(all, n.Name)
				kind := "ping"
				if n.Group {
					kind = "ping_group"
				}
				media = append(media, kind+" "+n.Name)
			}
			if diff := cmp.Diff(nodes, all); diff != "" {
				t.Errorf("nodes (-recorded +ours):\n%s", diff)
			}
			if diff := cmp.Diff(want.Media, media); diff != "" {
				t.Errorf("media (-recorded +ours):\n%s", diff)
			}
		})
	}
}
