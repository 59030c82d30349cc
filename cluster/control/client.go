package control

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net"
	"net/http"
	"net/url"
	"strconv"
	"syscall"
	"time"
)

var (
	// ErrNoDaemon says that nobody serves the socket: it is absent, or left by
	// a daemon that is gone.
	ErrNoDaemon = errors.New("heartbeat is not running")
	// ErrPermission says that the caller may not do that.
	ErrPermission = errors.New("permission denied")
	// ErrTimeout says that a daemon is there but did not answer in time.
	ErrTimeout = errors.New("the daemon does not answer")
	// ErrHungUp says that the daemon closed the connection before its answer
	// was complete: it ended or started again, or has too many callers.
	ErrHungUp = errors.New("the daemon hung up")
)

// Refused is the daemon's own no, or the failure of an order it had accepted.
type Refused struct {
	Reason string
	// Begun is set when the order had been accepted and failed later.
	Begun bool
}

func (r *Refused) Error() string { return r.Reason }

// clientTimeout bounds connecting and every query; it is longer than the
// server's own limit, so that the server's sentence arrives.
const clientTimeout = 8 * time.Second

// answerBytesMax bounds an answer: a status is a few kilobytes, a history of
// whyMax events a few hundred.
const answerBytesMax = 8 << 20

// Client talks to a daemon. Its methods mirror Backend. Their errors wrap
// ErrNoDaemon, ErrPermission, ErrTimeout or ErrHungUp, or are a *Refused.
type Client struct {
	path string
	http *http.Client
}

// Dial makes a client for the socket at path; it connects when asked something.
func Dial(path string) *Client {
	c := &Client{path: path}
	c.http = &http.Client{Transport: &http.Transport{
		DisableKeepAlives: true,
		// An order is accepted or refused at once, however long it takes.
		ResponseHeaderTimeout: clientTimeout,
		DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
			d := net.Dialer{Timeout: clientTimeout}
			return d.DialContext(ctx, "unix", path)
		},
	}}
	return c
}

// Status is the picture of now.
func (c *Client) Status(ctx context.Context) (Status, error) {
	var s Status
	err := c.get(ctx, "/v1/status", nil, &s)
	return s, err
}

// Why returns the last n changes, newest first.
func (c *Client) Why(ctx context.Context, n int) ([]Event, error) {
	var events []Event
	err := c.get(ctx, "/v1/why", url.Values{"n": {strconv.Itoa(n)}}, &events)
	return events, err
}

// Parameter is the value of a directive, and whether it has one.
func (c *Client) Parameter(ctx context.Context, name string) (string, bool, error) {
	var p parameterValue
	err := c.get(ctx, "/v1/parameter", url.Values{"name": {name}}, &p)
	if errors.Is(err, errNotFound) {
		return "", false, nil
	}
	return p.Value, err == nil, err
}

// Order gives an order and returns when it has ended: nil when it succeeded.
// step gets the sentences of progress as they come, on the caller's goroutine;
// when it returns false, Order stops listening and returns nil while the order
// goes on. step may be nil.
func (c *Client) Order(ctx context.Context, o Order, step func(Step) bool) error {
	text, err := json.Marshal(o)
	if err != nil {
		return err
	}
	resp, err := c.do(ctx, http.MethodPost, "/v1/order", nil, bytes.NewReader(text))
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	lines := bufio.NewScanner(resp.Body)
	for lines.Scan() {
		var st Step
		if err := json.Unmarshal(lines.Bytes(), &st); err != nil {
			return fmt.Errorf("read progress from %s: %w", c.path, err)
		}
		switch {
		case st.Final && st.Err != "":
			return &Refused{Reason: st.Err, Begun: true}
		case st.Final:
			return nil
		case step != nil && !step(st):
			return nil
		}
	}
	if err := ctx.Err(); err != nil {
		return err
	}
	return fmt.Errorf("%w before it told the outcome of %s", ErrHungUp, o.Verb)
}

func (c *Client) get(ctx context.Context, path string, query url.Values, into any) error {
	ctx, cancel := context.WithTimeout(ctx, clientTimeout)
	defer cancel()
	resp, err := c.do(ctx, http.MethodGet, path, query, nil)
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	if err := json.NewDecoder(io.LimitReader(resp.Body, answerBytesMax)).Decode(into); err != nil {
		return fmt.Errorf("read answer from %s: %w", c.path, err)
	}
	return nil
}

// errNotFound is a 404; it never leaves this package.
var errNotFound = errors.New("not found")

// do sends a request and turns everything but 200 into an error.
func (c *Client) do(ctx context.Context, method, path string, query url.Values, body io.Reader) (*http.Response, error) {
	u := url.URL{Scheme: "http", Host: "heartbeat", Path: path, RawQuery: query.Encode()}
	req, err := http.NewRequestWithContext(ctx, method, u.String(), body)
	if err != nil {
		return nil, err
	}
	resp, err := c.http.Do(req)
	if err != nil {
		return nil, c.dialError(err)
	}
	if resp.StatusCode == http.StatusOK {
		return resp, nil
	}
	defer resp.Body.Close()
	var f failure
	if err := json.NewDecoder(io.LimitReader(resp.Body, answerBytesMax)).Decode(&f); err != nil || f.Error == "" {
		f.Error = "the daemon answered " + resp.Status
	}
	switch resp.StatusCode {
	case http.StatusForbidden:
		return nil, fmt.Errorf("%w: %s", ErrPermission, f.Error)
	case http.StatusNotFound:
		return nil, fmt.Errorf("%w: %s", errNotFound, f.Error)
	case http.StatusServiceUnavailable:
		return nil, fmt.Errorf("%w: %s", ErrTimeout, f.Error)
	}
	return nil, &Refused{Reason: f.Error}
}

// dialError tells the reasons apart for which a daemon cannot be asked.
func (c *Client) dialError(err error) error {
	if u, ok := errors.AsType[*url.Error](err); ok {
		err = u.Err
	}
	switch cause := unwrapNet(err); {
	case errors.Is(err, fs.ErrNotExist), errors.Is(err, syscall.ECONNREFUSED):
		return fmt.Errorf("%w (%s: %w)", ErrNoDaemon, c.path, cause)
	case errors.Is(err, fs.ErrPermission):
		return fmt.Errorf("%w (%s: %w)", ErrPermission, c.path, cause)
	case errors.Is(err, context.Canceled):
		return err
	case isTimeout(err):
		return fmt.Errorf("%w (%s)", ErrTimeout, c.path)
	default:
		return fmt.Errorf("%w (%s: %w)", ErrHungUp, c.path, cause)
	}
}

func isTimeout(err error) bool {
	t, ok := errors.AsType[net.Error](err)
	return ok && t.Timeout()
}
