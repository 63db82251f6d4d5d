package loader

import (
	"bufio"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"slices"
	"time"
)

// A recording is the ring as the loader read it, for replay without a kernel.
// All numbers are little-endian, as the records are.
//
//	header  8 bytes  "WEFTRING"
//	        4        WEFT_ABI_VERSION
//	        4        0
//	frame   4        n, the length of the record
//	        4        0
//	        8        wall time at monotonic zero, ns since the Unix epoch
//	        n        the record
//
// Each frame carries the clock of its own moment: the wall clock may be stepped
// while a recording runs.
const (
	recordingMagic  = "WEFTRING"
	recordingHeader = 16
	frameHeader     = 16
	// frameMax is far above the largest record of any ABI version; a frame
	// that says more is damage, not a record.
	frameMax = 64 << 10
)

// ErrRecording marks a recording that cannot be replayed.
var ErrRecording = errors.New("not a recording that can be replayed")

// recorder writes a recording; nil records nothing.
type recorder struct {
	w   *bufio.Writer
	err error // the first one; nothing is written after it
}

// newRecorder writes the header. Without a writer it returns nil.
func newRecorder(w io.Writer) (*recorder, error) {
	if w == nil {
		return nil, nil
	}
	r := &recorder{w: bufio.NewWriterSize(w, 64<<10)}
	var header [recordingHeader]byte
	copy(header[:], recordingMagic)
	binary.LittleEndian.PutUint32(header[8:], abiVersion)
	if _, err := r.w.Write(header[:]); err != nil {
		return nil, fmt.Errorf("start recording: %w", err)
	}
	if err := r.w.Flush(); err != nil { // now, while the user still looks
		return nil, fmt.Errorf("start recording: %w", err)
	}
	return r, nil
}

func (r *recorder) record(raw []byte, clock Clock) {
	if r == nil || r.err != nil {
		return
	}
	var header [frameHeader]byte
	binary.LittleEndian.PutUint32(header[:], uint32(len(raw)))
	binary.LittleEndian.PutUint64(header[8:], uint64(clock.Offset))
	if _, r.err = r.w.Write(header[:]); r.err == nil {
		_, r.err = r.w.Write(raw)
	}
}

// finish writes what is buffered and returns what went wrong since the start.
func (r *recorder) finish() error {
	if r == nil {
		return nil
	}
	err := r.err
	if err == nil { // else Flush says the same again
		err = r.w.Flush()
	}
	if err != nil {
		return fmt.Errorf("record events: %w; the recording is incomplete", err)
	}
	return nil
}

// Replay decodes a recording and hands its events to h, in their order, as Run
// would, with a Tick for every second that passed. What a process is the kernel
// does not say and a recording does not hold: h gets requests of processes it
// was never told of, unless its owner tells it. The error wraps ErrRecording or
// ErrRecord, or is the reader's.
func Replay(r io.Reader, h Handler) error {
	in := bufio.NewReader(r)
	var header [recordingHeader]byte
	if _, err := io.ReadFull(in, header[:]); err != nil && !isEOF(err) {
		return fmt.Errorf("read recording: %w", err)
	}
	if string(header[:8]) != recordingMagic {
		return fmt.Errorf("%w: it does not begin with %s", ErrRecording, recordingMagic)
	}
	if v := binary.LittleEndian.Uint32(header[8:]); v != abiVersion {
		return fmt.Errorf("%w: records of version %d, this weft reads %d", ErrRecording, v, abiVersion)
	}
	var ticked time.Time
	decoder, to := newDecoder(), receiver(replayed{h})
	var buffer []byte
	for n := 1; ; n++ {
		raw, clock, err := readFrame(in, &buffer)
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err != nil {
			return fmt.Errorf("record %d: %w", n, err)
		}
		head, err := view[WeftWeftEventHead](raw)
		if err != nil {
			return fmt.Errorf("record %d: %w", n, err)
		}
		if now := clock.Wall(head.KtimeNs); ticked.IsZero() {
			ticked = now
		} else if now.Sub(ticked) >= time.Second {
			ticked = now
			h.Tick(now)
		}
		if err := decoder.decode(raw, clock, to); err != nil {
			return fmt.Errorf("record %d: %w", n, err)
		}
	}
}

// replayed passes on what needs no kernel.
type replayed struct{ Handler }

func (r replayed) process(p ProcessRecord) {
	if p.Op == ProcessExit {
		r.ProcessExit(p.PID, p.PIDStart)
	}
}

func (replayed) socket(SocketRecord) {}
func (replayed) goProgram(GoRecord)  {}

// readFrame returns io.EOF only between two frames. The record is in buffer, which
// grows as it needs to.
func readFrame(in io.Reader, buffer *[]byte) ([]byte, Clock, error) {
	*buffer = slices.Grow((*buffer)[:0], frameHeader)
	header := (*buffer)[:frameHeader]
	if _, err := io.ReadFull(in, header); err != nil {
		if errors.Is(err, io.ErrUnexpectedEOF) {
			return nil, Clock{}, fmt.Errorf("%w: it ends in the middle of a frame", ErrRecording)
		}
		return nil, Clock{}, err
	}
	length := binary.LittleEndian.Uint32(header)
	clock := Clock{Offset: time.Duration(binary.LittleEndian.Uint64(header[8:]))}
	if length > frameMax {
		return nil, Clock{}, fmt.Errorf("%w: a frame of %d bytes, at most %d", ErrRecording, length, frameMax)
	}
	*buffer = slices.Grow((*buffer)[:0], int(length))
	raw := (*buffer)[:length]
	if _, err := io.ReadFull(in, raw); err != nil {
		if isEOF(err) {
			return nil, Clock{}, fmt.Errorf("%w: it ends in the middle of a frame", ErrRecording)
		}
		return nil, Clock{}, err
	}
	return raw, clock, nil
}

func isEOF(err error) bool { return errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF) }
