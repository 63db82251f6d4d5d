//go:build go1.21

package main

import "context"

func withoutCancel(ctx context.Context) context.Context { return context.WithoutCancel(ctx) }

// afterFunc has the context package call f when a child of ctx is cancelled.
func afterFunc(ctx context.Context, f func(context.Context) error) error {
	ctx, cancel := context.WithCancel(ctx)
	done := make(chan error, 1)
	context.AfterFunc(ctx, func() { done <- f(context.WithoutCancel(ctx)) })
	cancel()
	return <-done
}
