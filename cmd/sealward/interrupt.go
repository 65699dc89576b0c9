package main

import "errors"

// errInterrupted ends a command that waited for a person or a pipe.
var errInterrupted = errors.New("interrupted; nothing was changed")

// await reads what may be waited for without end. A signal only cancels the
// command's context, of which a read knows nothing: without this, what is typed
// after Ctrl-C would still be taken for the value. Something that was read when
// the signal came is not used either: its writer may have been cut short by the
// same signal.
func await[T any](stop <-chan struct{}, read func() (T, error)) (T, error) {
	type result struct {
		got T
		err error
	}
	done := make(chan result, 1)
	go func() {
		got, err := read()
		done <- result{got, err}
	}()
	var none T
	select {
	case <-stop:
		return none, errInterrupted
	case r := <-done:
		select {
		case <-stop:
			return none, errInterrupted
		default:
			return r.got, r.err
		}
	}
}
