package config

import (
	"fmt"
	"math"
	"strconv"
	"strings"
	"time"
)

// parseTime reads a time as ha.cf writes it: digits and dots, then nothing
// (seconds) or a word that begins with "ms" or "us" in any case. The number
// ends at its second dot. Rounded to the millisecond, half up.
func parseTime(s string) (time.Duration, error) {
	n := 0
	for n < len(s) && (s[n] >= '0' && s[n] <= '9' || s[n] == '.') {
		n++
	}
	number, unit := s[:n], strings.ToLower(s[n:])
	if strings.Trim(number, ".") == "" {
		return 0, fmt.Errorf("%q is not a time", s)
	}
	if first := strings.IndexByte(number, '.'); first >= 0 {
		if second := strings.IndexByte(number[first+1:], '.'); second >= 0 {
			number = number[:first+1+second]
		}
	}
	value, err := strconv.ParseFloat(number, 64)
	if err != nil {
		value = 0 // only "." is left: "..5" begins with an empty number
	}
	var ms float64
	switch {
	case unit == "":
		ms = value * 1000
	case strings.HasPrefix(unit, "ms"):
		ms = value
	case strings.HasPrefix(unit, "us"):
		ms = value / 1000
	default:
		return 0, fmt.Errorf("%q has an unknown unit %q", s, s[n:])
	}
	ms = math.Floor(ms + 0.5)
	if ms > float64(timeMax/time.Millisecond) {
		return 0, fmt.Errorf("%q is longer than %d days", s, timeMax/(24*time.Hour))
	}
	return time.Duration(ms) * time.Millisecond, nil
}

// timeMax bounds every time directive, far above any use and far below
// overflow of a time.Duration.
const timeMax = 10 * 365 * 24 * time.Hour

// parseBool reads the words of a boolean directive, in any case.
func parseBool(s string) (value, ok bool) {
	switch strings.ToLower(s) {
	case "true", "on", "yes", "y", "1":
		return true, true
	case "false", "off", "no", "n", "0":
		return false, true
	}
	return false, false
}

// leadingInt reads a number as C's atoi does: blanks, sign, digits; 0 when
// there is none. exact says that nothing else stood there. Numbers beyond 32
// bits are clamped.
func leadingInt(s string) (n int, exact bool) {
	t := strings.TrimLeft(s, " \t")
	end := 0
	if end < len(t) && (t[end] == '-' || t[end] == '+') {
		end++
	}
	digits := end
	for end < len(t) && t[end] >= '0' && t[end] <= '9' {
		end++
	}
	if end == digits {
		return 0, false
	}
	v, err := strconv.ParseInt(t[:end], 10, 32)
	if err != nil {
		return int(v), false // v is the limit
	}
	return int(v), end == len(t) && t == s
}

// milliseconds is a duration as derived defaults are recorded: "10000ms".
func milliseconds(d time.Duration) string {
	return strconv.FormatInt(d.Milliseconds(), 10) + "ms"
}
