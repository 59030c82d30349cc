package node

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"slices"

	"heartbeat/cluster/control"
)

// HistoryMax is how many events are kept for `hbctl why`.
const HistoryMax = 200

// historyFileMax is how many lines the file may have before it is rewritten
// with the last HistoryMax.
const historyFileMax = 2 * HistoryMax

// history is the last events, oldest first. It belongs to the loop.
type history struct{ events []control.Event }

func (h *history) add(e control.Event) {
	if len(h.events) == HistoryMax {
		h.events = slices.Delete(h.events, 0, 1)
	}
	h.events = append(h.events, e)
}

// last returns the newest n, newest first.
func (h *history) last(n int) []control.Event {
	n = min(n, len(h.events))
	out := slices.Clone(h.events[len(h.events)-n:])
	slices.Reverse(out)
	return out
}

// OpenHistory reads the file's last events. Lines that are no events (cut off
// by a crash) are left out. A missing file is empty; with an error the file can
// be used all the same, beginning with nothing.
func OpenHistory(path string) (*HistoryFile, error) {
	h := &HistoryFile{path: path}
	text, err := os.ReadFile(path)
	if errors.Is(err, fs.ErrNotExist) {
		return h, nil
	}
	if err != nil {
		return h, fmt.Errorf("read history: %w", err)
	}
	h.torn = len(text) > 0 && text[len(text)-1] != '\n'
	for line := range bytes.Lines(text) {
		h.lines++
		var e control.Event
		if json.Unmarshal(line, &e) == nil && e.Text != "" {
			h.kept.add(e)
		}
	}
	return h, nil
}

// HistoryFile is the events on disk. It belongs to the disk's goroutine.
type HistoryFile struct {
	path  string
	lines int
	kept  history
	// torn: the file does not end with a newline.
	torn bool
}

// append adds one line, and rewrites the file when it has become too long.
func (h *HistoryFile) append(e control.Event) error {
	h.kept.add(e)
	if h.lines >= historyFileMax {
		var all []byte
		for _, e := range h.kept.events {
			line, err := json.Marshal(e)
			if err != nil {
				return fmt.Errorf("write history: %w", err)
			}
			all = append(append(all, line...), '\n')
		}
		if err := writeDurable(h.path, all, 0o644); err != nil {
			return err
		}
		h.lines, h.torn = len(h.kept.events), false
		return nil
	}
	line, err := json.Marshal(e)
	if err != nil {
		return fmt.Errorf("write history: %w", err)
	}
	if h.torn {
		line = append([]byte{'\n'}, line...)
	}
	f, err := os.OpenFile(h.path, os.O_WRONLY|os.O_APPEND|os.O_CREATE, 0o644)
	if err != nil {
		return fmt.Errorf("write history: %w", err)
	}
	if _, err := f.Write(append(line, '\n')); err != nil {
		h.torn = true
		_ = f.Close()
		return fmt.Errorf("write history: %w", err)
	}
	h.lines, h.torn = h.lines+1, false
	if err := f.Close(); err != nil {
		return fmt.Errorf("write history: %w", err)
	}
	return nil
}
