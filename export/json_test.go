package export

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"testing"

	"weft/internal/event"
	"weft/internal/selfstats"
)

func TestJSONGolden(t *testing.T) {
	clearEnv(t)
	var out bytes.Buffer
	stats := selfstats.New()
	js := NewJSON(&out, testConverter(t), stats)
	for _, s := range shop()[:7] {
		js.Span(s)
	}
	js.Span(hop{id: 8, method: "GET", target: "/<&>", end: event.EndClosed}.span(2))
	if err := js.Close(context.Background()); err != nil {
		t.Fatal(err)
	}
	golden(t, "spans.jsonl", out.Bytes())

	for i, line := range bytes.Split(bytes.TrimSpace(out.Bytes()), []byte("\n")) {
		var span jsonSpan
		if err := json.Unmarshal(line, &span); err != nil {
			t.Fatalf("line %d: %v", i, err)
		}
		if len(span.TraceID) != 32 || len(span.SpanID) != 16 || span.Attributes["http.request.method"] == nil {
			t.Errorf("line %d: %s", i, line)
		}
	}
}

func TestJSONWriteErrorCounted(t *testing.T) {
	clearEnv(t)
	stats := selfstats.New()
	js := NewJSON(brokenPipe{}, testConverter(t), stats)
	for _, s := range shop() {
		js.Span(s)
	}
	if err := js.Close(context.Background()); err == nil {
		t.Error("Close hides the error")
	}
	if n := lost(t, stats, "json", "write_failed"); n != 9 {
		t.Errorf("%d spans counted, want 9", n)
	}
	js.Span(shop()[0])
	if n := lost(t, stats, "json", "after_close"); n != 1 {
		t.Errorf("a span after Close counted %d times", n)
	}
}

type fake struct {
	got []*event.Span
	err error
}

func (f *fake) Span(s *event.Span)          { f.got = append(f.got, s) }
func (f *fake) Close(context.Context) error { return f.err }

func TestFanout(t *testing.T) {
	bad := errors.New("bad")
	a, b, c := &fake{}, &fake{err: bad}, &fake{err: context.Canceled}
	f := Fanout{a, b, c}
	for _, s := range shop() {
		f.Span(s)
	}
	for _, e := range []*fake{a, b, c} {
		if len(e.got) != 9 {
			t.Errorf("%d spans, want 9", len(e.got))
		}
	}
	if err := f.Close(context.Background()); !errors.Is(err, bad) || !errors.Is(err, context.Canceled) {
		t.Errorf("an error was lost: %v", err)
	}
	if err := (Fanout{}).Close(context.Background()); err != nil {
		t.Errorf("empty: %v", err)
	}
}

func TestRing(t *testing.T) {
	var r ring
	next, want := uint64(0), uint64(0)
	for round := range 200 {
		for range round%37 + 1 {
			s := &event.Span{}
			s.PID = uint32(next)
			next++
			r.push(s)
		}
		for _, s := range r.pop(round%29 + 1) {
			if s.PID != uint32(want) {
				t.Fatalf("got %d, want %d", s.PID, want)
			}
			want++
		}
		if r.len() != int(next-want) {
			t.Fatalf("len %d, want %d", r.len(), next-want)
		}
	}
	held := 0
	for _, s := range r.slots {
		if s != nil {
			held++
		}
	}
	if held != r.len() {
		t.Errorf("%d spans still referenced, %d queued", held, r.len())
	}
}
