package engine

import (
	"errors"
	"fmt"

	"heartbeat/cluster"
	"heartbeat/transport"
)

// Position is how far a node's own numbering has come.
type Position = transport.Position

// Position of this engine.
func (e *Engine) Position() Position { return e.session.Position() }

// Fingerprint describes the state as of the time now so that two engines with
// equal fingerprints, in one configuration, behave alike from then on but for
// the times of acknowledgements. at are the positions of the nodes that run.
func (e *Engine) Fingerprint(now cluster.Instant, at map[string]Position) ([]byte, error) {
	m, err1 := e.machine.Fingerprint(now)
	s, err2 := e.session.Fingerprint(at)
	if err := errors.Join(err1, err2); err != nil {
		return nil, fmt.Errorf("fingerprint: %w", err)
	}
	return append(append(m, '\n'), s...), nil
}
