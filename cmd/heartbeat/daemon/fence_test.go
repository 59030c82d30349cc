package daemon

import (
	"strings"
	"testing"

	"heartbeat/cluster/config"
)

// TestFenceDevice: the last line that names this node or everybody counts.
func TestFenceDevice(t *testing.T) {
	c := &config.Config{Self: "n1", Stonith: []config.Stonith{
		{Host: "*", Type: "null", Params: "n1 n2"},
		{Host: "n1", Type: "ssh", Params: "n2"},
		{Host: "n2", Type: "rhcs", Params: "x"},
	}}
	if d, ok := fenceDevice(c); !ok || d.Type != "ssh" {
		t.Errorf("device %v %v, want ssh", d, ok)
	}
	c.Self = "n3"
	if d, ok := fenceDevice(c); !ok || d.Type != "null" {
		t.Errorf("device %v %v, want null", d, ok)
	}
	c.Stonith = c.Stonith[2:]
	if d, ok := fenceDevice(c); ok {
		t.Errorf("device %v, want none", d)
	}
}

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
