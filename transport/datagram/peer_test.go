package datagram

import "testing"

func TestPeer(t *testing.T) {
	for _, test := range []struct{ name, host, network, want string }{
		{"address", "192.0.2.1", "ip4", "192.0.2.1"},
		{"address with zone", "fe80::1%lo", "ip6", "fe80::1%lo"},
		{"name", "localhost", "ip4", "127.0.0.1"},
		{"no name", "not a name", "ip4", "not a name"},
	} {
		t.Run(test.name, func(t *testing.T) {
			changed := make(chan struct{}, 1)
			p := NewPeer(test.host, test.network, func() { changed <- struct{}{} })
			defer p.Close()
			p.Wait(t.Context())
			if got := p.String(); got != test.want {
				t.Errorf("%s, want %s", got, test.want)
			}
			if addr, ok := p.Addr(); ok != (addr.String() == test.want) {
				t.Errorf("address %v, known %t", addr, ok)
			}
			if p.Host() != test.host {
				t.Errorf("host %q", p.Host())
			}
			select {
			case <-changed:
				if p.retry == nil {
					t.Error("an address was reported as changed")
				}
			default:
				if _, ok := p.Addr(); ok && p.retry != nil {
					t.Error("a resolved name was not reported")
				}
			}
		})
	}
}
