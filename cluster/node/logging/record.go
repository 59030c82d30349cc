package logging

import (
	"strconv"
	"strings"
	"time"

	"heartbeat/cluster"
)

// Attr is one field of a structured record.
type Attr struct {
	Key   string
	Value any
}

// Record is one happening.
type Record struct {
	At    time.Time
	Level cluster.Level
	// Text is the classic line without time stamp, process and level.
	Text string
	// Msg is the constant message of the structured formats; Text is used when
	// it is empty.
	Msg   string
	Attrs []Attr
	// Entity and PID name the process; empty and zero mean this daemon.
	Entity string
	PID    int
	// Script is set for lines that a shell script of the original wrote
	// ("ResourceManager(default)"): they have a format of their own, and Word
	// ("info:", "ERROR:", empty for none) in place of the level.
	Script string
	Word   string

	// reopen marks no line but the order to open the files anew.
	reopen bool
}

const (
	dateDaemon = "Jan 02 15:04:05"
	dateScript = "2006/01/02_15:04:05"
)

// oneLine keeps a record to one line of the file: what the network or a script
// put into it cannot forge another.
func oneLine(dst []byte, text string) []byte {
	if strings.IndexFunc(text, control) < 0 {
		return append(dst, text...)
	}
	for _, r := range text {
		switch {
		case r == '\n':
			dst = append(dst, `\n`...)
		case r == '\t':
			dst = append(dst, '\t')
		case control(r):
			dst = append(dst, strconv.QuoteRuneToASCII(r)[1:]...)
			dst = dst[:len(dst)-1]
		default:
			dst = append(dst, string(r)...)
		}
	}
	return dst
}

func control(r rune) bool { return r < ' ' && r != '\t' || r == 0x7f }

// appendDaemon writes "Nov 21 03:57:12 node1 heartbeat: [55]: WARN: text", or
// with legacy (syslogmsgfmt false) "heartbeat[55]: 2026/11/21_03:57:12 WARN:
// text".
func appendDaemon(dst []byte, r *Record, host string, legacy bool) []byte {
	if legacy {
		dst = append(dst, r.Entity...)
		dst = append(dst, '[')
		dst = strconv.AppendInt(dst, int64(r.PID), 10)
		dst = append(dst, "]: "...)
		dst = r.At.AppendFormat(dst, dateScript)
		dst = append(dst, ' ')
	} else {
		dst = r.At.AppendFormat(dst, dateDaemon)
		dst = append(dst, ' ')
		dst = append(dst, host...)
		dst = append(dst, ' ')
		dst = append(dst, r.Entity...)
		dst = append(dst, ": ["...)
		dst = strconv.AppendInt(dst, int64(r.PID), 10)
		dst = append(dst, "]: "...)
	}
	dst = append(dst, r.Level.String()...)
	dst = append(dst, ": "...)
	dst = oneLine(dst, r.Text)
	return append(dst, '\n')
}

// appendScript writes a shell script's line: in the log file the date comes
// first, two blanks, the tag, a colon and four blanks; in the debug file the
// tag comes first, a colon, a tab, the date and one blank.
func appendScript(dst []byte, r *Record, debugfile bool) []byte {
	tag := func() {
		dst = append(dst, r.Script...)
		dst = append(dst, '[')
		dst = strconv.AppendInt(dst, int64(r.PID), 10)
		dst = append(dst, "]:"...)
	}
	if debugfile {
		tag()
		dst = append(dst, '\t')
		dst = r.At.AppendFormat(dst, dateScript)
		dst = append(dst, ' ')
	} else {
		dst = r.At.AppendFormat(dst, dateScript)
		dst = append(dst, "  "...)
		tag()
		dst = append(dst, "    "...)
	}
	if r.Word != "" {
		dst = append(dst, r.Word...)
		dst = append(dst, ' ')
	}
	dst = oneLine(dst, r.Text)
	return append(dst, '\n')
}

// appendFile writes the record as the log file (or the debug file) shows it.
func appendFile(dst []byte, r *Record, host string, legacy, debugfile bool) []byte {
	if r.Script != "" {
		return appendScript(dst, r, debugfile)
	}
	return appendDaemon(dst, r, host, legacy)
}
