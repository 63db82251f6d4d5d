package loader

import (
	"context"
	"errors"
)

// mayBegin says whether a changed configuration begins to inject, where tracing began
// without. Where that is forbidden it says why, and takes it out of the options: the
// rest of them is put into force.
func (l *Loader) mayBegin(o *Options) bool {
	if o.Policy.Inject == 0 || l.inject != nil {
		return false
	}
	if err := mayInject(); err != nil {
		l.cannotInject(err)
		o.Policy.Inject = 0
		return false
	}
	return true
}

// beginInjecting does, with programs that were loaded beside the running ones, what
// New does where propagation.inject names headers: the self-test, then every selected
// process is let in, with the connections it has open. What fails is told as it is at
// start, and the rest of the configuration stays in force.
func (l *Loader) beginInjecting(ctx context.Context) error {
	i, err := l.tryInjecting()
	if err != nil {
		l.cannotInject(err)
		return nil
	}
	err = l.between(ctx, func() error {
		l.useInjector(i)
		l.takeOrphans()
		l.finder.beginInjecting(i)
		return nil
	})
	if err != nil {
		return errors.Join(err, i.discard())
	}
	l.log.Info("requests are edited from now on", "sockmap_receive", i.receiving)
	return nil
}
