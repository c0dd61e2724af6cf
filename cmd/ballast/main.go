// Command ballast makes one volume out of unequal disks and serves it. See ballast --help.
//
// Only flags, wiring and output stand here; what the commands do is in the packages beside it.
package main

import (
	"context"
	"os"
	"os/signal"
	"syscall"
)

func main() {
	// The first signal asks everything to end in order; after that they have their usual effect.
	ctx, restore := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	context.AfterFunc(ctx, restore)
	// A reader that went away (ballast status | head) shows as an error of the write instead.
	signal.Ignore(syscall.SIGPIPE)
	a := &app{name: os.Args[0], in: os.Stdin, out: os.Stdout, errs: os.Stderr}
	os.Exit(a.run(ctx, os.Args[1:]))
}
