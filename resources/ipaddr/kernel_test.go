package ipaddr

import (
	"net/netip"
	"testing"
)

// TestBroadcast: a wrong one can be the neighbour's service address, which then
// answers nobody.
func TestBroadcast(t *testing.T) {
	for _, tc := range []struct {
		name, prefix, given, want string
	}{
		{"a /16", "10.77.4.2/16", "", "10.77.255.255"},
		{"a /24 whose last bit is set already", "192.0.2.129/24", "", "192.0.2.255"},
		{"the smallest subnet that has one", "192.0.2.1/30", "", "192.0.2.3"},
		{"point to point", "192.0.2.1/31", "", ""},
		{"one host", "192.0.2.1/32", "", ""},
		{"everything", "10.0.0.1/0", "", "255.255.255.255"},
		{"given in haresources", "10.77.4.2/16", "10.77.4.255", "10.77.4.255"},
	} {
		a := &address{}
		if tc.given != "" {
			a.spec.broadcast = netip.MustParseAddr(tc.given)
		}
		var want netip.Addr
		if tc.want != "" {
			want = netip.MustParseAddr(tc.want)
		}
		if got := a.broadcast(netip.MustParsePrefix(tc.prefix)); got != want {
			t.Errorf("%s: %v, want %v", tc.name, got, want)
		}
	}
}
