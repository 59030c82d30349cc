package ipaddr

import (
	"context"
	"fmt"
	"testing"
	"time"

	"heartbeat/resources"
)

// BenchmarkGroup takes and gives a whole group of addresses, first announcements
// included, in the kernel. start-ms and stop-ms are means per group; best-start-ms and
// best-stop-ms are the least, which a busy machine disturbs least.
func BenchmarkGroup(b *testing.B) {
	for _, form := range []struct{ name, typ, pattern string }{
		{"IPaddr", "IPaddr", "10.77.%d.%d/16/%s"},
		{"IPaddr2-from-route", "IPaddr2", "10.77.%d.%d"},
		{"IPv6addr", "IPv6addr", "fd00:77::%x:%x/64/%s"},
	} {
		for _, count := range []int{1, 100, 500} {
			b.Run(fmt.Sprintf("%s/%d", form.name, count), func(b *testing.B) {
				l := newLab(b, "10.77.255.1/16", "fd00:77::ffff/64")
				factories := New(Options{}).Factories()
				var entries []string
				for i := range count {
					args := []any{1 + i/250, 1 + i%250, l.nic}
					if form.typ == "IPaddr2" {
						args = args[:2]
					}
					entries = append(entries, form.typ+"::"+fmt.Sprintf(form.pattern, args...))
				}
				lib := resources.NewLibrary(resources.Options{ResourceDir: b.TempDir(), InitDir: b.TempDir(), Builtin: factories})
				group := lib.Group("node1", entries)
				var starts, stops time.Duration
				bestStart, bestStop := time.Hour, time.Hour
				for b.Loop() {
					before := time.Now()
					must(b, group.Take(context.Background()))
					middle := time.Now()
					must(b, group.Give(context.Background()))
					after := time.Now()
					starts += middle.Sub(before)
					stops += after.Sub(middle)
					bestStart = min(bestStart, middle.Sub(before))
					bestStop = min(bestStop, after.Sub(middle))
				}
				l.want(b, "10.77.255.1/16", "fd00:77::ffff/64")
				report := func(d time.Duration, unit string) { b.ReportMetric(float64(d.Microseconds())/1000, unit) }
				report(starts/time.Duration(b.N), "start-ms")
				report(stops/time.Duration(b.N), "stop-ms")
				report(bestStart, "best-start-ms")
				report(bestStop, "best-stop-ms")
			})
		}
	}
}
