package daemon

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"strings"
	"syscall"
	"time"

	"heartbeat/cluster/boot"
)

// fenceBudget bounds one reset; the engine tries again after a failed one.
const fenceBudget = 2 * time.Minute

// stonithProgram is cluster-glue's; it knows all the devices' plug-ins.
const stonithProgram = "stonith"

// fence resets a node and returns nil only when the device says that it did.
func (d *daemonProcess) fence(ctx context.Context, node string) error {
	device, ok := boot.FenceDevice(d.config)
	if !ok {
		return errors.New("no stonith device in ha.cf applies to this node")
	}
	args := []string{"-t", device.Type}
	if device.Host == "" {
		args = append(args, "-F", device.Params)
	} else {
		args = append(args, "-p", device.Params)
	}
	ctx, cancel := context.WithTimeout(ctx, fenceBudget)
	defer cancel()
	cmd := exec.CommandContext(ctx, stonithProgram, append(args, "-T", "reset", node)...)
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	cmd.Cancel = func() error { return syscall.Kill(-cmd.Process.Pid, syscall.SIGKILL) }
	cmd.WaitDelay = time.Second
	cmd.Env = append(os.Environ(), "PATH=/usr/sbin:/usr/bin:/sbin:/bin")
	out, err := cmd.CombinedOutput()
	switch {
	case errors.Is(err, exec.ErrNotFound):
		return fmt.Errorf("reset %s with device %s: no program %s: install cluster-glue", node, device.Type, stonithProgram)
	case ctx.Err() != nil:
		return fmt.Errorf("reset %s with device %s: not within %v", node, device.Type, fenceBudget)
	case err != nil:
		text := strings.TrimSpace(string(out[max(0, len(out)-500):]))
		return fmt.Errorf("reset %s with device %s: %w: %s", node, device.Type, err, text)
	}
	return nil
}
