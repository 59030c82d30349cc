package daemon

import (
	"context"
	"fmt"
	"path/filepath"
	"time"

	"golang.org/x/sys/unix"

	"heartbeat/cluster"
	"heartbeat/cluster/config"
	"heartbeat/cluster/node"
)

// programs are the programs of ha.cf's respawn and failfast lines, without those
// that stand for something built in; taken are a predecessor's.
func (d *daemonProcess) programs(taken []node.RunningProgram) *node.Programs {
	var list []node.Program
	for _, line := range d.config.Respawn {
		switch line.Builtin() {
		case config.ClientIPFail:
			if d.taken == nil {
				d.log.Printf(cluster.Info, "%s is built in: its respawn line switches it on, and no program is started", config.ClientIPFail)
			}
		case config.ClientDopd:
			d.log.Printf(cluster.Notice, "The respawn line for %s is accepted and does nothing: let DRBD's own fencing handlers outdate the peer", config.ClientDopd)
		default:
			list = append(list, node.Program{User: line.User, Command: line.Command, Failfast: line.Failfast})
		}
	}
	return node.NewPrograms(node.ProgramOptions{
		List: list, Taken: taken, Env: d.scriptEnv, Cores: filepath.Join(d.paths.State, "cores"), Notes: filepath.Join(d.paths.Run, "programs"), Log: d.log, Reboot: d.reboot,
	})
}

// rebootFlush is what the last log lines may take before the machine restarts.
const rebootFlush = 500 * time.Millisecond

// reboot restarts the machine at once, without stopping anything: what runs on
// it cannot be trusted any more. It returns only if that failed.
func (d *daemonProcess) reboot() error {
	ctx, cancel := context.WithTimeout(context.Background(), rebootFlush)
	defer cancel()
	d.log.Flush(ctx)
	if err := unix.Reboot(unix.LINUX_REBOOT_CMD_RESTART); err != nil {
		return fmt.Errorf("reboot: %w", err)
	}
	return nil
}
