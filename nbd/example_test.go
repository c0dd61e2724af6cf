package nbd_test

import (
	"context"
	"fmt"
	"log"
	"log/slog"
	"os"
	"path/filepath"

	"ballast/nbd"
	"ballast/nbd/memexport"
)

// Serve 1 GiB of memory on a unix socket.
func Example() {
	dir, err := os.MkdirTemp("", "nbd")
	if err != nil {
		log.Fatal(err)
	}
	defer os.RemoveAll(dir)

	exports := &memexport.Set{}
	exports.Add(memexport.New(1<<30), nbd.Info{Name: "scratch"})
	l, err := nbd.Listen("unix:"+filepath.Join(dir, "nbd.sock"), nbd.ListenOptions{})
	if err != nil {
		log.Fatal(err)
	}
	server := nbd.NewServer(exports, nbd.Options{Logger: slog.New(slog.DiscardHandler)})
	served := make(chan error)
	go func() { served <- server.Serve(l) }()
	// Clients take nbd.URI(l, "scratch"): nbdinfo, qemu-img, fio, nbd-client.

	if err := server.Shutdown(context.Background()); err != nil {
		log.Fatal(err)
	}
	fmt.Println(<-served)
	// Output: nbd: server closed
}
