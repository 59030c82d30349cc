package logging

import (
	"fmt"
	"net"
	"strconv"
	"strings"
	"time"

	"heartbeat/cluster"
)

// facilities are syslog's facility names as ha.cf spells them.
var facilities = map[string]int{
	"kern": 0, "user": 1, "mail": 2, "daemon": 3, "auth": 4, "security": 4, "syslog": 5, "lpr": 6, "news": 7,
	"uucp": 8, "cron": 9, "authpriv": 10, "ftp": 11,
	"local0": 16, "local1": 17, "local2": 18, "local3": 19, "local4": 20, "local5": 21, "local6": 22, "local7": 23,
}

// severity is the syslog severity of a level.
func severity(l cluster.Level) int {
	switch l {
	case cluster.Crit:
		return 2
	case cluster.Error:
		return 3
	case cluster.Warn:
		return 4
	case cluster.Notice:
		return 5
	case cluster.Debug:
		return 7
	}
	return 6
}

// syslog sends records to the local syslog socket. It never waits: a daemon
// that does not keep up, or does not run, loses lines.
type syslog struct {
	path     string
	facility int
	conn     *net.UnixConn
	retry    time.Time
}

func newSyslog(path, facility string) (*syslog, error) {
	n, ok := facilities[strings.ToLower(facility)]
	if !ok {
		return nil, fmt.Errorf("log facility %q: not known to syslog", facility)
	}
	return &syslog{path: path, facility: n}, nil
}

func (s *syslog) write(now time.Time, r *Record, buf []byte) []byte {
	buf = append(buf[:0], '<')
	buf = strconv.AppendInt(buf, int64(s.facility<<3|severity(r.Level)), 10)
	buf = append(buf, '>')
	buf = r.At.AppendFormat(buf, time.Stamp)
	buf = append(buf, ' ')
	tag := r.Entity
	if r.Script != "" {
		tag = r.Script
	}
	buf = append(buf, tag...)
	buf = append(buf, ": ["...)
	buf = strconv.AppendInt(buf, int64(r.PID), 10)
	buf = append(buf, "]: "...)
	switch {
	case r.Script == "":
		buf = append(buf, r.Level.String()...)
		buf = append(buf, ": "...)
	case r.Word != "":
		buf = append(buf, r.Word...)
		buf = append(buf, ' ')
	}
	buf = oneLine(buf, r.Text)
	for range 2 { // a restarted syslog daemon needs a new connection
		if s.conn == nil {
			if now.Before(s.retry) {
				return buf
			}
			conn, err := net.DialUnix("unixgram", nil, &net.UnixAddr{Name: s.path, Net: "unixgram"})
			if err != nil {
				s.retry = now.Add(10 * time.Second)
				return buf
			}
			s.conn = conn
		}
		_ = s.conn.SetWriteDeadline(now.Add(50 * time.Millisecond))
		if _, err := s.conn.Write(buf); err == nil {
			return buf
		}
		s.close()
	}
	return buf
}

func (s *syslog) close() {
	if s.conn != nil {
		_ = s.conn.Close()
		s.conn = nil
	}
}
