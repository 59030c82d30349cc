// Package control is the control API of a running node: its types, the server
// in the daemon and the client in the operators' programs.
//
// It is HTTP over a unix socket, so curl works too:
//
//	curl --unix-socket /run/heartbeat/control.sock http://heartbeat/v1/status
//
// # Who may do what
//
// Everybody may ask. Orders are taken from root and from members of the group
// haclient. Who is asking is what the kernel says (SO_PEERCRED for uid and gid,
// SO_PEERGROUPS for supplementary groups), never what the caller claims; no
// program has to be setgid.
//
// # Requests
//
//	GET  /v1/status                 Status
//	GET  /v1/why?n=20               array of Event, newest first
//	GET  /v1/parameter?name=NAME    {"name": …, "value": …}; 404 when it is not set
//	POST /v1/order                  Order in, Steps out
//
// The answer to an order that was accepted is 200 and newline-delimited JSON:
// one Step per sentence of progress as it happens, the last one with
// "final": true and, when the order failed, "error" with the reason. An order
// that is refused outright is answered with 409. An order goes on when its
// caller stops listening: hanging up takes nothing back.
//
// Every answer but 200 has the body {"error": "sentence"}: 400 for a request
// that makes no sense, 403 for an order without the right to give it, 404 for
// what does not exist, 409 for a refusal, 503 when the daemon is too busy to
// answer in time.
//
// # JSON
//
// The keys of Status, Node, Link, Group, Timer, Event, Lateness, Order and Step
// (the struct tags in types.go) are a stable interface: keys are added, never
// renamed or removed, and readers ignore those they do not know. Times are RFC
// 3339 in wall time, for people. Spans are decimal seconds from the monotonic
// clock, their keys end in _seconds, and a span is what it was at the status's
// "at". A word that is not listed at its field may be added later.
package control
