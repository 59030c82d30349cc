// Package logging writes heartbeat's log lines where ha.cf wants them: the log
// file and the debug file in the original's formats, syslog, and stderr when
// the daemon stays in the foreground.
//
// One happening is one Record. Its classic text goes to the files and to
// syslog, its constant message and fields to the structured formats on stderr.
//
// Nothing here makes a caller wait: records go through a bounded queue to one
// writer. What does not fit in is counted and said as soon as there is room
// again; a full disk or a hung one costs log lines and nothing else.
package logging
