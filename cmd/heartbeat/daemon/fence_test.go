package daemon

import (
	"strings"
	"testing"

	"heartbeat/cluster/config"
)

// TestFence runs cluster-glue's program with its device that does nothing.
func TestFence(t *testing.T) {
	d := &daemonProcess{}
	d.config = &config.Config{Self: "n1", Stonith: []config.Stonith{{Host: "*", Type: "null", Params: "n1 n2"}}}
	if err := d.fence(t.Context(), "n2"); err != nil {
		t.Errorf("null device: %v", err)
	}
	d.config.Stonith[0].Type = "nosuchdevice"
	if err := d.fence(t.Context(), "n2"); err == nil || !strings.Contains(err.Error(), "nosuchdevice") {
		t.Errorf("unknown device: %v", err)
	}
	d.config.Stonith = nil
	if err := d.fence(t.Context(), "n2"); err == nil {
		t.Error("no device, and no error")
	}
}
