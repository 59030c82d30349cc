package config

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// seeds adds the corpus's files of one name.
func seeds(f *testing.F, name string) {
	paths, err := filepath.Glob("testdata/conf-corpus/*/" + name)
	if err != nil {
		f.Fatal(err)
	}
	for _, path := range paths {
		data, err := os.ReadFile(path)
		if err != nil {
			f.Fatal(err)
		}
		f.Add(string(data))
	}
}

// checkProblems demands that every place lies within its file.
func checkProblems(t *testing.T, probs Problems, name, text string) {
	t.Helper()
	lines := strings.Split(text, "\n")
	for _, p := range probs {
		if filepath.Base(p.Pos.File) != name || p.Pos.Line == 0 {
			continue
		}
		if p.Pos.Line > len(lines) || p.Pos.Col > len(lines[p.Pos.Line-1])+1 || p.Pos.Line < 0 || p.Pos.Col < 0 {
			t.Errorf("%v lies outside of the file", p)
		}
	}
	failed := probs.Failed()
	classic := probs.Classic()
	if last := classic[len(classic)-1]; failed != (last == "ERROR: Configuration error, heartbeat not started.") {
		t.Errorf("failed %v, last line %q", failed, last)
	}
}

func FuzzHACF(f *testing.F) {
	seeds(f, "ha.cf")
	f.Fuzz(func(t *testing.T, text string) {
		c, probs := load(text, goodAuth, "", "")
		checkProblems(t, probs, "ha.cf", text)
		c.Origins()
		c.Digest()
	})
}

func FuzzAuthKeys(f *testing.F) {
	seeds(f, "authkeys")
	f.Fuzz(func(t *testing.T, text string) {
		c, probs := load(goodHACF, text, "", "")
		checkProblems(t, probs, "authkeys", text)
		for _, k := range c.Auth.Keys {
			if k.Index < 0 || k.Index > keyIndexMax || (k.Secret == "") != (k.Method == "crc") {
				t.Errorf("key %+v", k)
			}
		}
	})
}

func FuzzHAResources(f *testing.F) {
	seeds(f, "haresources")
	f.Add("node1 a \\\r\n b # c\nnode2 1.2.3.4::x a")
	f.Fuzz(func(t *testing.T, text string) {
		c, probs := load(goodHACF, goodAuth, text, "")
		checkProblems(t, probs, "haresources", text)
		for _, g := range c.Groups {
			if g.Node == "" || g.Key == "" || g.Key != g.Resources[0] {
				t.Errorf("group %+v", g)
			}
		}
	})
}

func FuzzTOML(f *testing.F) {
	f.Add("control_socket = \"/x\"\n[announce]\nburst = 3\ninterval = \"1s\"\n[scripts]\nstart = 5\nstatus.x = 1\n")
	f.Add("announce = { burst = 2, x = 1 }\nlog_format = 'json'\n")
	f.Add("[[announce]]\nburst=1")
	f.Fuzz(func(t *testing.T, text string) {
		_, probs := load(goodHACF, goodAuth, "", text+"\n")
		checkProblems(t, probs, "heartbeat.toml", text+"\n")
	})
}
