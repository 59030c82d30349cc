package config

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"net/netip"
	"os"
	"os/user"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// ReadFiles reads the files of a configuration directory.
func ReadFiles(dir string) Files {
	read := func(name string) File {
		path := filepath.Join(dir, name)
		st, err := os.Stat(path)
		if err != nil {
			return File{Err: err}
		}
		if st.Size() > fileBytesMax {
			return File{Err: fmt.Errorf("read %s: larger than %d bytes", path, fileBytesMax)}
		}
		data, err := os.ReadFile(path)
		return File{Data: data, Mode: st.Mode(), Err: err}
	}
	return Files{Dir: dir, HACF: read("ha.cf"), AuthKeys: read("authkeys"), HAResources: read("haresources"),
		TOML: read("heartbeat.toml"), NodeInfo: read("nodeinfo")}
}

// fileBytesMax is far above any configuration; a device or a wrong path is not
// read into memory.
const fileBytesMax = 1 << 18

// OSHost is the machine that runs this program.
type OSHost struct {
	// ResolveTimeout bounds a name lookup; 5 s when 0. A start must not hang on
	// a name server behind the network that heartbeat is to repair.
	ResolveTimeout time.Duration
}

var _ Host = OSHost{}

// NodeName is uname -n.
func (OSHost) NodeName() string {
	var u unix.Utsname
	if unix.Uname(&u) != nil {
		return ""
	}
	return unix.ByteSliceToString(u.Nodename[:])
}

// Broadcast asks for the broadcast address. As for the original's ioctl an
// interface with an IPv4 address is enough.
func (h OSHost) Broadcast(iface string) error { return h.Address(iface) }

// Address asks for an IPv4 address.
func (OSHost) Address(iface string) error {
	fd, err := unix.Socket(unix.AF_INET, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return fmt.Errorf("open socket: %w", err)
	}
	defer unix.Close(fd)
	req, err := unix.NewIfreq(iface)
	if err != nil {
		return unix.ENODEV // longer than any interface's name
	}
	return unix.IoctlIfreq(fd, unix.SIOCGIFADDR, req)
}

// InterfaceIndex is the number of an interface.
func (OSHost) InterfaceIndex(iface string) (int, error) {
	fd, err := unix.Socket(unix.AF_INET, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return 0, fmt.Errorf("open socket: %w", err)
	}
	defer unix.Close(fd)
	req, err := unix.NewIfreq(iface)
	if err != nil {
		return 0, unix.ENODEV
	}
	if err := unix.IoctlIfreq(fd, unix.SIOCGIFINDEX, req); err != nil {
		return 0, err
	}
	return int(req.Uint32()), nil
}

// Resolve looks a name up within ResolveTimeout.
func (h OSHost) Resolve(name string, v6 bool) error {
	network := "ip4"
	if v6 {
		network = "ip6"
	}
	if addr, err := netip.ParseAddr(name); err == nil {
		if addr.Is6() != v6 {
			return errors.New("it is an address of the other family")
		}
		return nil
	}
	timeout := h.ResolveTimeout
	if timeout == 0 {
		timeout = 5 * time.Second
	}
	ctx, cancel := context.WithTimeout(context.Background(), timeout)
	defer cancel()
	_, err := net.DefaultResolver.LookupNetIP(ctx, network, name)
	return err
}

// UserExists reports whether the user database has the name.
func (OSHost) UserExists(name string) bool {
	_, err := user.Lookup(name)
	return err == nil
}

// GroupExists reports whether the group database has the name.
func (OSHost) GroupExists(name string) bool {
	_, err := user.LookupGroup(name)
	return err == nil
}

// Executable reports whether path is a file with an execute bit.
func (OSHost) Executable(path string) bool {
	st, err := os.Stat(path)
	return err == nil && st.Mode().IsRegular() && st.Mode()&0o111 != 0
}

// Readable opens path for reading.
func (OSHost) Readable(path string) error {
	f, err := os.Open(path)
	if err != nil {
		return err
	}
	return f.Close()
}

// CharDevice looks at the kind of a file.
func (OSHost) CharDevice(path string) error {
	st, err := os.Stat(path)
	if err != nil {
		return err
	}
	if st.Mode()&fs.ModeCharDevice == 0 {
		return ErrNotCharDevice
	}
	return nil
}

// ServicePort looks into the services database.
func (OSHost) ServicePort(name string) int {
	port := 0
	services(func(n string, p int) bool {
		if n == name {
			port = p
		}
		return port == 0
	})
	return port
}

// ServiceName looks into the services database.
func (OSHost) ServiceName(port int) string {
	name := ""
	services(func(n string, p int) bool {
		if p == port {
			name = n
		}
		return name == ""
	})
	return name
}

// services calls f for each UDP service of /etc/services until it returns
// false.
func services(f func(name string, port int) bool) {
	data, err := os.ReadFile("/etc/services")
	if err != nil {
		return // no database: no service has a name
	}
	for l := range strings.Lines(string(data)) {
		l, _, _ = strings.Cut(l, "#")
		words := strings.Fields(l)
		if len(words) < 2 {
			continue
		}
		number, proto, _ := strings.Cut(words[1], "/")
		port, err := strconv.Atoi(number)
		if err == nil && proto == "udp" && !f(words[0], port) {
			return
		}
	}
}

// stonithDirs are where cluster-glue keeps its plugins.
var stonithDirs = []string{"/usr/lib/stonith/plugins", "/usr/lib64/stonith/plugins", "/usr/libexec/stonith/plugins"}

// Program looks at the file.
func (OSHost) Program(path string) bool {
	st, err := os.Stat(path)
	return err == nil && st.Mode().IsRegular() && st.Mode()&0o111 != 0
}

// StonithType looks for the plugin's file.
func (OSHost) StonithType(name string) bool {
	if name == "" || name == "external" || strings.Contains(name, "..") {
		return false
	}
	for _, dir := range stonithDirs {
		path := filepath.Join(dir, "stonith2", name+".so")
		if strings.HasPrefix(name, "external/") {
			path = filepath.Join(dir, name)
		}
		if st, err := os.Stat(path); err == nil && st.Mode().IsRegular() {
			return true
		}
	}
	return false
}

// LogdRunning connects to the logging daemon's socket.
func (OSHost) LogdRunning() bool {
	for _, path := range []string{"/var/lib/heartbeat/log_daemon", "/run/heartbeat/log_daemon"} {
		conn, err := net.DialTimeout("unix", path, time.Second)
		if err == nil {
			conn.Close()
			return true
		}
	}
	return false
}

// strerror is an error as C's strerror words it.
func strerror(err error) string {
	switch {
	case errors.Is(err, syscall.ENODEV):
		return "No such device"
	case errors.Is(err, syscall.EADDRNOTAVAIL):
		return "Cannot assign requested address"
	}
	return err.Error()
}

// interfaceWhy is what an interface's error means.
func interfaceWhy(err error) string {
	switch {
	case errors.Is(err, syscall.ENODEV):
		return "there is no such interface"
	case errors.Is(err, syscall.EADDRNOTAVAIL):
		return "the interface has no IPv4 address"
	}
	return err.Error()
}
