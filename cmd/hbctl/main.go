// Command hbctl is every operator's command of heartbeat. Under the names
// cl_status, hb_standby, hb_takeover, hb_addnode, hb_delnode, hb_setweight,
// hb_setsite, ResourceManager, req_resource and mach_down it behaves as
// heartbeat 3.0.6's program of that name.
package main

import (
	"context"
	"os"
	"os/signal"
	"syscall"
)

// version is set by the linker.
var version = "unknown"

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	code := Run(ctx, os.Args[0], os.Args[1:], os.Stdin, os.Stdout, os.Stderr)
	stop()
	os.Exit(code)
}
