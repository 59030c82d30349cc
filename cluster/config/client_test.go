package config

import "testing"

// TestClientBuiltin: which respawn lines stand for something that is no program
// any more.
func TestClientBuiltin(t *testing.T) {
	for command, want := range map[string]string{
		"/usr/libexec/heartbeat/ipfail":     "ipfail",
		"/usr/lib/heartbeat/ipfail":         "ipfail",
		"/usr/lib64/heartbeat/ipfail -d 1":  "ipfail",
		"/usr/lib/heartbeat/ipfail\t-d":     "ipfail",
		"/usr/libexec/heartbeat/dopd":       "dopd",
		"/usr/libexec/heartbeat/ipfail.old": "",
		"/opt/run /usr/libexec/ipfail":      "",
		"/ipfail/watch":                     "",
		"":                                  "",
	} {
		if got := (Client{Command: command}).Builtin(); got != want {
			t.Errorf("%q stands for %q, want %q", command, got, want)
		}
	}
}
