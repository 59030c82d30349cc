package node

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"

	"golang.org/x/sys/unix"

	"heartbeat/cluster"
	"heartbeat/cluster/engine"
	"heartbeat/cluster/node/logging"
	"heartbeat/transport/message"
)

// fifoMessageMax bounds one record; the original's lines end at 511
// characters, and no command writes more than a handful.
const fifoMessageMax = 16 << 10

// FIFO is the pipe into which hb_standby and scripts write their messages.
type FIFO struct{ f *os.File }

// OpenFIFO opens the pipe at path and makes it first if there is none, or if
// something else is in its place (a command that wrote while no daemon had run
// leaves a plain file). It may be read and written by root alone.
func OpenFIFO(path string) (f *FIFO, created bool, err error) {
	info, err := os.Lstat(path)
	switch {
	case err == nil && info.Mode().Type() == fs.ModeNamedPipe:
		if err := os.Chmod(path, 0o600); err != nil {
			return nil, false, fmt.Errorf("open fifo: %w", err)
		}
	case err == nil:
		if err := os.Remove(path); err != nil {
			return nil, false, fmt.Errorf("replace what is not a fifo: %w", err)
		}
		created = true
	case errors.Is(err, fs.ErrNotExist):
		created = true
	default:
		return nil, false, fmt.Errorf("open fifo: %w", err)
	}
	if created {
		if err := unix.Mkfifo(path, 0o600); err != nil {
			return nil, false, fmt.Errorf("make fifo %s: %w", path, err)
		}
	}
	// Read and write, so that the pipe never ends when a writer goes away.
	fd, err := os.OpenFile(path, os.O_RDWR|unix.O_NONBLOCK|unix.O_CLOEXEC, 0)
	if err != nil {
		return nil, created, fmt.Errorf("open fifo: %w", err)
	}
	return &FIFO{fd}, created, nil
}

// Close ends the reader.
func (f *FIFO) Close() error { return f.f.Close() }

// readFIFO hands every record to the loop until the FIFO is closed. A record
// that makes no sense is discarded with a line in the log; reading resumes at
// the next ">>>".
func (n *Node) readFIFO(f *FIFO) {
	lines := message.Lines{BytesMax: fifoMessageMax}
	buf := make([]byte, 4096)
	for {
		size, err := f.f.Read(buf)
		if err != nil {
			if !errors.Is(err, os.ErrClosed) {
				n.log.Printf(cluster.Error, "FIFO is no longer read: %v", err)
			}
			return
		}
		for data := buf[:size]; len(data) > 0; {
			record, used := lines.Next(data)
			data = data[used:]
			if record == nil {
				break
			}
			m, err := message.ParseClassic(record)
			if err == nil && m.Type() == "" {
				err = errors.New("it has no field t")
			}
			if err != nil {
				n.log.Write(logging.Record{
					Level: cluster.Warn, Text: fmt.Sprintf("FIFO message discarded: %v", err), Msg: "FIFO message discarded",
					Attrs: []logging.Attr{{Key: "err", Value: err}},
				})
				continue
			}
			in := engine.FIFOMessage{}
			for _, field := range m.Fields {
				in.Fields = append(in.Fields, [2]string{field.Name, field.Value})
			}
			if n.call(context.Background(), func() { n.step(in) }) != nil {
				return
			}
		}
	}
}
