//go:build !go1.21

package main

import (
	"context"
	"time"
)

// detached is what programs wrote before context.WithoutCancel.
type detached struct{ context.Context }

func (detached) Deadline() (time.Time, bool) { return time.Time{}, false }
func (detached) Done() <-chan struct{}       { return nil }
func (detached) Err() error                  { return nil }

func withoutCancel(ctx context.Context) context.Context { return detached{ctx} }

// afterFunc is what programs wrote before context.AfterFunc.
func afterFunc(ctx context.Context, f func(context.Context) error) error {
	ctx, cancel := context.WithCancel(ctx)
	done := make(chan error, 1)
	go func() {
		<-ctx.Done()
		done <- f(detached{ctx})
	}()
	cancel()
	return <-done
}
