// Command vm-agent takes a test's orders inside a virtual machine.
package main

import (
	"fmt"
	"os"
	"time"

	"heartbeat/integration/vm/agent"
)

func main() {
	err := agent.Serve()
	fmt.Fprintln(os.Stderr, "vm-agent:", err)
	time.Sleep(time.Second) // init starts it again at once
	os.Exit(1)
}
