package cluster

import (
	"reflect"
	"testing"
	"time"
)

// TestFingerprint: the same story told later, under other numbers, is the same
// state; a state from which another decision follows is another one.
func TestFingerprint(t *testing.T) {
	story := func(begin time.Duration, jobs uint64, hold Set, ago time.Duration) string {
		m := New(Config{
			Self: "a", Nodes: []string{"a", "b"}, Links: []string{"eth0"}, Groups: []Group{{Key: "x", Node: "a"}, {Key: "y", Node: "b"}},
			Keepalive: time.Second, Deadtime: 10 * time.Second, Warntime: 5 * time.Second, Initdead: 20 * time.Second, Failback: FailbackOn,
		})
		at := Instant(begin)
		m.st.NextJob = jobs
		m.Step(at, Wake{})
		hear := func(msg Message) {
			m.Step(at, Heard{From: "b", Link: "eth0", At: at, Msg: msg, Generation: jobs, Seq: uint64(at) + 1})
		}
		hear(Status{State: "active", Dt: 10 * time.Second, New: true})
		hear(RepNodes{Dest: "a", Nodes: []string{"a", "b"}})
		hear(Resource{Hold: hold, Full: true, Stable: Yes})
		at = at.Add(ago)
		return string(m.Fingerprint(at))
	}
	one := story(0, 0, Local, time.Second)
	for _, tt := range []struct {
		name  string
		other string
		same  bool
	}{
		{"an hour later", story(time.Hour, 7, Local, time.Second), true},
		{"the other node holds everything", story(0, 0, All, time.Second), false},
		{"longer ago", story(0, 0, Local, 2*time.Second), false},
	} {
		if (tt.other == one) != tt.same {
			t.Errorf("%s: same %v, want %v\n%q\n%q", tt.name, !tt.same, tt.same, one, tt.other)
		}
	}
}

// TestFingerprintKnows: everything that a state consists of can be written.
func TestFingerprintKnows(t *testing.T) {
	seen := map[reflect.Type]bool{}
	var walk func(reflect.Type)
	walk = func(typ reflect.Type) {
		if seen[typ] {
			return
		}
		seen[typ] = true
		switch typ.Kind() {
		case reflect.Struct:
			if typ.NumField() >= structEnd {
				t.Errorf("%v has too many fields", typ)
			}
			for i := range typ.NumField() {
				walk(typ.Field(i).Type)
			}
		case reflect.Slice, reflect.Array, reflect.Pointer:
			walk(typ.Elem())
		default:
			appendState(nil, reflect.Zero(typ))
		}
	}
	walk(reflect.TypeFor[state]())
}
