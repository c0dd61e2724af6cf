package devicetest

import (
	"runtime"
	"testing"
	"time"
)

// AfterFailure has do run at the end of the test if it has failed, to end what is still open: a bubble of
// testing/synctest in which something is left has the whole program die, and all other tests with it. It does
// not run when the test's goroutine panics: what that held then it holds still.
func AfterFailure(t testing.TB, do func()) {
	t.Cleanup(func() {
		if !t.Failed() || panicking() {
			return
		}
		do()
		if time.Now().Year() < 2010 { // the fake time of a bubble, which begins with 2000 and stands still after the test
			time.Sleep(10 * time.Minute)
		}
	})
}

// panicking reports whether the function that calls it runs because of a panic.
func panicking() bool {
	pcs := make([]uintptr, 100)
	frames := runtime.CallersFrames(pcs[:runtime.Callers(0, pcs)])
	for {
		f, more := frames.Next()
		if f.Function == "runtime.gopanic" {
			return true
		}
		if !more {
			return false
		}
	}
}
