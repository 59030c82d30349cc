// Package agent takes orders inside a virtual machine: one JSON object a line
// over a virtio serial port, each answered by one line. Orders run side by side.
package agent

import (
	"bufio"
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"time"
)

// Port is the name of the virtio serial port.
const Port = "orders"

// Request asks for one shell command.
type Request struct {
	ID      int64  `json:"id"`
	Command string `json:"command"`
	// Seconds is the limit after which it is killed.
	Seconds float64 `json:"seconds"`
}

// Reply is how it ended. The one with ID 0 says that the machine has come up.
type Reply struct {
	ID     int64  `json:"id"`
	Output []byte `json:"output"` // stdout and stderr
	Code   int    `json:"code"`
	Err    string `json:"err,omitempty"` // why there is no exit code
}

// Serve takes orders for ever; it returns when there is no port.
func Serve() error {
	port, err := open()
	if err != nil {
		return err
	}
	var mu sync.Mutex
	send := func(r Reply) {
		line, _ := json.Marshal(r) // has nothing that cannot be marshalled
		mu.Lock()
		defer mu.Unlock()
		_, _ = port.Write(append(line, '\n')) // nobody else to tell it to
	}
	send(Reply{})
	in := bufio.NewReader(port)
	for {
		line, err := in.ReadBytes('\n')
		if err != nil {
			// With nobody at the other end the port reads as closed.
			time.Sleep(50 * time.Millisecond)
			continue
		}
		var q Request
		if json.Unmarshal(line, &q) == nil {
			go func() { send(run(q)) }() // ends with the command
		}
	}
}

// open finds the port, whatever its number.
func open() (*os.File, error) {
	for range 500 {
		names, _ := filepath.Glob("/sys/class/virtio-ports/*/name")
		for _, n := range names {
			text, _ := os.ReadFile(n)
			if strings.TrimSpace(string(text)) == Port {
				return os.OpenFile("/dev/"+filepath.Base(filepath.Dir(n)), os.O_RDWR, 0)
			}
		}
		time.Sleep(10 * time.Millisecond)
	}
	return nil, fmt.Errorf("no virtio port has the name %q", Port)
}

func run(q Request) Reply {
	r := Reply{ID: q.ID}
	cmd := exec.Command("/bin/bash", "-c", q.Command)
	cmd.Env = []string{"PATH=/usr/sbin:/usr/bin:/sbin:/bin", "HOME=/root", "LC_ALL=C"}
	var out bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &out
	// A daemon that it leaves behind keeps the output open.
	cmd.WaitDelay = 500 * time.Millisecond
	if err := cmd.Start(); err != nil {
		r.Err = err.Error()
		return r
	}
	limit := time.AfterFunc(time.Duration(q.Seconds*float64(time.Second)), func() { _ = cmd.Process.Kill() })
	err := cmd.Wait()
	if !limit.Stop() {
		r.Err = fmt.Sprintf("killed after %v s", q.Seconds)
	}
	var exit *exec.ExitError
	switch {
	case errors.As(err, &exit):
		r.Code = exit.ExitCode()
	case err != nil && !errors.Is(err, exec.ErrWaitDelay):
		r.Err = err.Error()
	}
	r.Output = out.Bytes()
	return r
}
