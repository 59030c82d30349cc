package main

import (
	"fmt"
	"io"
	"strings"
)

// option is one option as getopt(3) tells it: '?' for one that is unknown or
// lacks its argument.
type option struct {
	letter rune
	value  string
}

// getopt reads args as GNU getopt does, the original's way: letters may be
// clustered, a letter followed by ':' in letters takes an argument, options may
// stand after parameters, and "--" ends them. Complaints go to w in getopt's
// words; with once the first ends the reading.
func getopt(w io.Writer, name string, args []string, letters string, once bool) (options []option, parameters []string) {
	for len(args) > 0 {
		word := args[0]
		args = args[1:]
		if word == "--" {
			return options, append(parameters, args...)
		}
		if len(word) < 2 || word[0] != '-' {
			parameters = append(parameters, word)
			continue
		}
		for cluster := word[1:]; cluster != ""; {
			if n := len(options); once && n > 0 && options[n-1].letter == '?' {
				return options, parameters
			}
			letter := cluster[:1]
			cluster = cluster[1:]
			at := strings.Index(letters, letter)
			switch {
			case at < 0 || letter == ":":
				fmt.Fprintf(w, "%s: invalid option -- '%s'\n", name, letter)
				options = append(options, option{letter: '?'})
			case !strings.HasPrefix(letters[at+1:], ":"):
				options = append(options, option{letter: rune(letter[0])})
			case cluster != "":
				options = append(options, option{rune(letter[0]), cluster})
				cluster = ""
			case len(args) > 0:
				options = append(options, option{rune(letter[0]), args[0]})
				args = args[1:]
			default:
				fmt.Fprintf(w, "%s: option requires an argument -- '%s'\n", name, letter)
				options = append(options, option{letter: '?'})
			}
		}
	}
	return options, parameters
}
