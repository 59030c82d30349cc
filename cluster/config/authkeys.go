package config

import (
	"errors"
	"fmt"
	"io/fs"
	"strings"
)

// keyIndexMax is the highest index of a key.
const keyIndexMax = 15

// Mode bits that lay the keys open.
const readableByOthers fs.FileMode = 0o044

// parseAuthKeys reads authkeys. Comments are whole lines; any line that begins
// with "a" is the auth line; a key counts as the signing key only when the auth
// line stands before it.
func parseAuthKeys(cfg *Config, f File) Problems {
	path, classic := cfg.path("authkeys"), classicPath(cfg.Dir, "authkeys")
	var probs Problems
	add := func(pos Pos, s Severity, lines []string, what, why, fix string) {
		pos.File = path
		probs = append(probs, Problem{Pos: pos, Severity: s, What: what, Why: why, Fix: fix, Classic: lines,
			Err: f.Err, at: order{phaseAuthKeys, pos.Line, pos.Col}})
	}
	if f.Err != nil {
		add(Pos{}, Error, []string{fmt.Sprintf("ERROR: Cannot open keyfile [%s].  Stop.", classic)},
			"cannot be read", f.Err.Error(), "write two lines, auth 1 and 1 sha1 SECRET, the same on both nodes, mode 600")
		return probs
	}
	open := f.Mode&readableByOthers != 0
	if open {
		add(Pos{}, Error, []string{fmt.Sprintf("ERROR: Bad permissions on keyfile [%s], 600 recommended.", classic)},
			fmt.Sprintf("mode %#o", f.Mode.Perm()), "others than the owner can read the keys", "chmod 600 "+path)
	}
	// say drops the original's lines when it has stopped at the permissions.
	say := func(lines ...string) []string {
		if open {
			return nil
		}
		return lines
	}

	auth := -1                   // the index of the last auth line
	signing := -1                // the index of the key that signs
	methods := map[string]bool{} // methods in use, as the original counts them
	var authPos Pos
	indexPos := map[int]Pos{}
	lines := strings.SplitAfter(string(f.Data), "\n")
	for i, raw := range lines {
		text := strings.TrimLeft(raw, " \t\r\n")
		if text == "" || text[0] == '#' {
			continue
		}
		pos := Pos{Line: i + 1, Col: len(raw) - len(text) + 1}
		if text[0] == 'a' {
			n, _, ok := scanInt(strings.TrimPrefix(text, "auth"))
			if !ok || !strings.HasPrefix(text, "auth") {
				add(pos, Error, say(fmt.Sprintf("ERROR: Invalid auth line [%s] in %s", raw, classicPath(cfg.Dir, "authkeys"))),
					"invalid auth line", "it takes the number of the key to sign with", "write: auth 1")
				continue
			}
			auth, authPos = n, pos
			continue
		}
		index, rest, ok := scanInt(text)
		words := strings.Fields(rest)
		switch {
		case !ok || len(words) == 0:
			add(pos, Error, say(fmt.Sprintf("ERROR: Auth line [%s] is invalid.", raw)),
				"invalid line", "a key line is a number, a method and a key", "write: 1 sha1 SECRET")
			continue
		case index < 0 || index > keyIndexMax:
			add(pos, Error, say(fmt.Sprintf("ERROR: Invalid authnum [%d] in %s", index, classic)),
				fmt.Sprintf("key number %d", index), fmt.Sprintf("keys are numbered 0 to %d", keyIndexMax), "renumber it")
			continue
		}
		key := Key{Index: index, Method: words[0]}
		if len(words) > 1 {
			key.Secret = words[1]
		}
		switch key.Method {
		case "crc":
			if key.Secret != "" {
				add(pos, Error, say("info: Auth method [crc] doesn't use a key"),
					"crc with a key", "it is a checksum and keeps nobody out", "write sha1 before the key, or remove the key")
				continue
			}
		case "md5", "sha1", "sha256", "sha512":
			if key.Secret == "" {
				add(pos, Error, say(fmt.Sprintf("ERROR: Auth method [%s] requires a key", key.Method)),
					key.Method+" without a key", "it signs with a secret", "add one word that both nodes know")
				continue
			}
			if strings.HasPrefix(key.Method, "sha256") || strings.HasPrefix(key.Method, "sha512") {
				add(pos, Warn, nil, "method "+key.Method, "heartbeat 3.0.6 cannot read this file, even when the key is unused",
					"keep it only when both nodes run this program")
			}
		default:
			add(pos, Error, say(
				fmt.Sprintf("ERROR: LoadPlugin on %s returned 5: No such plugin/interface/interface type", key.Method),
				fmt.Sprintf("ERROR: Lookup extended#2 returned FALSE for %s", key.Method),
				fmt.Sprintf("ERROR: Table size: %d", len(methods)),
				fmt.Sprintf("ERROR: Invalid authtype [%s]", key.Method)),
				fmt.Sprintf("unknown method %q", key.Method), "there are crc, md5, sha1, sha256 and sha512",
				"write sha1, which heartbeat 3.0.6 knows too")
			continue
		}
		if len(words) > 2 {
			add(pos, Warn, nil, fmt.Sprintf("%d words after the key", len(words)-2), "they are ignored: a key is one word and comments are whole lines",
				"remove them")
		}
		methods[key.Method] = true
		if _, twice := indexPos[index]; twice {
			add(pos, Warn, nil, fmt.Sprintf("key %d is given twice", index), "the last one counts", "keep one")
			for j, k := range cfg.Auth.Keys {
				if k.Index == index {
					cfg.Auth.Keys[j] = key
				}
			}
		} else {
			cfg.Auth.Keys = append(cfg.Auth.Keys, key)
		}
		indexPos[index] = pos
		if auth == index {
			signing = index
		}
	}

	end := Pos{Line: len(lines) + 1} // after every line, whatever it is called
	switch {
	case signing < 0 && auth < 0:
		p := say(fmt.Sprintf("ERROR: Missing auth directive in keyfile [%s]", classic))
		add(end, Error, p, "no auth line", "nothing says which key signs", "begin the file with: auth 1")
	case signing < 0:
		why := "no line defines that key"
		fix := fmt.Sprintf("add a line: %d sha1 SECRET", auth)
		if _, ok := indexPos[auth]; ok {
			why, fix = "its line stands before the auth line", "move the auth line to the top"
		}
		add(end, Error, say(fmt.Sprintf("ERROR: Auth Key [%d] not found in keyfile [%s]", auth, classic)),
			fmt.Sprintf("auth %d", auth), why, fix)
		probs[len(probs)-1].Pos = Pos{File: path, Line: authPos.Line, Col: authPos.Col}
	case signing != auth:
		add(authPos, Warn, nil, fmt.Sprintf("auth %d stands after the keys", auth), fmt.Sprintf("key %d signs still", signing),
			"keep one auth line, at the top")
	}
	if p := len(probs) - 1; p >= 0 && probs[p].Pos.Line == end.Line {
		probs[p].Pos = Pos{File: path}
	}
	cfg.Auth.Outbound = max(signing, 0)
	return append(probs, weakKeys(cfg, indexPos, signing)...)
}

// weakKeys warns about keys with which anybody can forge a packet.
func weakKeys(cfg *Config, at map[int]Pos, signing int) Problems {
	var probs Problems
	warn := func(index int, what, why, fix string) {
		pos := at[index]
		pos.File = cfg.path("authkeys")
		probs = append(probs, Problem{Pos: pos, Severity: Warn, What: what, Why: why, Fix: fix,
			at: order{phaseAuthKeys, pos.Line, pos.Col}})
	}
	for _, k := range cfg.Auth.Keys {
		if k.Method != "crc" {
			continue
		}
		if k.Index != signing {
			warn(k.Index, fmt.Sprintf("key %d is crc", k.Index), "anybody on the network can forge packets with it", "remove it")
			continue
		}
		for _, m := range cfg.Media {
			if m.Kind != "serial" {
				warn(k.Index, "packets are signed with crc", fmt.Sprintf("anybody on the network of %s can take the cluster over", m.Interface),
					"write sha1 and a key; crc is for serial lines alone")
				break
			}
		}
	}
	return probs
}

// scanInt reads a decimal number as scanf's %d does: blanks, sign, digits.
func scanInt(s string) (n int, rest string, ok bool) {
	t := strings.TrimLeft(s, " \t\r\n")
	i := 0
	if i < len(t) && (t[i] == '-' || t[i] == '+') {
		i++
	}
	start := i
	for i < len(t) && t[i] >= '0' && t[i] <= '9' {
		i++
	}
	if i == start {
		return 0, s, false
	}
	n, _ = leadingInt(t[:i])
	return n, t[i:], true
}

// absent reports whether a file is simply not there.
func absent(f File) bool { return errors.Is(f.Err, fs.ErrNotExist) }
