package control

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"strconv"
	"time"
)

// Bounds on requests and answers.
const (
	orderBytesMax  = 4 << 10
	fromBytesMax   = 64
	headerBytesMax = 8 << 10
	parameterMax   = 128
	whyDefault     = 20
	whyMax         = 1000

	readTimeout  = 5 * time.Second
	queryTimeout = 5 * time.Second
	writeTimeout = 5 * time.Second
	idleTimeout  = 30 * time.Second

	// stepsMax sentences may wait for a caller who reads slowly; more are left
	// out, because the node must never wait for a terminal.
	stepsMax = 256
)

// Options are what Serve needs beside the node. The zero value is usable.
type Options struct {
	// Group may give orders, beside root; DefaultGroup when empty.
	Group string
	// Log gets one line per order refused for lack of rights; nil for none.
	Log *slog.Logger
}

// Serve answers on l, which Listen made, until ctx ends; then it closes l,
// ends what is being answered and returns nil. Any other return is the error
// that made serving impossible.
func Serve(ctx context.Context, l net.Listener, b Backend, o Options) error {
	if o.Group == "" {
		o.Group = DefaultGroup
	}
	if o.Log == nil {
		o.Log = slog.New(slog.DiscardHandler)
	}
	s := &server{backend: b, options: o}
	mux := http.NewServeMux()
	mux.HandleFunc("GET /v1/status", s.status)
	mux.HandleFunc("GET /v1/why", s.why)
	mux.HandleFunc("GET /v1/parameter", s.parameter)
	mux.HandleFunc("POST /v1/order", s.order)
	mux.HandleFunc("/", func(w http.ResponseWriter, r *http.Request) {
		refuse(w, http.StatusNotFound, fmt.Sprintf("no such request: %s %.100s", r.Method, r.URL.Path))
	})
	hs := &http.Server{
		Handler:           mux,
		ReadHeaderTimeout: readTimeout,
		ReadTimeout:       readTimeout,
		IdleTimeout:       idleTimeout,
		MaxHeaderBytes:    headerBytesMax,
		BaseContext:       func(net.Listener) context.Context { return ctx },
		ConnContext: func(ctx context.Context, conn net.Conn) context.Context {
			return context.WithValue(ctx, callerKey{}, conn.(*callerConn).caller)
		},
		ErrorLog: slog.NewLogLogger(slog.DiscardHandler, slog.LevelDebug),
	}
	stop := context.AfterFunc(ctx, func() { hs.Close() })
	defer stop()
	err := hs.Serve(&limited{Listener: l, uids: map[uint32]int{}})
	if ctx.Err() != nil {
		// Serve returns at the beginning of Close; this waits for its end, so
		// that no answer is given after our return.
		hs.Close()
		return nil
	}
	return fmt.Errorf("serve control socket: %w", err)
}

type callerKey struct{}

type server struct {
	backend Backend
	options Options
}

// failure is the body of every answer that is not 200.
type failure struct {
	Error string `json:"error"`
}

// parameterValue is the answer to GET /v1/parameter.
type parameterValue struct {
	Name  string `json:"name"`
	Value string `json:"value"`
}

func refuse(w http.ResponseWriter, code int, sentence string) {
	write(w, code, failure{Error: sentence})
}

// write answers with one JSON value. A caller who has gone is no error.
func write(w http.ResponseWriter, code int, value any) {
	text, err := json.Marshal(value)
	if err != nil {
		panic(fmt.Sprintf("control: answer %T: %v", value, err))
	}
	_ = http.NewResponseController(w).SetWriteDeadline(time.Now().Add(writeTimeout))
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(code)
	_, _ = w.Write(append(text, '\n'))
}

// unavailable answers for a node that could not.
func unavailable(w http.ResponseWriter, err error) {
	text := err.Error()
	if errors.Is(err, context.DeadlineExceeded) {
		text = fmt.Sprintf("the daemon is busy: no answer within %v", queryTimeout)
	}
	refuse(w, http.StatusServiceUnavailable, text)
}

func (s *server) status(w http.ResponseWriter, r *http.Request) {
	ctx, cancel := context.WithTimeout(r.Context(), queryTimeout)
	defer cancel()
	st, err := s.backend.Status(ctx)
	if err != nil {
		unavailable(w, err)
		return
	}
	write(w, http.StatusOK, st.filled())
}

// filled makes absent lists empty ones: readers in other languages need not
// treat null.
func (s Status) filled() Status {
	s.Nodes = append([]Node{}, s.Nodes...)
	for i := range s.Nodes {
		s.Nodes[i].Links = append([]Link{}, s.Nodes[i].Links...)
	}
	s.Groups = append([]Group{}, s.Groups...)
	for i := range s.Groups {
		s.Groups[i].Resources = append([]string{}, s.Groups[i].Resources...)
	}
	s.Warnings = append([]string{}, s.Warnings...)
	return s
}

func (s *server) why(w http.ResponseWriter, r *http.Request) {
	n := whyDefault
	if text := r.URL.Query().Get("n"); text != "" {
		var err error
		if n, err = strconv.Atoi(text); err != nil || n < 1 || n > whyMax {
			refuse(w, http.StatusBadRequest, fmt.Sprintf("n=%.20q: not a number from 1 to %d", text, whyMax))
			return
		}
	}
	ctx, cancel := context.WithTimeout(r.Context(), queryTimeout)
	defer cancel()
	events, err := s.backend.Why(ctx, n)
	if err != nil {
		unavailable(w, err)
		return
	}
	write(w, http.StatusOK, append([]Event{}, events...))
}

func (s *server) parameter(w http.ResponseWriter, r *http.Request) {
	name := r.URL.Query().Get("name")
	if len(name) > parameterMax {
		refuse(w, http.StatusBadRequest, "name: too long")
		return
	}
	ctx, cancel := context.WithTimeout(r.Context(), queryTimeout)
	defer cancel()
	value, ok := s.backend.Parameter(ctx, name)
	if !ok {
		refuse(w, http.StatusNotFound, fmt.Sprintf("parameter %q is not set", name))
		return
	}
	write(w, http.StatusOK, parameterValue{Name: name, Value: value})
}

// order carries out an order and passes its progress on as it comes.
func (s *server) order(w http.ResponseWriter, r *http.Request) {
	who := r.Context().Value(callerKey{}).(caller)
	if !who.mayOrder(s.options.Group) {
		s.options.Log.Warn("control order refused", "uid", who.uid, "pid", who.pid, "err", "not root, not in group "+s.options.Group)
		refuse(w, http.StatusForbidden, fmt.Sprintf("%v is neither root nor in group %s", who, s.options.Group))
		return
	}
	o, err := readOrder(http.MaxBytesReader(w, r.Body, orderBytesMax))
	if err != nil {
		refuse(w, http.StatusBadRequest, err.Error())
		return
	}
	if o.From != "" {
		o.From += ", "
	}
	o.From += who.String()

	// One goroutine writes, so that step never waits for the caller's terminal.
	// It ends when steps is closed, after the backend's return.
	steps := make(chan Step, stepsMax)
	written := make(chan bool)
	go func() { written <- stream(w, steps) }()
	accepted := false
	err = s.backend.Order(r.Context(), o, func(st Step) {
		accepted = true
		select {
		case steps <- st:
		default:
		}
	})
	close(steps)
	begun := <-written
	if err != nil && !accepted {
		refuse(w, http.StatusConflict, err.Error())
		return
	}
	last := Step{At: time.Now(), Final: true}
	if err != nil {
		last.Err = err.Error()
	} else {
		last.Text = "done"
	}
	writeStep(w, last, !begun)
}

// stream writes steps until the channel is closed and reports whether there
// were any. The last word is the server's: a step is never final here.
func stream(w http.ResponseWriter, steps <-chan Step) (begun bool) {
	for st := range steps {
		st.Final, st.Err = false, ""
		writeStep(w, st, !begun)
		begun = true
	}
	return begun
}

// writeStep writes one line of the answer to an order; first comes with the
// header. A caller who has hung up is no error: the order goes on.
func writeStep(w http.ResponseWriter, st Step, first bool) {
	rc := http.NewResponseController(w)
	_ = rc.SetWriteDeadline(time.Now().Add(writeTimeout))
	if first {
		w.Header().Set("Content-Type", "application/x-ndjson")
		w.WriteHeader(http.StatusOK)
	}
	text, err := json.Marshal(st)
	if err != nil {
		panic(fmt.Sprintf("control: step %q: %v", st.Text, err))
	}
	_, _ = w.Write(append(text, '\n'))
	_ = rc.Flush()
}

// readOrder decodes and checks an order before the node sees it.
func readOrder(body io.Reader) (Order, error) {
	var o Order
	dec := json.NewDecoder(body)
	dec.DisallowUnknownFields()
	if err := dec.Decode(&o); err != nil {
		return Order{}, fmt.Errorf("order: %w", err)
	}
	if dec.More() {
		return Order{}, errors.New("order: more than one value")
	}
	switch o.Verb {
	case VerbStandby, VerbTakeover:
		switch o.Set {
		case "all", "local", "foreign":
		default:
			return Order{}, fmt.Errorf("order %s: set %q: must be all, local or foreign", o.Verb, o.Set)
		}
	case VerbStop, VerbReload, VerbReexec, VerbFenceAck:
		if o.Set != "" {
			return Order{}, fmt.Errorf("order %s: takes no set", o.Verb)
		}
	default:
		return Order{}, fmt.Errorf("order %q: no such verb", o.Verb)
	}
	if (o.Node != "") != (o.Verb == VerbFenceAck) {
		return Order{}, fmt.Errorf("order %s: fence-ack takes a node, and nothing else does", o.Verb)
	}
	if len(o.From) > fromBytesMax {
		return Order{}, fmt.Errorf("order %s: from is longer than %d bytes", o.Verb, fromBytesMax)
	}
	for _, r := range o.From {
		if r < ' ' || r == 0x7f {
			return Order{}, fmt.Errorf("order %s: from has a control character", o.Verb)
		}
	}
	return o, nil
}
