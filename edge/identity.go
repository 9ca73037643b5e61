package edge

import (
	"crypto/ed25519"
	"crypto/rand"
	"encoding/hex"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"

	"golang.org/x/sys/unix"

	"github.com/perigee-cloud/perigee/api"
)

// Files of a node's data directory.
const (
	fileKey   = "node.key"
	fileRelay = "relay.key"
	fileLock  = "lock"

	relaySecretBytes = 32
)

// ErrInUse says that another daemon holds the data directory.
var ErrInUse = errors.New("another daemon runs on this data directory")

// Identity is who a node is: its keys, held together with a lock on the data
// directory so that one daemon at a time uses them.
type Identity struct {
	ID          api.NodeID
	Key         ed25519.PrivateKey
	RelaySecret []byte
	Boot        string // of this start
	Data        string

	lock *os.File
}

// OpenIdentity locks a data directory and reads the node's keys, making them at
// the first start. ErrInUse when another daemon holds it.
func OpenIdentity(data string) (*Identity, error) {
	data, err := filepath.Abs(data)
	if err != nil {
		return nil, fmt.Errorf("resolve data directory: %w", err)
	}
	if err := os.MkdirAll(data, 0o700); err != nil {
		return nil, fmt.Errorf("make data directory: %w", err)
	}
	lock, err := os.OpenFile(filepath.Join(data, fileLock), os.O_CREATE|os.O_RDWR|unix.O_CLOEXEC, 0o600)
	if err != nil {
		return nil, fmt.Errorf("open lock: %w", err)
	}
	if err := unix.Flock(int(lock.Fd()), unix.LOCK_EX|unix.LOCK_NB); err != nil {
		lock.Close()
		if errors.Is(err, unix.EWOULDBLOCK) {
			err = ErrInUse
		}
		return nil, fmt.Errorf("lock %s: %w", data, err)
	}
	id := &Identity{Data: data, lock: lock}
	if err := id.load(); err != nil {
		lock.Close()
		return nil, err
	}
	return id, nil
}

func (id *Identity) load() error {
	seed, err := secret(filepath.Join(id.Data, fileKey), ed25519.SeedSize)
	if err != nil {
		return err
	}
	id.Key = ed25519.NewKeyFromSeed(seed)
	if id.RelaySecret, err = secret(filepath.Join(id.Data, fileRelay), relaySecretBytes); err != nil {
		return err
	}
	boot := make([]byte, 8)
	if _, err := rand.Read(boot); err != nil {
		return fmt.Errorf("make boot id: %w", err)
	}
	id.Boot = hex.EncodeToString(boot)
	id.ID = api.NodeIDFromKey(id.Public())
	return nil
}

// Public is the node's public key.
func (id *Identity) Public() ed25519.PublicKey { return id.Key.Public().(ed25519.PublicKey) }

// Join signs what a node says of itself when it joins; token admits a key the
// schedulers do not know yet.
func (id *Identity) Join(n api.Node, token string) api.NodeJoin {
	n.ID, n.PublicKey, n.Boot = id.ID, id.Public(), id.Boot
	return api.NodeJoin{
		Node: n, RelaySecret: id.RelaySecret, Token: token,
		Signature: ed25519.Sign(id.Key, api.JoinPayload(n)),
	}
}

// Close gives the data directory up.
func (id *Identity) Close() error { return id.lock.Close() }

// secret reads a file of n secret bytes, or makes it.
func secret(path string, n int) ([]byte, error) {
	b, err := os.ReadFile(path)
	if errors.Is(err, fs.ErrNotExist) {
		b = make([]byte, n)
		if _, err := rand.Read(b); err != nil {
			return nil, fmt.Errorf("make %s: %w", filepath.Base(path), err)
		}
		return b, writeWhole(path, b)
	}
	if err != nil {
		return nil, fmt.Errorf("read %s: %w", filepath.Base(path), err)
	}
	if len(b) != n {
		return nil, fmt.Errorf("%s holds %d bytes instead of %d: restore it, or remove it to make a new one", path, len(b), n)
	}
	if st, err := os.Stat(path); err == nil && st.Mode().Perm()&0o077 != 0 {
		return nil, fmt.Errorf("%s can be read by others: chmod 600 it", path)
	}
	return b, nil
}

// writeWhole writes a file that a crash leaves either absent or whole.
func writeWhole(path string, b []byte) error {
	f, err := os.CreateTemp(filepath.Dir(path), ".new-*") // mode 0600
	if err != nil {
		return fmt.Errorf("write %s: %w", filepath.Base(path), err)
	}
	_, err = f.Write(b)
	if err = errors.Join(err, f.Sync(), f.Close()); err == nil {
		err = os.Rename(f.Name(), path)
	}
	if err != nil {
		return fmt.Errorf("write %s: %w", filepath.Base(path), errors.Join(err, os.Remove(f.Name())))
	}
	return nil
}

// RelaySecretFile is where the relay process reads its secret.
func (id *Identity) RelaySecretFile() string { return filepath.Join(id.Data, fileRelay) }
