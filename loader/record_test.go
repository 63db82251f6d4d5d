package loader

import (
	"bytes"
	"encoding/binary"
	"errors"
	"io"
	"reflect"
	"strings"
	"testing"
	"testing/iotest"
	"time"

	"weft/internal/event"
)

// log keeps what a handler is told, in order.
type log struct{ calls []any }

type (
	exited struct {
		pid   uint32
		start uint64
	}
	ticked struct{ at time.Time }
)

func (l *log) Process(p *event.Process)         { l.calls = append(l.calls, p) }
func (l *log) ProcessExit(pid uint32, s uint64) { l.calls = append(l.calls, exited{pid, s}) }
func (l *log) Request(r event.Request)          { l.calls = append(l.calls, r) }
func (l *log) Response(r event.Response)        { l.calls = append(l.calls, r) }
func (l *log) Carried(r event.Carried)          { l.calls = append(l.calls, r) }
func (l *log) Route(r event.Route)              { l.calls = append(l.calls, r) }
func (l *log) Tick(t time.Time)                 { l.calls = append(l.calls, ticked{t}) }

// at is a record with another time of writing.
func at(raw []byte, ktime time.Duration) []byte {
	binary.LittleEndian.PutUint64(raw[8:], uint64(ktime))
	return raw
}

func recordingOf(t testing.TB, frames func(*recorder)) []byte {
	t.Helper()
	var out bytes.Buffer
	r, err := newRecorder(&out)
	if err != nil {
		t.Fatal(err)
	}
	frames(r)
	if err := r.finish(); err != nil {
		t.Fatal(err)
	}
	return out.Bytes()
}

func TestReplay(t *testing.T) {
	first, second := Clock{Offset: time.Hour}, Clock{Offset: 2 * time.Hour} // the wall clock was stepped
	raw := recordingOf(t, func(r *recorder) {
		r.record(at(processRecord(ProcessFork), time.Millisecond), first)
		r.record(at(requestRecord(), 500*time.Millisecond), first)
		r.record(at(carriedRecord("a=1", "user=7", nil), 500*time.Millisecond), first)
		r.record(at(socketRecord(), 900*time.Millisecond), first)
		r.record(at(responseRecord(), 2*time.Second), first)
		r.record(at(requestRecord(), 2*time.Second), second)
		r.record(at(processRecord(ProcessExit), 2*time.Second), second)
	})
	var got log
	if err := Replay(iotest.OneByteReader(bytes.NewReader(raw)), &got); err != nil {
		t.Fatal(err)
	}
	want := []any{
		decoded(t, requestRecord(), first),
		decoded(t, carriedRecord("a=1", "user=7", nil), first),
		ticked{time.Unix(3602, 0)},
		decoded(t, responseRecord(), first),
		ticked{time.Unix(7202, 0)},
		decoded(t, requestRecord(), second),
		exited{41, 99},
	}
	if !reflect.DeepEqual(got.calls, want) {
		t.Errorf("got  %+v\nwant %+v", got.calls, want)
	}
}

func decoded(t *testing.T, raw []byte, clock Clock) any {
	t.Helper()
	e, err := Decode(raw, clock)
	if err != nil {
		t.Fatal(err)
	}
	return e
}

func TestReplayDamaged(t *testing.T) {
	whole := recordingOf(t, func(r *recorder) {
		r.record(socketRecord(), Clock{})
		r.record(responseRecord(), Clock{})
	})
	changed := func(offset int, b byte) []byte {
		c := bytes.Clone(whole)
		c[offset] = b
		return c
	}
	const secondFrame = recordingHeader + frameHeader + 24
	for name, c := range map[string]struct {
		raw  []byte
		want error
		says string
	}{
		"empty":              {nil, ErrRecording, "does not begin with WEFTRING"},
		"another file":       {[]byte("\x7fELF and so on, long enough"), ErrRecording, "does not begin with WEFTRING"},
		"another version":    {changed(8, 9), ErrRecording, "version 9, this weft reads 2"},
		"the version before": {changed(8, 1), ErrRecording, "version 1, this weft reads 2"},
		"cut in a frame":     {whole[:len(whole)-1], ErrRecording, "record 2: "},
		"cut in its header":  {whole[:secondFrame+3], ErrRecording, "record 2: "},
		"impossible length":  {changed(secondFrame+3, 1), ErrRecording, "frame of 16777280 bytes"},
		"malformed record":   {changed(secondFrame+frameHeader, 200), ErrRecord, "record 2: malformed ring record: type 200"},
		"record too short":   {changed(secondFrame, 63), ErrRecord, "record 2: "},
		"first one is wrong": {changed(recordingHeader+frameHeader+2, 7), ErrRecord, "record 1: malformed ring record: version 7"},
	} {
		t.Run(name, func(t *testing.T) {
			err := Replay(bytes.NewReader(c.raw), &log{})
			if !errors.Is(err, c.want) || !strings.Contains(err.Error(), c.says) {
				t.Errorf("error %v, want %v saying %q", err, c.want, c.says)
			}
		})
	}
	broken := errors.New("broken disk")
	err := Replay(io.MultiReader(bytes.NewReader(whole), iotest.ErrReader(broken)), &log{})
	if !errors.Is(err, broken) {
		t.Errorf("a reader's error became %v", err)
	}
}

// full takes so many bytes and no more.
type full struct{ room int }

func (f *full) Write(b []byte) (int, error) {
	if len(b) > f.room {
		return f.room, errors.New("no space left on device")
	}
	f.room -= len(b)
	return len(b), nil
}

func TestRecorderOnFullDisk(t *testing.T) {
	if _, err := newRecorder(&full{}); err == nil {
		t.Error("the header was not written, and nobody was told")
	}
	r, err := newRecorder(&full{room: 100})
	if err != nil {
		t.Fatal(err)
	}
	for range 1000 { // more than is buffered
		r.record(requestRecord(), Clock{})
	}
	if err := r.finish(); err == nil || strings.Count(err.Error(), "no space left") != 1 || !strings.Contains(err.Error(), "incomplete") {
		t.Errorf("error %v", err)
	}
	var none *recorder
	none.record(requestRecord(), Clock{})
	if err := none.finish(); err != nil {
		t.Errorf("not recording: %v", err)
	}
}
