package probe

import (
	"context"
	"io"
	"net/http"
	"strings"
	"sync"
	"time"
)

// HTTPResult is what an HTTP client saw: the completed requests in order.
type HTTPResult struct {
	Start, End int64
	IntervalNS int64
	Failed     int
	Answers    []Answer
}

// Answer is one completed request.
type Answer struct {
	At   int64
	Body string // the lab's server answers with its node's name
}

// lastTries bounds the requests at the end of a run.
const lastTries = 4

// httpInFlightMax bounds the requests under way while nobody answers.
const httpInFlightMax = 64

// RunHTTP requests url on a fresh connection every interval until ctx ends, and
// once more then. ready is called once, at the first answer.
func RunHTTP(ctx context.Context, url string, interval time.Duration, ready func()) *HTTPResult {
	res := &HTTPResult{Start: time.Now().UnixNano(), IntervalNS: interval.Nanoseconds()}
	client := &http.Client{Transport: &http.Transport{DisableKeepAlives: true}, Timeout: 500 * time.Millisecond}
	var mu sync.Mutex
	var wg sync.WaitGroup
	slots := make(chan struct{}, httpInFlightMax)
	tick := time.NewTicker(interval)
	defer tick.Stop()
	for ctx.Err() == nil {
		select {
		case <-ctx.Done():
			continue
		case <-tick.C:
		}
		select {
		case slots <- struct{}{}:
		default:
			continue // enough unanswered ones: the outage is measured by the answers
		}
		wg.Go(func() { // ends with its request, by the client's timeout at the latest
			defer func() { <-slots }()
			body, err := get(client, url)
			mu.Lock()
			defer mu.Unlock()
			if err != nil {
				res.Failed++
				return
			}
			res.Answers = append(res.Answers, Answer{time.Now().UnixNano(), body})
			if len(res.Answers) == 1 && ready != nil {
				ready()
			}
		})
	}
	wg.Wait()
	// The last one begins after the end of the run was ordered: what it finds is
	// what there is in the end. One that timed out may be the machine's fault.
	for range lastTries {
		body, err := get(client, url)
		if err == nil {
			res.Answers = append(res.Answers, Answer{time.Now().UnixNano(), body})
			break
		}
		res.Failed++
	}
	res.End = time.Now().UnixNano()
	return res
}

func get(client *http.Client, url string) (string, error) {
	resp, err := client.Get(url)
	if err != nil {
		return "", err
	}
	defer resp.Body.Close()
	b, err := io.ReadAll(io.LimitReader(resp.Body, 4096))
	return strings.TrimSpace(string(b)), err
}

// Outage is the longest time after t0 without an answer, less one interval,
// and when it ended. Open says that it lasted to the end of the run.
func (r *HTTPResult) Outage(t0 time.Time) (outage time.Duration, back time.Time, open bool) {
	last := r.Start
	consider := func(to int64, atEnd bool) {
		if d := time.Duration(to - last - r.IntervalNS); to > t0.UnixNano() && d > outage {
			outage, back, open = d, time.Unix(0, to), atEnd
		}
		last = max(last, to)
	}
	for _, a := range r.Answers {
		consider(a.At, false)
	}
	consider(r.End, true)
	if open && outage < 3*time.Duration(r.IntervalNS) {
		open = false
	}
	return outage, back, open
}
