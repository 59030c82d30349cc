package node

import (
	"crypto/rand"
	"crypto/sha256"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"
	"strings"
)

// writeDurable replaces the file by one with this content, in a way that a
// crash at any moment leaves the old content or the new: temporary file,
// fsync, rename, fsync of the directory.
func writeDurable(path string, data []byte, mode fs.FileMode) error {
	dir := filepath.Dir(path)
	f, err := os.CreateTemp(dir, "."+filepath.Base(path)+".*")
	if err != nil {
		return fmt.Errorf("write %s: %w", path, err)
	}
	fail := func(err error) error {
		_ = f.Close()
		_ = os.Remove(f.Name())
		return fmt.Errorf("write %s: %w", path, err)
	}
	if _, err := f.Write(data); err != nil {
		return fail(err)
	}
	if err := f.Chmod(mode); err != nil {
		return fail(err)
	}
	if err := f.Sync(); err != nil {
		return fail(err)
	}
	if err := os.Rename(f.Name(), path); err != nil {
		return fail(err)
	}
	if err := f.Close(); err != nil {
		return fmt.Errorf("write %s: %w", path, err)
	}
	d, err := os.Open(dir)
	if err != nil {
		return fmt.Errorf("sync %s: %w", dir, err)
	}
	defer d.Close()
	if err := d.Sync(); err != nil {
		return fmt.Errorf("sync %s: %w", dir, err)
	}
	return nil
}

// Generation is the number of this start of the node, higher than any before.
type Generation struct {
	Value uint64
	// Warning is the original's line when there was no usable previous one;
	// empty otherwise.
	Warning string
}

// NextGeneration reads the last generation from path ("%15d\n"), adds one and
// makes that durable before it returns: a peer drops everything of a lower
// generation as a replay. Without a previous one it starts at the unix time;
// so it does when the file cannot be understood, which the original calls
// broken.
func NextGeneration(path string, unix int64) (Generation, error) {
	var g Generation
	text, err := os.ReadFile(path)
	switch {
	case errors.Is(err, fs.ErrNotExist) || err == nil && len(strings.TrimSpace(string(text))) == 0:
		g.Value = uint64(unix) + 1
		g.Warning = fmt.Sprintf("No Previous generation - starting at %d", g.Value)
	case err != nil:
		return g, fmt.Errorf("read generation: %w", err)
	default:
		last, err := strconv.ParseUint(firstWord(string(text)), 10, 63)
		if err != nil {
			g.Value = uint64(unix) + 1
			g.Warning = fmt.Sprintf("BROKEN previous generation - starting at %d", g.Value)
		} else {
			g.Value = last + 1
		}
	}
	if err := writeDurable(path, fmt.Appendf(nil, "%15d\n", g.Value), 0o644); err != nil {
		return g, fmt.Errorf("store generation %d: %w", g.Value, err)
	}
	return g, nil
}

func firstWord(text string) string {
	if f := strings.Fields(text); len(f) > 0 {
		return f[0]
	}
	return ""
}

// UUIDFromName is the uuid of a node whose ha.cf says uuidfrom nodename: always
// the same for the name, so that nothing has to be stored. (Version 8; the
// original's, from C's random numbers, is another one.)
func UUIDFromName(name string) [16]byte {
	sum := sha256.Sum256([]byte("heartbeat node\x00" + name))
	uuid := [16]byte(sum[:16])
	uuid[6] = uuid[6]&0x0f | 0x80
	uuid[8] = uuid[8]&0x3f | 0x80
	return uuid
}

// LoadUUID reads the node's uuid from path (16 raw bytes). A missing or empty
// file gets a new random one (version 4), and created tells so; one of another
// length is an error.
func LoadUUID(path string) (uuid [16]byte, created bool, err error) {
	raw, err := os.ReadFile(path)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return uuid, false, fmt.Errorf("read uuid: %w", err)
	}
	if len(raw) == len(uuid) {
		return [16]byte(raw), false, nil
	}
	if len(raw) != 0 {
		return uuid, false, fmt.Errorf("read uuid: %s has %d bytes instead of 16; remove it to get a new one", path, len(raw))
	}
	_, _ = rand.Read(uuid[:]) // never fails
	uuid[6] = uuid[6]&0x0f | 0x40
	uuid[8] = uuid[8]&0x3f | 0x80
	if err := writeDurable(path, uuid[:], 0o644); err != nil {
		return uuid, false, fmt.Errorf("store uuid: %w", err)
	}
	return uuid, true, nil
}
