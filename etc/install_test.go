package etc

import (
	"flag"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"reflect"
	"regexp"
	"slices"
	"strings"
	"testing"

	"heartbeat/cluster/config"
	"heartbeat/integration/lab"
)

// stage is the tree of `make install DESTDIR=stage`, built the way a package
// would build it.
var stage string

func TestMain(m *testing.M) {
	lab.Main()
	flag.Parse()
	os.Exit(run(m))
}

func run(m *testing.M) int {
	if os.Geteuid() != 0 {
		fmt.Fprintln(os.Stderr, "etc: installed files belong to root, and labs make namespaces: run the tests as root")
		return 1
	}
	// Absolute and below /tmp, which the nodes of a lab see as it is.
	dir, err := os.MkdirTemp("/tmp", "heartbeat-install-")
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	defer os.RemoveAll(dir)
	if err := os.Chmod(dir, 0o755); err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	stage = filepath.Join(dir, "stage")
	build = filepath.Join(dir, "build")
	if out, err := makeTarget("install", stage); err != nil {
		fmt.Fprintf(os.Stderr, "etc: make install: %v\n%s", err, out)
		return 1
	}
	return m.Run()
}

// build keeps what is compiled here apart from the tree's own build directory,
// which others may be running from.
var build string

func makeTarget(target, destdir string, args ...string) (string, error) {
	args = append([]string{"-C", "..", "--no-print-directory", target, "DESTDIR=" + destdir, "BUILD=" + build}, args...)
	cmd := exec.Command("make", args...)
	// Not to be taken for a child of the make that runs the tests.
	cmd.Env = slices.DeleteFunc(os.Environ(), func(v string) bool {
		return strings.HasPrefix(v, "MAKE") || strings.HasPrefix(v, "MFLAGS=")
	})
	out, err := cmd.CombinedOutput()
	return string(out), err
}

// tree lists a directory: "mode path", "-> target path" for links, paths
// without a leading slash; directories are left out.
func tree(t *testing.T, root string) map[string]string {
	t.Helper()
	files := map[string]string{}
	err := filepath.WalkDir(root, func(path string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() {
			return err
		}
		rel := strings.TrimPrefix(path, root+"/")
		info, err := d.Info()
		if err != nil {
			return err
		}
		files[rel] = fmt.Sprintf("%o", info.Mode().Perm())
		if info.Mode()&fs.ModeSymlink != 0 {
			target, err := os.Readlink(path)
			if err != nil {
				return err
			}
			files[rel] = "-> " + target
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	return files
}

// wrapped are the types of resources that resource.d passes on to OCF agents.
var wrapped = strings.Fields("AudibleAlarm Delay Filesystem ICP IPsrcaddr LVM LinuxSCSI MailTo OCF Raid1 " +
	"SendArp ServeRAID WAS WinPopup Xinetd apache db2 ids portblock")

func TestInstalledFiles(t *testing.T) {
	want := map[string]string{
		"usr/libexec/heartbeat/heartbeat":                  "755",
		"usr/sbin/hbctl":                                   "755",
		"usr/bin/cl_status":                                "-> ../sbin/hbctl",
		"usr/share/heartbeat/ha_propagate":                 "755",
		"usr/share/heartbeat/ocf-resource":                 "755",
		"usr/share/bash-completion/completions/hbctl":      "644",
		"etc/heartbeat":                                    "-> ha.d",
		"etc/ha.d/README.config":                           "644",
		"etc/ha.d/harc":                                    "755",
		"etc/ha.d/shellfuncs":                              "644",
		"etc/init.d/heartbeat":                             "755",
		"etc/logrotate.d/heartbeat":                        "644",
		"usr/lib/systemd/system/heartbeat.service":         "644",
		"usr/lib/systemd/system/heartbeat-release.service": "644",
		"usr/lib/tmpfiles.d/heartbeat.conf":                "644",
		"usr/lib/sysusers.d/heartbeat.conf":                "644",
		"usr/share/doc/heartbeat/LICENSE":                  "644",
		"usr/share/doc/heartbeat/PROTOCOL.md":              "644",
		"usr/share/doc/heartbeat/COMPATIBILITY.md":         "644",
		"usr/share/doc/heartbeat/SAFETY.md":                "644",
		"usr/share/doc/heartbeat/ha.cf":                    "644",
		"usr/share/doc/heartbeat/haresources":              "644",
		"usr/share/doc/heartbeat/authkeys":                 "644",
		"usr/share/doc/heartbeat/heartbeat.toml":           "644",
		"usr/share/man/man1/cl_status.1":                   "644",
		"usr/share/man/man1/hb_standby.1":                  "644",
		"usr/share/man/man1/hb_takeover.1":                 "644",
		"usr/share/man/man5/authkeys.5":                    "644",
		"usr/share/man/man5/ha.cf.5":                       "644",
		"usr/share/man/man5/haresources.5":                 "644",
		"usr/share/man/man5/heartbeat.toml.5":              "644",
		"usr/share/man/man8/hbctl.8":                       "644",
		"usr/share/man/man8/heartbeat.8":                   "644",
	}
	for _, name := range strings.Fields("hb_standby hb_takeover hb_addnode hb_delnode hb_setweight hb_setsite ResourceManager req_resource mach_down") {
		want["usr/share/heartbeat/"+name] = "-> ../../sbin/hbctl"
	}
	for _, name := range strings.Fields("status ip-request ip-request-resp hb_takeover ask_resources") {
		want["etc/ha.d/rc.d/"+name] = "755"
	}
	for _, name := range wrapped {
		want["etc/ha.d/resource.d/"+name] = "-> /usr/share/heartbeat/ocf-resource"
	}
	got := tree(t, stage)
	for path, is := range got {
		if want[path] != is {
			t.Errorf("%s is %q, want %q", path, is, want[path])
		}
	}
	for path, is := range want {
		if _, ok := got[path]; !ok {
			t.Errorf("%s (%s) is missing", path, is)
		}
	}
	for dir, mode := range map[string]fs.FileMode{"root": 0o700, "nobody": 0o700, "hacluster": 0o700} {
		info, err := os.Stat(filepath.Join(stage, "var/lib/heartbeat/cores", dir))
		if err != nil || info.Mode().Perm() != mode {
			t.Errorf("cores/%s: %v, %v; want mode %o", dir, info, err, mode)
		}
	}
	// Links lead somewhere inside the tree, and no placeholder is left.
	for path, is := range got {
		if target, ok := strings.CutPrefix(is, "-> "); ok {
			if !filepath.IsAbs(target) {
				target = filepath.Join("/", filepath.Dir(path), target)
			}
			if _, err := os.Stat(stage + target); err != nil {
				t.Errorf("%s leads nowhere: %v", path, err)
			}
			continue
		}
		if strings.HasPrefix(path, "etc/") || strings.HasPrefix(path, "usr/lib/") {
			text, err := os.ReadFile(filepath.Join(stage, path))
			if err != nil || strings.Contains(string(text), "@PREFIX@") || strings.Contains(string(text), stage) {
				t.Errorf("%s: %v; a placeholder or the staging directory is left in it", path, err)
			}
		}
	}
}

// notOurs are files of the original's package that a drop-in does without.
var notOurs = map[string]string{
	"usr/bin/cl_respawn":                    "a tool of Pacemaker clusters",
	"usr/lib/heartbeat/plugins/":            "media and keys are compiled in",
	"usr/libexec/heartbeat/":                "ipfail, dopd and others: programs of their own",
	"usr/share/heartbeat/cts/":              "the original's tests",
	"usr/share/heartbeat/BasicSanityCheck":  "the original's tests",
	"usr/share/heartbeat/TestHeartbeatComm": "the original's tests",
	"usr/share/heartbeat/ha_test.py":        "the original's tests",
	"usr/share/heartbeat/hb_api.py":         "the original's tests",
	"usr/share/heartbeat/ha_config":         "settings of the original's build",
	"usr/share/doc/heartbeat/":              "documentation",
	"usr/share/man/":                        "documentation",
	"usr/share/lintian/":                    "Debian's own",
	"usr/share/python3/":                    "Debian's own",
	"etc/logcheck/":                         "log lines the daemon does not write",
	"etc/ha.d/resource.d/IPaddr":            "built in",
	"etc/ha.d/resource.d/IPaddr2":           "built in",
	"etc/ha.d/resource.d/IPv6addr":          "built in",
	"etc/ha.d/resource.d/hto-mapfuncs":      "part of the original's wrappers",
}

// TestNamesOfTheOriginal compares with the list of files of the installed
// package: what people and scripts call is there under the same path.
func TestNamesOfTheOriginal(t *testing.T) {
	out, err := exec.Command("dpkg-query", "-L", "heartbeat").Output()
	if err != nil {
		t.Fatalf("list the original's files (make deps installs it): %v", err)
	}
	got := tree(t, stage)
	seen := 0
	for line := range strings.Lines(string(out)) {
		path := strings.TrimSpace(strings.TrimPrefix(line, "/"))
		if info, err := os.Stat("/" + path); err != nil || info.IsDir() {
			continue
		}
		// Merged /usr: Debian's list has the old path.
		path = strings.Replace(path, "lib/systemd/", "usr/lib/systemd/", 1)
		seen++
		if _, ok := got[path]; ok {
			continue
		}
		known := false
		for prefix := range notOurs {
			known = known || path == prefix || strings.HasSuffix(prefix, "/") && strings.HasPrefix(path, prefix)
		}
		if !known {
			t.Errorf("%s is in the original's package, and not installed", path)
		}
	}
	if seen < 50 {
		t.Errorf("only %d files listed: is the package heartbeat complete?", seen)
	}
}

// TestKeepsWhatIsNotOurs: an installation over a running site replaces our own
// files and touches nobody else's.
func TestKeepsWhatIsNotOurs(t *testing.T) {
	root := t.TempDir()
	theirs := map[string]string{
		"etc/ha.d/ha.cf":                  "node a b\n",
		"etc/ha.d/authkeys":               "auth 1\n",
		"etc/ha.d/shellfuncs":             "#!/bin/sh\n# of another package\n",
		"etc/ha.d/rc.d/status":            "#!/bin/sh\n# mine\n",
		"etc/ha.d/resource.d/Filesystem":  "#!/bin/sh\n# mine\n",
		"etc/ha.d/resource.d/IPaddr2":     "#!/bin/sh\n# mine\n",
		"var/lib/heartbeat/hb_generation": "     1795252362\n",
	}
	ours := map[string]string{
		"etc/ha.d/harc":            "#!/bin/sh\n# heartbeat: built in\nan older one\n",
		"etc/ha.d/rc.d/ip-request": "#!/bin/sh\n# heartbeat: built in\nan older one\n",
	}
	for _, files := range []map[string]string{theirs, ours} {
		for path, text := range files {
			full := filepath.Join(root, path)
			if err := os.MkdirAll(filepath.Dir(full), 0o755); err != nil {
				t.Fatal(err)
			}
			if err := os.WriteFile(full, []byte(text), 0o640); err != nil {
				t.Fatal(err)
			}
		}
	}
	for range 2 {
		if out, err := makeTarget("install", root); err != nil {
			t.Fatalf("make install: %v\n%s", err, out)
		}
	}
	read := func(path string) string {
		text, _ := os.ReadFile(filepath.Join(root, path))
		return string(text)
	}
	for path, text := range theirs {
		if read(path) != text {
			t.Errorf("%s was changed to %q", path, read(path))
		}
	}
	for path, text := range ours {
		if read(path) == text {
			t.Errorf("%s of an older version was not replaced", path)
		}
	}

	if out, err := makeTarget("uninstall", root); err != nil {
		t.Fatalf("make uninstall: %v\n%s", err, out)
	}
	for path, text := range theirs {
		if read(path) != text {
			t.Errorf("uninstall changed %s to %q", path, read(path))
		}
	}
	for path := range tree(t, root) {
		if _, ok := theirs[path]; !ok && path != "etc/heartbeat" {
			t.Errorf("uninstall left %s", path)
		}
	}
}

// TestPrefix installs elsewhere: every path in every script follows.
func TestPrefix(t *testing.T) {
	root := t.TempDir()
	if out, err := makeTarget("install", root, "PREFIX=/opt/ha"); err != nil {
		t.Fatalf("make install: %v\n%s", err, out)
	}
	for path, is := range tree(t, root) {
		if strings.HasPrefix(path, "usr/") || strings.HasPrefix(is, "-> /usr/") {
			t.Errorf("%s (%s) is not below the prefix", path, is)
		}
		if !strings.HasPrefix(path, "etc/") || strings.HasPrefix(is, "->") {
			continue
		}
		text, err := os.ReadFile(filepath.Join(root, path))
		if err != nil {
			t.Fatal(err)
		}
		for _, dir := range []string{"/usr/share/heartbeat", "/usr/libexec", "/usr/sbin/hbctl"} {
			if strings.Contains(string(text), dir) {
				t.Errorf("%s mentions %s", path, dir)
			}
		}
	}
}

// TestVersion: the version of the tree is in the program.
func TestVersion(t *testing.T) {
	if out, err := makeTarget("build", "", "VERSION=1.2.3-test"); err != nil {
		t.Fatalf("make build: %v\n%s", err, out)
	}
	out, err := exec.Command(filepath.Join(build, "hbctl"), "--socket", filepath.Join(t.TempDir(), "none"), "version").CombinedOutput()
	if want := "hbctl: 1.2.3-test\ndaemon: not running\n"; err != nil || string(out) != want {
		t.Errorf("hbctl version: %v, %q; want %q", err, out, want)
	}
}

// TestSamples: with the comment signs of the examples taken away the samples are a
// good configuration, and the one of heartbeat.toml shows the defaults.
func TestSamples(t *testing.T) {
	examples := func(name, example string) config.File {
		text, err := os.ReadFile("doc/" + name)
		if err != nil {
			t.Fatal(err)
		}
		return config.File{Data: regexp.MustCompile("(?m)^# ?("+example+")").ReplaceAll(text, []byte("$1"))}
	}
	files := config.Files{
		HACF:        examples("ha.cf", `[a-z]+file|bcast|[um]cast|baud|serial|node|ping|respawn|watchdog|stonith_host`),
		AuthKeys:    examples("authkeys", `auth 1|1 sha1`),
		HAResources: examples("haresources", `alpha  |      +[a-zA-Z]`),
	}
	defaults, _ := config.Parse(files)
	files.TOML = examples("heartbeat.toml", `[a-z_]+ = |\[`)
	cfg, problems := config.Parse(files)
	for _, p := range problems.Report() {
		// Info is said of every configuration with these lines.
		if p.Severity == config.Error || p.Severity == config.Warn {
			t.Error(p)
		}
	}
	if len(cfg.Nodes) != 2 || len(cfg.Media) != 4 || len(cfg.Groups) != 2 || cfg.Auth.Outbound != 1 {
		t.Errorf("the samples give %d nodes, %d media, %d groups, key %d", len(cfg.Nodes), len(cfg.Media), len(cfg.Groups), cfg.Auth.Outbound)
	}
	if !reflect.DeepEqual(cfg.TOML, defaults.TOML) {
		t.Errorf("the sample says %+v, the defaults are %+v", cfg.TOML, defaults.TOML)
	}
}

func page(t *testing.T, name string) string {
	t.Helper()
	text, err := os.ReadFile("../docs/man/" + name + ".md")
	if err != nil {
		t.Fatal(err)
	}
	return string(text)
}

// TestSafetyNamesTests: what SAFETY.md says is shown by tests that there are, in the
// packages that it names, and each row of its tables that is to name one does.
func TestSafetyNamesTests(t *testing.T) {
	text, err := os.ReadFile("../docs/SAFETY.md")
	if err != nil {
		t.Fatal(err)
	}
	there := map[string]bool{} // "package.Test", "stories/name.txt"
	function := regexp.MustCompile(`(?m)^func (Test\w+)\(t \*testing\.T\)`)
	err = filepath.WalkDir("..", func(path string, d fs.DirEntry, err error) error {
		switch {
		case err != nil:
			return err
		case strings.HasSuffix(path, "_test.go"):
			source, err := os.ReadFile(path)
			if err != nil {
				return err
			}
			dir, err := filepath.Abs(filepath.Dir(path))
			if err != nil {
				return err
			}
			for _, m := range function.FindAllSubmatch(source, -1) {
				there[filepath.Base(dir)+"."+string(m[1])] = true
			}
		case filepath.Base(filepath.Dir(path)) == "stories":
			there["stories/"+filepath.Base(path)] = true
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	quoted := regexp.MustCompile("`[^`]*`")
	isTest := regexp.MustCompile(`(^|\.)Test\w*$|^stories/.*\.txt$`)
	named, toName := 0, false // toName: within a table whose last column is for tests
	for i, line := range strings.Split(string(text), "\n") {
		found := 0
		for _, q := range quoted.FindAllString(line, -1) {
			name := strings.Trim(q, "`")
			if !isTest.MatchString(name) {
				continue
			}
			if found++; !there[name] {
				t.Errorf("SAFETY.md:%d: there is no test %s", i+1, name)
			}
		}
		named += found
		row := strings.HasPrefix(line, "|")
		switch {
		case strings.HasSuffix(line, "| shown by |"):
			toName = true
		case !row:
			toName = false
		case toName && found == 0 && !strings.HasPrefix(line, "|-"):
			t.Errorf("SAFETY.md:%d: no test shows this: %s", i+1, line)
		}
	}
	if named < 50 {
		t.Errorf("%d tests are named only: the page has another form than this test reads", named)
	}
}

// TestPagesAreComplete: each directive that the original lists, each key of
// heartbeat.toml and each command of hbctl has its place in a manual page.
func TestPagesAreComplete(t *testing.T) {
	out, err := exec.Command("/usr/libexec/heartbeat/heartbeat", "-D").CombinedOutput()
	if err != nil {
		t.Fatalf("list the original's directives (make deps installs it): %v", err)
	}
	hacf := page(t, "ha.cf.5")
	seen := 0
	for line := range strings.Lines(string(out)) {
		name, _, _ := strings.Cut(strings.TrimSpace(line), " ")
		if name == "" || name != strings.ToLower(name) || strings.ContainsAny(name, ":#*=-") {
			continue
		}
		seen++
		if !strings.Contains(hacf, "**"+name+"**") {
			t.Errorf("ha.cf(5) does not have the directive %s", name)
		}
	}
	if seen < 20 {
		t.Errorf("heartbeat -D lists only %d directives:\n%s", seen, out)
	}

	sample, err := os.ReadFile("doc/heartbeat.toml")
	if err != nil {
		t.Fatal(err)
	}
	toml := page(t, "heartbeat.toml.5")
	var walk func(reflect.Type)
	walk = func(typ reflect.Type) {
		for i := range typ.NumField() {
			f := typ.Field(i)
			key, _, _ := strings.Cut(f.Tag.Get("toml"), ",")
			if f.Type.Kind() == reflect.Slice && f.Type.Elem().Kind() == reflect.Struct { // a table as often as wanted
				if !strings.Contains(toml, "[["+key+"]]") || !strings.Contains(string(sample), "[["+key+"]]") {
					t.Errorf("heartbeat.toml(5) or the sample does not have the tables %s", key)
				}
				walk(f.Type.Elem())
				continue
			}
			if f.Type.Kind() == reflect.Struct {
				if !strings.Contains(toml, "["+key+"]") || !strings.Contains(string(sample), "["+key+"]") {
					t.Errorf("heartbeat.toml(5) or the sample does not have the table %s", key)
				}
				walk(f.Type)
				continue
			}
			if !strings.Contains(toml, "**"+key+"**") || !regexp.MustCompile(`(?m)^# +`+key+` = `).Match(sample) {
				t.Errorf("heartbeat.toml(5) or the sample does not have the key %s", key)
			}
		}
	}
	walk(reflect.TypeFor[config.TOML]())

	help, err := exec.Command(filepath.Join(stage, "usr/sbin/hbctl"), "--help").Output()
	if err != nil {
		t.Fatal(err)
	}
	hbctl := page(t, "hbctl.8")
	_, list, _ := strings.Cut(string(help), "Available Commands:\n")
	seen = 0
	for line := range strings.Lines(list) {
		if strings.TrimSpace(line) == "" {
			break
		}
		seen++
		if name := strings.Fields(line)[0]; !strings.Contains(hbctl, "**"+name+"**") {
			t.Errorf("hbctl(8) does not have the command %s", name)
		}
	}
	if seen < 5 {
		t.Errorf("hbctl --help lists only %d commands:\n%s", seen, help)
	}
}
