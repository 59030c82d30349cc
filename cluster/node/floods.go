package node

import (
	"fmt"
	"time"

	"heartbeat/cluster"
	"heartbeat/cluster/engine"
	"heartbeat/cluster/node/logging"
)

// floodEvery is how often a flood is summarised.
const floodEvery = time.Minute

// floodsMax bounds the kinds of floods that are told apart.
const floodsMax = 64

// floods holds back lines that anybody on the network can cause by the
// thousand: the first of a kind is written at once, then one line a minute
// says how many there were.
type floods struct{ kinds map[string]*flood }

type flood struct {
	since   cluster.Instant
	skipped int
	last    engine.Log
}

// floodKinds are the constant messages of lines that strangers' packets cause.
var floodKinds = map[string]bool{
	"packet refused": true,
	"packet from a node that is not configured":    true,
	"message makes no sense":                       true,
	"packet of an old generation dropped: replay?": true,
	"packet without src, ts or t":                  true,
	"packet without sequence number":               true,
	"another node uses our name":                   true,
}

// floodKey tells the floods apart: by message and, where there is one, reason.
func floodKey(l engine.Log) string {
	for _, a := range l.Attrs {
		if reason, ok := a.Value.(string); ok && a.Key == "reason" {
			return l.Msg + ": " + reason
		}
	}
	return l.Msg
}

// pass reports whether the line is to be written now.
func (f *floods) pass(now cluster.Instant, l engine.Log) bool {
	if !floodKinds[l.Msg] {
		return true
	}
	key := floodKey(l)
	k := f.kinds[key]
	if k == nil {
		if f.kinds == nil {
			f.kinds = make(map[string]*flood)
		}
		if len(f.kinds) >= floodsMax {
			return false
		}
		f.kinds[key] = &flood{since: now}
		return true
	}
	k.skipped++
	k.last = l
	return false
}

// due returns the summaries whose minute is over and forgets quiet kinds.
func (f *floods) due(now cluster.Instant) (lines []logging.Record) {
	for key, k := range f.kinds {
		if now.Sub(k.since) < floodEvery {
			continue
		}
		if k.skipped == 0 {
			delete(f.kinds, key)
			continue
		}
		lines = append(lines, logging.Record{
			Level: k.last.Level,
			Text:  fmt.Sprintf("%s (and %d more like it in %d seconds)", k.last.Classic, k.skipped-1, int(now.Sub(k.since).Seconds())),
			Msg:   k.last.Msg, Attrs: append(attrs(k.last.Attrs), logging.Attr{Key: "repeated", Value: k.skipped}),
		})
		k.since, k.skipped = now, 0
	}
	return lines
}

func attrs(in []engine.Attr) []logging.Attr {
	out := make([]logging.Attr, len(in))
	for i, a := range in {
		out[i] = logging.Attr(a)
	}
	return out
}

// next is when a summary is due.
func (f *floods) next() cluster.Instant {
	first := true
	var at cluster.Instant
	for _, k := range f.kinds {
		if t := k.since.Add(floodEvery); first || t < at {
			at, first = t, false
		}
	}
	return at
}
