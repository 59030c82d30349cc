package vm

import (
	"context"
	"crypto/sha256"
	"embed"
	"encoding/hex"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"time"

	"golang.org/x/sys/unix"
)

// sources are all that an image is made of, beside Debian's packages.
//
//go:embed image agent
var sources embed.FS

// keepImages is how long an image is kept that nobody uses.
const keepImages = 7 * 24 * time.Hour

// Image returns the folder of what the machines boot, and builds it if it is
// not there: half a minute and 150 MB of packages. It is kept in the user's
// cache, by its content; of several processes one builds and the others wait.
func Image(ctx context.Context) (string, error) {
	cache, err := os.UserCacheDir()
	if err != nil {
		cache = os.TempDir()
	}
	cache = filepath.Join(cache, "heartbeat-vm")
	key := sha256.New()
	err = fs.WalkDir(sources, ".", func(path string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() {
			return err
		}
		text, err := sources.ReadFile(path)
		fmt.Fprintf(key, "%s %d\n%s", path, len(text), text)
		return err
	})
	if err != nil {
		return "", fmt.Errorf("machine image: %w", err)
	}
	dir := filepath.Join(cache, "image-"+hex.EncodeToString(key.Sum(nil)[:8]))
	if err := os.MkdirAll(cache, 0o755); err != nil {
		return "", fmt.Errorf("machine image: %w", err)
	}
	lock, err := os.OpenFile(filepath.Join(cache, "lock"), os.O_CREATE|os.O_RDWR, 0o600)
	if err != nil {
		return "", fmt.Errorf("machine image: %w", err)
	}
	defer lock.Close()
	for {
		err = unix.Flock(int(lock.Fd()), unix.LOCK_EX|unix.LOCK_NB)
		if err != unix.EWOULDBLOCK {
			break
		}
		select {
		case <-ctx.Done():
			return "", fmt.Errorf("machine image: wait for another process to build it: %w", ctx.Err())
		case <-time.After(100 * time.Millisecond):
		}
	}
	if err != nil {
		return "", fmt.Errorf("machine image: lock: %w", err)
	}
	now := time.Now()
	if os.Chtimes(dir, now, now) == nil {
		return dir, nil
	}
	old, _ := filepath.Glob(filepath.Join(cache, "image-*"))
	for _, d := range old {
		used, err := os.Stat(d)
		if err == nil && now.Sub(used.ModTime()) < keepImages && d != dir+".new" {
			continue
		}
		if err := os.RemoveAll(d); err != nil {
			return "", fmt.Errorf("machine image: %w", err)
		}
	}
	if err := build(ctx, dir+".new", filepath.Join(cache, "packages")); err != nil {
		return "", fmt.Errorf("machine image: %w", err)
	}
	if err := os.Rename(dir+".new", dir); err != nil {
		return "", fmt.Errorf("machine image: %w", err)
	}
	return dir, nil
}

func build(ctx context.Context, dir, packages string) error {
	scratch, err := TempDir()
	if err != nil {
		return err
	}
	defer os.RemoveAll(scratch)
	if err := os.CopyFS(scratch, sources); err != nil {
		return err
	}
	agent := filepath.Join(scratch, "vm-agent")
	cmd := exec.CommandContext(ctx, "go", "build", "-trimpath", "-ldflags=-s -w", "-o", agent, "heartbeat/integration/vm/agent/vm-agent")
	cmd.Env = append(os.Environ(), "CGO_ENABLED=0")
	if out, err := cmd.CombinedOutput(); err != nil {
		return fmt.Errorf("build the agent: %w\n%s", err, out)
	}
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return err
	}
	cmd = exec.CommandContext(ctx, "bash", filepath.Join(scratch, "image", "build"), dir, packages, agent)
	cmd.Env = append(os.Environ(), "LC_ALL=C", "DEBIAN_FRONTEND=noninteractive")
	if out, err := cmd.CombinedOutput(); err != nil {
		return fmt.Errorf("build: %w\n%s", err, out)
	}
	return nil
}
