package daemon

import (
	"fmt"
	"io"
	"strings"
)

// flags are the command line. Words that are no flags are ignored, as the
// original does.
type flags struct {
	debug      int    // -d, repeatable
	defaults   bool   // -D: print the directives with their default values
	kill       bool   // -k
	unmanaged  bool   // -M: do not touch resources
	reload     bool   // -r
	restart    bool   // -R: restart by exec, internal
	status     bool   // -s
	verbose    bool   // -v: print the effective configuration first
	version    bool   // -V
	wiki       bool   // -W: with -D, in wiki form
	noRealtime bool   // -l
	foreground bool   // -f
	held       string // -C: what the predecessor of -R held
}

// usage goes to stderr after a wrong flag.
const usage = `
Usage: heartbeat [-dDkMrRsvWlVf] [-C Current-resource-state]
	-C only valid with -R
	-r is mutually exclusive with -R
`

// parseFlags reads clustered one-letter options (-dd, -DW, -C set, -Cset). It
// prints what is wrong and the usage.
func parseFlags(args []string, stderr io.Writer) (f flags, ok bool) {
	fail := func(format string, a ...any) (flags, bool) {
		if format != "" {
			fmt.Fprintf(stderr, "%s: "+format+"\n", append([]any{args[0]}, a...)...)
		}
		fmt.Fprint(stderr, usage)
		return f, false
	}
	set := map[byte]*bool{
		'D': &f.defaults, 'k': &f.kill, 'M': &f.unmanaged, 'r': &f.reload, 'R': &f.restart, 's': &f.status, 'v': &f.verbose,
		'V': &f.version, 'W': &f.wiki, 'l': &f.noRealtime, 'f': &f.foreground,
	}
	for i := 1; i < len(args); i++ {
		word := args[i]
		if word == "--" {
			break
		}
		if !strings.HasPrefix(word, "-") || word == "-" {
			continue
		}
		for j := 1; j < len(word); j++ {
			switch c := word[j]; {
			case c == 'd':
				f.debug++
			case set[c] != nil:
				*set[c] = true
			case c == 'C':
				f.held = word[j+1:]
				if f.held == "" {
					if i++; i == len(args) {
						return fail("option requires an argument -- 'C'")
					}
					f.held = args[i]
				}
				j = len(word)
			default:
				return fail("invalid option -- '%c'", c)
			}
		}
	}
	if f.held != "" && !f.restart {
		return fail("")
	}
	return f, true
}
