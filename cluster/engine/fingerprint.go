package engine

import (
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
	s, err := e.session.Fingerprint(at)
	if err != nil {
		return nil, fmt.Errorf("fingerprint: %w", err)
	}
	return append(append(e.machine.Fingerprint(now), '\n'), s...), nil
}
