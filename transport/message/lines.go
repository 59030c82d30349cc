package message

// Lines finds classic messages in a stream of bytes that can be damaged: a
// serial line, the FIFO. It skips to a line that begins with ">>>" and collects
// up to one that begins with "<<<". Inside a message another ">>>" begins anew,
// since the end of the first was lost. Carriage returns are dropped, and NUL
// bytes too, which is how a break on a serial line reads.
//
// The zero value is ready for use. It keeps one message, of bounded length.
type Lines struct {
	// Strip clears the eighth bit of every byte, as the original sets serial
	// lines up (ISTRIP).
	Strip bool
	// BytesMax bounds one message, frame included; 0 means PacketBytesMax.
	BytesMax int
	// Discarded counts messages that were begun and given up: too long, or cut
	// off by the begin of another.
	Discarded uint64

	// text is the message so far, or outside one the begin of a line; line is
	// where its last line begins.
	text []byte
	line int
	// collecting: inside a message. skipping: nothing is wanted up to the next
	// newline. done: text was handed out.
	collecting, skipping, done bool
}

// Next reads data up to the end of the first whole message in it. It returns
// that message, from ">>>\n" to "<<<\n", and how many bytes were used; the rest
// is for the next call. A nil message means that all of data was used and more
// is needed. The message is valid until the next call.
//
// A message is complete with "<<<"; what else is on that line is skipped
// later, so that a newline lost behind it delays nothing.
func (l *Lines) Next(data []byte) (message []byte, n int) {
	if l.done {
		l.done = false
		l.leave()
		l.skipping = true
	}
	bytesMax := l.BytesMax
	if bytesMax == 0 {
		bytesMax = PacketBytesMax
	}
	for i, c := range data {
		if l.Strip {
			c &= 0x7f
		}
		if c == '\r' || c == 0 {
			continue
		}
		if l.skipping {
			l.skipping = c != '\n'
			continue
		}
		l.text = append(l.text, c)
		line := l.text[l.line:]
		if string(line) == ">>>" {
			if l.collecting {
				l.Discarded++
			}
			l.text = append(l.text[:0], classicStart...)
			l.line = len(l.text)
			l.collecting, l.skipping = true, true
			continue
		}
		if l.collecting && len(l.text) >= bytesMax {
			// The line stays: it may be the begin of the next message.
			l.Discarded++
			l.text = l.text[:copy(l.text, line)]
			l.line = 0
			l.collecting = false
			line = l.text
		}
		switch {
		case l.collecting && string(line) == "<<<":
			l.text = append(l.text, '\n')
			l.done = true
			return l.text, i + 1
		case l.collecting:
			if c == '\n' {
				l.line = len(l.text)
			}
		case c == '\n' || len(line) >= len(">>>"):
			l.leave()
			l.skipping = c != '\n'
		}
	}
	return nil, len(data)
}

// leave forgets the text: what follows is outside a message.
func (l *Lines) leave() {
	l.text = l.text[:0]
	l.line = 0
	l.collecting = false
}
