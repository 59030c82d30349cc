// Package serial has heartbeat's serial lines.
//
// The line is 8N1 without modem control, with RTS/CTS flow control unless told
// otherwise, input stripped to seven bits and freed of carriage returns, as
// heartbeat sets it up. Messages travel in the classic line form; a damaged one
// is skipped up to the begin of the next.
//
// A line is slow and may have nobody at its other end. Send therefore only puts
// the packet into a short queue that drops its oldest: what goes out is fresh.
// A packet that the line does not take in time is given up together with what
// the kernel still holds of it; the next one begins on a new line, so the other
// end finds its begin.
//
// A line that hangs up (an adapter was pulled) is closed, and opened again when
// the device is back.
package serial
