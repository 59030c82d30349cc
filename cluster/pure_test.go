package cluster_test

import (
	"go/ast"
	"go/parser"
	"go/token"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

// purePackages decide; they have no sockets, files, clocks or dice. So every
// decision can be replayed anywhere.
var purePackages = []string{"cluster", "cluster/protocol", "cluster/engine", "transport", "transport/message"}

// impureImports are what pure packages must not import, children included.
var impureImports = []string{"net", "os", "syscall", "math/rand", "crypto/rand", "plugin", "unsafe", "runtime"}

// impureCalls are what pure packages must not call of package time.
var impureCalls = []string{"Now", "Since", "Until", "Sleep", "After", "AfterFunc", "Tick", "NewTimer", "NewTicker"}

// arrows are the packages of the project that each package may import (in
// what ends up in the programs, not in its tests). A row holds for the
// packages below it, too, unless they have their own; "/…" means the package
// and all below it.
var arrows = []struct {
	of    string
	allow []string
}{
	{"cluster", nil},
	{"cluster/config", []string{"cluster"}},
	{"cluster/control", nil},
	{"cluster/protocol", []string{"cluster", "transport/message"}},
	{"cluster/engine", []string{"cluster", "cluster/protocol", "transport", "transport/message"}},
	{"cluster/boot", []string{"cluster", "cluster/config", "cluster/engine"}},
	{"cluster/sim", []string{"cluster", "cluster/engine", "transport", "transport/memory", "transport/message"}},
	{"cluster/node", []string{"cluster", "cluster/config", "cluster/control", "cluster/engine", "cluster/node/…", "resources/…", "transport", "transport/message"}},
	{"cluster/node/logging", []string{"cluster"}},
	{"transport", []string{"transport/message"}},
	{"transport/message", nil},
	{"transport/message/messagetest", []string{"transport/message"}},
	// Sockets that several media share.
	{"transport/datagram", nil},
	{"transport/mediumtest", []string{"transport"}},
	{"transport/udp", []string{"transport", "transport/datagram"}},
	{"transport/ping", []string{"transport", "transport/datagram"}},
	{"transport/serial", []string{"transport", "transport/message"}},
	{"transport/memory", []string{"transport"}},
	{"transport/mesh", []string{"transport"}},
	// The lookup by name falls back on scripts, which know nothing of it.
	{"resources", []string{"resources/script"}},
	{"resources/script", nil},
	{"resources/resourcetest", []string{"resources"}},
	{"resources/ipaddr", []string{"resources"}},
	{"cmd", []string{"cluster/…", "transport/…", "resources/…", "cmd/…"}},
	{"etc", nil},
	{"integration", []string{"integration/…"}},
}

// outside are the packages that keep to the standard library, or to few others.
var outside = []struct {
	of    string
	allow []string
}{
	{"cluster", nil},
	{"cluster/config", []string{"github.com/BurntSushi/toml", "golang.org/x/sys/unix"}},
	{"cluster/control", []string{"golang.org/x/sys/unix"}},
	{"cluster/protocol", nil},
	{"cluster/engine", nil},
	{"transport", nil},
	{"transport/message", nil},
	{"resources", nil},
}

// listed is one package of the module.
type listed struct {
	name    string // without the module's
	dir     string
	files   []string
	imports []string
	tests   []string // what its tests import besides
}

func listPackages(t *testing.T) (all []listed) {
	t.Helper()
	const format = "{{.ImportPath}}\t{{.Dir}}\t{{join .GoFiles \" \"}}\t{{join .Imports \" \"}}\t{{join .TestImports \" \"}} {{join .XTestImports \" \"}}"
	cmd := exec.Command("go", "list", "-f", format, "./...")
	cmd.Dir = ".."
	out, err := cmd.Output()
	if err != nil {
		t.Fatal(err)
	}
	for line := range strings.Lines(string(out)) {
		f := strings.Split(strings.TrimRight(line, "\n"), "\t")
		name := strings.TrimPrefix(f[0], "heartbeat/")
		all = append(all, listed{name, f[1], strings.Fields(f[2]), strings.Fields(f[3]), strings.Fields(f[4])})
	}
	if len(all) < 15 {
		t.Fatalf("only %d packages found", len(all))
	}
	return all
}

// within reports whether a package is the other one or below it.
func within(name, of string) bool { return name == of || strings.HasPrefix(name, of+"/") }

func allowed(name string, list []string) bool {
	return slices.ContainsFunc(list, func(a string) bool {
		below, all := strings.CutSuffix(a, "/…")
		return name == a || all && within(name, below)
	})
}

// TestPure: what decides imports nothing that reaches out, asks no clock and
// starts no goroutine.
func TestPure(t *testing.T) {
	found := 0
	for _, p := range listPackages(t) {
		if !slices.Contains(purePackages, p.name) {
			continue
		}
		found++
		for _, i := range p.imports {
			if slices.ContainsFunc(impureImports, func(of string) bool { return within(i, of) }) {
				t.Errorf("%s imports %s", p.name, i)
			}
		}
		for _, file := range p.files {
			pureFile(t, filepath.Join(p.dir, file))
		}
	}
	if found != len(purePackages) {
		t.Errorf("%d of %d packages found", found, len(purePackages))
	}
}

func pureFile(t *testing.T, path string) {
	t.Helper()
	set := token.NewFileSet()
	file, err := parser.ParseFile(set, path, nil, parser.SkipObjectResolution)
	if err != nil {
		t.Fatal(err)
	}
	for _, i := range file.Imports {
		if i.Name != nil {
			t.Errorf("%s: import %s has another name here, which hides it from this test", set.Position(i.Pos()), i.Path.Value)
		}
	}
	ast.Inspect(file, func(n ast.Node) bool {
		switch n := n.(type) {
		case *ast.SelectorExpr:
			if of, ok := n.X.(*ast.Ident); ok && of.Name == "time" && slices.Contains(impureCalls, n.Sel.Name) {
				t.Errorf("%s: time.%s", set.Position(n.Pos()), n.Sel.Name)
			}
		case *ast.GoStmt:
			t.Errorf("%s: a goroutine", set.Position(n.Pos()))
		case *ast.SelectStmt:
			t.Errorf("%s: a select", set.Position(n.Pos()))
		}
		return true
	})
}

// TestArrows: imports point one way, as docs/ARCHITECTURE.md draws them.
func TestArrows(t *testing.T) {
	for _, p := range listPackages(t) {
		rule := -1
		for i, a := range arrows {
			if within(p.name, a.of) && (rule < 0 || len(a.of) > len(arrows[rule].of)) {
				rule = i
			}
		}
		if rule < 0 || strings.HasPrefix(p.name, "cluster/") && arrows[rule].of == "cluster" || strings.HasPrefix(p.name, "transport/") && arrows[rule].of == "transport" {
			t.Errorf("%s has no rule: enter what it may import here and in docs/ARCHITECTURE.md", p.name)
			continue
		}
		allow := arrows[rule].allow
		if strings.HasPrefix(p.name, "resources/") && arrows[rule].of == "resources" {
			allow = []string{"resources/…"} // a type of resource may build on others
		}
		for _, i := range p.imports {
			if name, ours := strings.CutPrefix(i, "heartbeat/"); ours && !allowed(name, allow) {
				t.Errorf("%s imports %s", p.name, name)
			}
		}
		if within(p.name, "integration") {
			for _, i := range p.tests {
				if name, ours := strings.CutPrefix(i, "heartbeat/"); ours && !allowed(name, allow) {
					t.Errorf("a test of %s imports %s: it is to know the programs only", p.name, name)
				}
			}
		}
	}
}

// TestOutside: what decides, and what everything else builds on, stands on the
// standard library.
func TestOutside(t *testing.T) {
	packages := listPackages(t)
	for _, o := range outside {
		i := slices.IndexFunc(packages, func(p listed) bool { return p.name == o.of })
		if i < 0 {
			t.Errorf("no package %s", o.of)
			continue
		}
		for _, imported := range packages[i].imports {
			host, _, _ := strings.Cut(imported, "/")
			if strings.Contains(host, ".") && !slices.Contains(o.allow, imported) {
				t.Errorf("%s imports %s", o.of, imported)
			}
		}
	}
}
