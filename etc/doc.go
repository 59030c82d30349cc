// Package etc holds what an installation consists of besides the programs:
// samples, the init script, the systemd unit, wrappers of OCF agents. `make
// install` puts it in place; the package's tests install it and use it.
package etc
