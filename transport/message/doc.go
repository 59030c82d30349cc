// Package message is one heartbeat message: ordered, typed fields, the two
// spellings that heartbeat 3.0.6 uses on the wire, and the digests that
// authenticate them. It handles bytes only: no socket, no clock, no session.
//
// A netstring packet, as UDP and ICMP media carry it:
//
//	"###\n"
//	{ LEN ":(" T ")" NAME "=" VALUE "," }   one or more
//	"%%%\n"
//	ALEN ":" INDEX " " DIGEST ","           the outer auth
//
// LEN counts the bytes between ":" and ","; T is one digit, 0 for a string and
// 1 for a binary value, which is raw. The outer digest covers everything from
// the first "#" up to and including the newline behind "%%%".
//
// A classic message, as serial lines and the FIFO carry it:
//
//	">>>\n"
//	{ NAME "=" VALUE "\n" | "(1)" NAME "=" BASE64 "\n" }
//	"<<<\n"
//
// A newline inside a string value travels as byte 0x13. On a medium one field
// is named auth and holds INDEX and DIGEST; the digest covers all other field
// lines in order. With "msgfmt classic", the default, netstring packets carry
// that field too, as the last one (the inner auth); no receiver checks it.
//
// INDEX is the number of a key, DIGEST lower-case hex: HMAC with MD5, SHA-1,
// SHA-256 or SHA-512, or an unkeyed CRC-32.
package message
