// Command heartbeat is the daemon: it keeps services alive on one of two
// machines. Its flags, files, texts and exit codes are those of Linux-HA
// heartbeat 3.0.6.
package main

import (
	"os"

	"heartbeat/cmd/heartbeat/daemon"
)

func main() {
	os.Exit(daemon.Run(os.Args, os.Stdout, os.Stderr))
}
