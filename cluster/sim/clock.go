package sim

import "time"

// clock is a machine's monotonic clock. It drifts against the world's time and
// stands still while the machine is frozen.
type clock struct {
	world, local time.Duration // a moment at which both are known
	ppm          int64         // how much faster than the world it runs
	frozen       bool
}

// at is what the clock shows at a world time, which must not be before the
// last freeze or thaw.
func (c *clock) at(world time.Duration) time.Duration {
	if c.frozen {
		return c.local
	}
	d := int64(world - c.world)
	return c.local + time.Duration(d+d*c.ppm/1_000_000)
}

// when is the first world time at which the clock shows local or more; only
// for a clock that runs.
func (c *clock) when(local time.Duration) time.Duration {
	d := int64(local - c.local)
	if d <= 0 {
		return c.world
	}
	w := c.world + time.Duration(d-d*c.ppm/(1_000_000+c.ppm)) - 2
	w = max(w, c.world)
	for c.at(w) < local {
		w++
	}
	return w
}

func (c *clock) freeze(world time.Duration) {
	c.local, c.frozen = c.at(world), true
}

func (c *clock) thaw(world time.Duration) {
	c.world, c.frozen = world, false
}
