package logging

import (
	"context"
	"fmt"
	"log/slog"
	"strings"

	"heartbeat/cluster"
)

const (
	levelNotice = slog.LevelInfo + 2
	levelCrit   = slog.LevelError + 4
)

// levels pairs heartbeat's levels with slog's.
func toSlog(l cluster.Level) slog.Level {
	switch l {
	case cluster.Debug:
		return slog.LevelDebug
	case cluster.Notice:
		return levelNotice
	case cluster.Warn:
		return slog.LevelWarn
	case cluster.Error:
		return slog.LevelError
	case cluster.Crit:
		return levelCrit
	}
	return slog.LevelInfo
}

func fromSlog(l slog.Level) cluster.Level {
	switch {
	case l < slog.LevelInfo:
		return cluster.Debug
	case l < levelNotice:
		return cluster.Info
	case l < slog.LevelWarn:
		return cluster.Notice
	case l < slog.LevelError:
		return cluster.Warn
	case l < levelCrit:
		return cluster.Error
	}
	return cluster.Crit
}

func levelNames(groups []string, a slog.Attr) slog.Attr {
	if len(groups) == 0 && a.Key == slog.LevelKey {
		if l, ok := a.Value.Any().(slog.Level); ok {
			a.Value = slog.StringValue(strings.ToUpper(fromSlog(l).String()))
		}
	}
	return a
}

func structured(r *Record) slog.Record {
	msg := r.Msg
	if msg == "" {
		msg = r.Text
	}
	out := slog.NewRecord(r.At, toSlog(r.Level), msg, 0)
	if r.Script != "" {
		out.AddAttrs(slog.String("script", r.Script))
	}
	for _, a := range r.Attrs {
		out.AddAttrs(slog.Any(a.Key, a.Value))
	}
	return out
}

// Handler lets a *slog.Logger write here: the message and its fields become
// one classic line, "message: key=value, key=value".
func (l *Log) Handler() slog.Handler { return handler{log: l} }

type handler struct {
	log    *Log
	prefix string
	attrs  []Attr
}

func (h handler) Enabled(_ context.Context, level slog.Level) bool {
	return level >= slog.LevelInfo || h.log.Debug() > 0
}

func (h handler) Handle(_ context.Context, in slog.Record) error {
	r := Record{At: in.Time, Level: fromSlog(in.Level), Msg: in.Message, Attrs: h.attrs[:len(h.attrs):len(h.attrs)]}
	in.Attrs(func(a slog.Attr) bool {
		r.Attrs = append(r.Attrs, Attr{h.prefix + a.Key, a.Value.Resolve().Any()})
		return true
	})
	var text strings.Builder
	text.WriteString(in.Message)
	for i, a := range r.Attrs {
		sep := ", "
		if i == 0 {
			sep = ": "
		}
		fmt.Fprintf(&text, "%s%s=%v", sep, a.Key, a.Value)
	}
	r.Text = text.String()
	h.log.Write(r)
	return nil
}

func (h handler) WithAttrs(attrs []slog.Attr) slog.Handler {
	h.attrs = h.attrs[:len(h.attrs):len(h.attrs)]
	for _, a := range attrs {
		h.attrs = append(h.attrs, Attr{h.prefix + a.Key, a.Value.Resolve().Any()})
	}
	return h
}

func (h handler) WithGroup(name string) slog.Handler {
	h.prefix += name + "."
	return h
}
