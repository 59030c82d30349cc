// Package transport is the session between the nodes: sequence numbers,
// generations, acknowledgements and retransmission, and the Medium interface
// that the packages below it implement. It is pure: no socket, no clock.
package transport
