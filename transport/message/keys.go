package message

import (
	"crypto/hmac"
	"crypto/md5"
	"crypto/sha1"
	"crypto/sha256"
	"crypto/sha512"
	"encoding/binary"
	"encoding/hex"
	"errors"
	"fmt"
	"strconv"
	"sync"
)

// KeyIndexMax is the highest number a key may have; the lowest is 0.
const KeyIndexMax = 15

// Key is one line of authkeys.
type Key struct {
	// Index names the key on the wire, 0 to KeyIndexMax.
	Index int
	// Method is crc, md5, sha1, sha256 or sha512. Heartbeat 3.0.6 knows the
	// first three.
	Method string
	// Secret is the key word as written; crc has none.
	Secret string
}

// String leaves the secret out, so that no log line can hold it.
func (k Key) String() string { return strconv.Itoa(k.Index) + " " + k.Method }

// GoString leaves the secret out, too.
func (k Key) GoString() string { return "message.Key{" + k.String() + "}" }

// Keyring is an immutable set of keys, one of which signs. It may be used from
// several goroutines.
type Keyring struct {
	signers  [KeyIndexMax + 1]*signer
	outbound *signer
}

// NewKeyring makes a ring that verifies with any of keys and signs with the
// one numbered outbound. It refuses an unknown method, a number out of range
// or given twice, a missing secret, and an outbound key that is not there.
func NewKeyring(outbound int, keys []Key) (*Keyring, error) {
	ring := new(Keyring)
	for _, key := range keys {
		if key.Index < 0 || key.Index > KeyIndexMax {
			return nil, fmt.Errorf("key %v: index out of range 0 to %d", key, KeyIndexMax)
		}
		if ring.signers[key.Index] != nil {
			return nil, fmt.Errorf("key %v: index given twice", key)
		}
		s, err := newSigner(key)
		if err != nil {
			return nil, fmt.Errorf("key %v: %w", key, err)
		}
		ring.signers[key.Index] = s
	}
	ring, ok := ring.WithOutbound(outbound)
	if !ok {
		return nil, fmt.Errorf("key %d: not among the keys, but asked to sign", outbound)
	}
	return ring, nil
}

// Lookup is the key of that number; false when there is none.
func (r *Keyring) Lookup(index int) (Key, bool) {
	if s := r.signer(index); s != nil {
		return s.key, true
	}
	return Key{}, false
}

// Outbound is the key that signs.
func (r *Keyring) Outbound() Key { return r.outbound.key }

// WithOutbound is the same ring signing with the key of that number; false,
// and no ring, when there is none.
func (r *Keyring) WithOutbound(index int) (*Keyring, bool) {
	s := r.signer(index)
	if s == nil {
		return nil, false
	}
	return &Keyring{signers: r.signers, outbound: s}, true
}

func (r *Keyring) signer(index int) *signer {
	if index < 0 || index > KeyIndexMax {
		return nil
	}
	return r.signers[index]
}

// signer computes digests with one key: HMAC (RFC 2104), or crc.
//
// An HMAC is two sums over contiguous memory, which is laid out here with the
// padded keys in front. That is a fraction of the code that crypto/hmac's
// resettable states run through, and a daemon that wakes up for one packet
// fetches all its code from memory each time.
type signer struct {
	key    Key
	digest func(dst, data []byte) []byte

	mu sync.Mutex
	// inner is the key with the inner padding and what is being signed, outer
	// the key with the outer padding and the inner sum; pad is the length of
	// the padded key, 0 for crc.
	inner, outer []byte
	pad          int
	sum          [sha512.Size]byte
}

func newSigner(key Key) (*signer, error) {
	s := &signer{key: key}
	switch key.Method {
	case "crc":
		s.digest = appendCRC
		return s, nil
	case "md5":
		s.pad, s.digest = md5.BlockSize, func(dst, data []byte) []byte { sum := md5.Sum(data); return append(dst, sum[:]...) }
	case "sha1":
		s.pad, s.digest = sha1.BlockSize, func(dst, data []byte) []byte { sum := sha1.Sum(data); return append(dst, sum[:]...) }
	case "sha256":
		s.pad, s.digest = sha256.BlockSize, func(dst, data []byte) []byte { sum := sha256.Sum256(data); return append(dst, sum[:]...) }
	case "sha512":
		s.pad, s.digest = sha512.BlockSize, func(dst, data []byte) []byte { sum := sha512.Sum512(data); return append(dst, sum[:]...) }
	default:
		return nil, errors.New("unknown method")
	}
	if key.Secret == "" {
		return nil, errors.New("the method needs a secret")
	}
	secret := []byte(key.Secret)
	if len(secret) > s.pad {
		secret = s.digest(nil, secret)
	}
	s.inner, s.outer = make([]byte, s.pad, signedUsual), make([]byte, s.pad, s.pad+sha512.Size)
	copy(s.inner, secret)
	copy(s.outer, secret)
	for i := range s.pad {
		s.inner[i] ^= 0x36
		s.outer[i] ^= 0x5c
	}
	return s, nil
}

// signedUsual is the room for the padded key and an ordinary packet.
const signedUsual = 1024

// authBytesMax is the longest auth value: two digits, blank, 128 hex digits.
const authBytesMax = 2 + 1 + 2*sha512.Size

// appendAuth appends the auth value "INDEX DIGEST" of data.
func (s *signer) appendAuth(dst, data []byte) []byte {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.inner = append(s.inner[:s.pad], data...)
	return s.finish(dst)
}

// appendAuthOfLines is appendAuth of the field lines of a classic message
// without those named auth.
func (s *signer) appendAuthOfLines(dst, lines []byte) []byte {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.inner = s.inner[:s.pad]
	from := 0
	for at := 0; at < len(lines); {
		end := lineEnd(lines, at)
		if name, _, _, _ := cutClassic(lines[at:end]); string(name) == fieldAuth {
			s.inner = append(s.inner, lines[from:at]...)
			from = end
		}
		at = end
	}
	s.inner = append(s.inner, lines[from:]...)
	return s.finish(dst)
}

// finish appends the auth value of what is behind the inner key.
func (s *signer) finish(dst []byte) []byte {
	dst = strconv.AppendInt(dst, int64(s.key.Index), 10)
	dst = append(dst, ' ')
	sum := s.digest(s.sum[:0], s.inner)
	if s.pad == 0 {
		// The one digest that is printed as a number, without leading zeros.
		return strconv.AppendUint(dst, uint64(binary.BigEndian.Uint32(sum)), 16)
	}
	s.outer = append(s.outer[:s.pad], sum...)
	return hex.AppendEncode(dst, s.digest(s.sum[:0], s.outer))
}

// verify compares an auth value with that of a sum in constant time.
func verify(received, computed []byte) bool { return hmac.Equal(received, computed) }

// appendCRC appends CRC-32 as heartbeat computes it: polynomial 0x04C11DB7, most
// significant bit first, start 0, final complement, and unlike cksum(1) without
// the length. hash/crc32 has only the reflected form. It detects line noise;
// it keeps nobody out.
func appendCRC(dst, data []byte) []byte {
	r, t := uint32(0), &crcTables
	for ; len(data) >= 8; data = data[8:] {
		r ^= binary.BigEndian.Uint32(data)
		s := binary.BigEndian.Uint32(data[4:])
		r = t[7][r>>24] ^ t[6][byte(r>>16)] ^ t[5][byte(r>>8)] ^ t[4][byte(r)] ^
			t[3][s>>24] ^ t[2][byte(s>>16)] ^ t[1][byte(s>>8)] ^ t[0][byte(s)]
	}
	for _, b := range data {
		r = r<<8 ^ t[0][byte(r>>24)^b]
	}
	return binary.BigEndian.AppendUint32(dst, ^r)
}

// crcTables[k] is the remainder of each byte with k bytes of zero behind it, so
// that eight bytes are taken at a time.
var crcTables = func() (tables [8][256]uint32) {
	for i := range tables[0] {
		c := uint32(i) << 24
		for range 8 {
			if c&(1<<31) != 0 {
				c = c<<1 ^ 0x04C11DB7
			} else {
				c <<= 1
			}
		}
		tables[0][i] = c
	}
	for k := 1; k < len(tables); k++ {
		for i, c := range tables[k-1] {
			tables[k][i] = c<<8 ^ tables[0][c>>24]
		}
	}
	return tables
}()
