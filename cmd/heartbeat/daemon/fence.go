package daemon

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"strings"
	"sync/atomic"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"heartbeat/cluster"
	"heartbeat/cluster/boot"
	"heartbeat/cluster/config"
	"heartbeat/cluster/node"
	"heartbeat/cluster/node/logging"
)

const (
	// stonithBudget bounds one call of cluster-glue's stonith; fence-agents have
	// a timeout each.
	stonithBudget = 2 * time.Minute
	// deviceCheckEvery is how often the devices are asked whether they would work.
	deviceCheckEvery = time.Hour
	// deviceOutputMax is what is told of a failing program's output.
	deviceOutputMax = 500
	// secretBytesMin: what is shorter is in too many words to be left out.
	secretBytesMin = 3
)

// stonithProgram is cluster-glue's; it knows all the devices' plug-ins.
const stonithProgram = "stonith"

// device resets a node, or tells what keeps it from doing so.
type device interface {
	// Title names it in the log, without secrets.
	Title() string
	reset(ctx context.Context, node string) error
	check(ctx context.Context) error
}

// devices are those that reset a node, in the order in which they are tried: the
// fence tables of heartbeat.toml, then the line of ha.cf.
func (d *daemonProcess) devices(node string) (list []device) {
	for _, f := range d.config.Fences(node) {
		list = append(list, agent{f, d.log})
	}
	if s, ok := boot.FenceDevice(d.config); ok {
		list = append(list, stonith{s, d.log})
	}
	return list
}

// fence resets a node and returns nil only when a device says that it did.
func (d *daemonProcess) fence(ctx context.Context, node string) error {
	var errs []error
	for _, dev := range d.devices(node) {
		d.log.Printf(cluster.Info, "Resetting node %s with [%s]", node, dev.Title())
		begun := time.Now()
		err := dev.reset(ctx, node)
		if err == nil {
			d.log.Printf(cluster.Info, "Node %s was reset with [%s] in %v", node, dev.Title(), time.Since(begun).Round(time.Millisecond))
			return nil
		}
		err = fmt.Errorf("reset %s with device %s: %w", node, dev.Title(), err)
		d.log.Printf(cluster.Error, "Host %s not reset! %v", node, err)
		errs = append(errs, err)
	}
	if len(errs) == 0 {
		return fmt.Errorf("no fencing device is configured for %s", node)
	}
	return errors.Join(errs...)
}

// fenceCheck asks the devices now and then whether they would work: a dead node
// is the wrong moment to learn that they do not.
type fenceCheck struct {
	trouble atomic.Pointer[string]
}

// Trouble is what is wrong with a device, for the status.
func (f *fenceCheck) Trouble() string {
	if text := f.trouble.Load(); text != nil {
		return *text
	}
	return ""
}

// run checks all devices once and then every hour until ctx ends.
func (f *fenceCheck) run(ctx context.Context, d *daemonProcess) {
	for {
		trouble := ""
		seen := map[string]bool{}
		for _, node := range d.config.Nodes {
			if node == d.config.Self {
				continue
			}
			for _, dev := range d.devices(node) {
				key := node + dev.Title()
				if _, ok := dev.(stonith); ok {
					key = dev.Title() // one for all nodes
				}
				if seen[key] {
					continue
				}
				seen[key] = true
				d.log.Printf(cluster.Info, "Checking status of STONITH device [%s]", dev.Title())
				if err := dev.check(ctx); err != nil && ctx.Err() == nil {
					trouble = fmt.Sprintf("the fencing device %s for %s does not work: %v", dev.Title(), node, err)
					d.log.Printf(cluster.Error, "STONITH device %s not operational! %s", dev.Title(), trouble)
				}
			}
		}
		f.trouble.Store(&trouble)
		if len(seen) == 0 {
			return
		}
		select {
		case <-time.After(deviceCheckEvery):
		case <-ctx.Done():
			return
		}
	}
}

// stonith is a line of ha.cf.
type stonith struct {
	config.Stonith
	log *logging.Log
}

// Title is the device's type: its parameters may hold a password.
func (s stonith) Title() string { return s.Type }

func (s stonith) reset(ctx context.Context, node string) error {
	return s.call(ctx, resetting(node), "-T", "reset", node)
}

func (s stonith) check(ctx context.Context) error { return s.call(ctx, checking, "-S") }

// call runs the stonith program. Parameters that stand in ha.cf go to it as a
// file that nobody else can read: in its arguments everybody could.
func (s stonith) call(ctx context.Context, title string, args ...string) error {
	file := s.Params
	var extra []*os.File
	if s.Host != "" {
		fd, err := unix.MemfdCreate("stonith parameters", unix.MFD_CLOEXEC)
		if err != nil {
			return fmt.Errorf("hand over parameters: %w", err)
		}
		f := os.NewFile(uintptr(fd), "parameters")
		defer f.Close()
		if _, err := f.WriteString(s.Params + "\n"); err != nil {
			return fmt.Errorf("hand over parameters: %w", err)
		}
		file, extra = "/proc/self/fd/3", []*os.File{f}
	}
	ctx, cancel := context.WithTimeout(ctx, stonithBudget)
	defer cancel()
	cmd := deviceCommand(ctx, stonithProgram, append([]string{"-t", s.Type, "-F", file}, args...)...)
	cmd.ExtraFiles = extra
	_, err := runDevice(ctx, cmd, s.log, title, stonithBudget, strings.Fields(s.Params))
	if errors.Is(err, exec.ErrNotFound) {
		return fmt.Errorf("no program %s: install cluster-glue", stonithProgram)
	}
	return err
}

// agent is a program of fence-agents.
type agent struct {
	config.Fence
	log *logging.Log
}

// Title is the program's name.
func (a agent) Title() string { return a.Agent }

// Exit codes of action=status.
const (
	agentOn  = 0
	agentOff = 2
)

// reset switches the node off, or off and on. Agents look themselves whether the
// outlet obeyed; what is to be off afterwards is asked for once more, since that
// can be: after a reboot both answers would be right.
func (a agent) reset(ctx context.Context, node string) error {
	if _, err := a.call(ctx, resetting(node), a.Action); err != nil {
		return err
	}
	if a.Action != "off" {
		return nil
	}
	code, err := a.call(ctx, resetting(node), "status")
	if code == agentOn && err == nil {
		return fmt.Errorf("action off succeeded, and action status says that %s is still on", node)
	}
	return nil // off, or an agent that cannot tell: its own word counts
}

func (a agent) check(ctx context.Context) error {
	_, err := a.call(ctx, checking, "monitor")
	return err
}

func (a agent) call(ctx context.Context, title, action string) (code int, err error) {
	timeout := time.Duration(a.Timeout)
	ctx, cancel := context.WithTimeout(ctx, timeout)
	defer cancel()
	cmd := deviceCommand(ctx, a.Path())
	cmd.Stdin = strings.NewReader(a.Input(action))
	code, err = runDevice(ctx, cmd, a.log, title, timeout, a.Secrets())
	if err != nil {
		return code, fmt.Errorf("action %s: %w", action, err)
	}
	return code, nil
}

// deviceCommand is a call of a device's program in its own process group.
func deviceCommand(ctx context.Context, name string, args ...string) *exec.Cmd {
	cmd := exec.CommandContext(ctx, name, args...)
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	cmd.Cancel = func() error { return syscall.Kill(-cmd.Process.Pid, syscall.SIGKILL) }
	cmd.WaitDelay = time.Second
	cmd.Env = append(os.Environ(), "PATH=/usr/sbin:/usr/bin:/sbin:/bin")
	return cmd
}

// What the processes of devices are called in the log, as the original has it.
const checking = "STONITH-stat"

func resetting(node string) string { return "STONITH " + node }

// runDevice runs it. The error has the end of its output, without what is secret.
func runDevice(ctx context.Context, cmd *exec.Cmd, log *logging.Log, title string, limit time.Duration, secrets []string) (code int, err error) {
	var out tail
	cmd.Stdout, cmd.Stderr = &out, &out
	err = cmd.Run()
	if cmd.ProcessState != nil {
		code = cmd.ProcessState.ExitCode()
		node.LogEnd(log, title, cmd.ProcessState)
	}
	switch {
	case err == nil:
		return code, nil
	case errors.Is(ctx.Err(), context.DeadlineExceeded):
		return code, fmt.Errorf("not within %v", limit)
	case cmd.ProcessState == nil:
		return -1, err
	}
	text := string(out.bytes)
	for _, s := range secrets {
		if len(s) >= secretBytesMin {
			text = strings.ReplaceAll(text, s, "***")
		}
	}
	text = strings.ToValidUTF8(text[max(0, len(text)-deviceOutputMax):], "")
	text = strings.Join(strings.Fields(text), " ")
	if text == "" {
		return code, err
	}
	return code, fmt.Errorf("%w: %s", err, text)
}

// tail keeps the end of what is written to it, and more than is told, so that a
// secret is cut nowhere where it would not be found.
type tail struct{ bytes []byte }

const tailBytesMax = 16 << 10

func (t *tail) Write(p []byte) (int, error) {
	t.bytes = append(t.bytes, p[max(0, len(p)-tailBytesMax):]...)
	t.bytes = t.bytes[max(0, len(t.bytes)-tailBytesMax):]
	return len(p), nil
}
