package config

import "errors"

// ErrNotCharDevice is CharDevice's answer for a file of another kind.
var ErrNotCharDevice = errors.New("not a character device")

// Host is what Check asks the machine. All methods only look.
type Host interface {
	// NodeName is uname -n, as it is.
	NodeName() string
	// Broadcast asks for the IPv4 broadcast address of an interface. Errors:
	// ENODEV (no such interface), EADDRNOTAVAIL (no IPv4 address).
	Broadcast(iface string) error
	// Address asks for an IPv4 address of an interface; errors as Broadcast.
	Address(iface string) error
	// InterfaceIndex is the number of an interface; ENODEV without one.
	InterfaceIndex(iface string) (int, error)
	// Resolve looks up a host's IPv4 addresses, or its IPv6 ones. An address
	// of the right family resolves to itself.
	Resolve(name string, v6 bool) error
	// UserExists and GroupExists take names, not numbers.
	UserExists(name string) bool
	GroupExists(name string) bool
	// Executable reports whether path is a file that root may execute.
	Executable(path string) bool
	// Readable returns nil when path can be opened for reading.
	Readable(path string) error
	// CharDevice returns nil, ErrNotCharDevice or the error of stat.
	CharDevice(path string) error
	// ServicePort is the UDP port of a name in the services database, 0 if
	// none; ServiceName the other way round, "" if none.
	ServicePort(name string) int
	ServiceName(port int) string
	// StonithType reports whether cluster-glue has that stonith plugin.
	StonithType(name string) bool
	// Program reports whether the file is there and can be executed.
	Program(path string) bool
	// LogdRunning reports whether cluster-glue's logging daemon answers.
	LogdRunning() bool
}
