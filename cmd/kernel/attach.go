package kernel

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"strconv"
	"strings"
	"time"

	"ballast/cmd/control"

	"golang.org/x/sys/unix"
)

// AttachOptions say what Attach binds.
type AttachOptions struct {
	Device      string // /dev/nbdN
	Socket      string // unix socket of the server
	Export      string
	Backend     string        // names the export across restarts of the daemon
	Connections int           // 1 to 16
	Timeout     time.Duration // of a request; too short a one has slow writes sent twice
	DeadTimeout time.Duration // how long requests wait for a daemon that is gone
}

// ParseDevice returns the N of /dev/nbdN.
func ParseDevice(path string) (uint32, error) {
	digits, ok := strings.CutPrefix(path, "/dev/nbd")
	n, err := strconv.ParseUint(digits, 10, 20)
	if !ok || err != nil || strconv.FormatUint(n, 10) != digits {
		return 0, control.Refuse("E_USAGE", "%q is not /dev/nbdN", path).WithTry("/dev/nbd0")
	}
	return uint32(n), nil
}

// noKernel makes a refusal of what keeps netlink from working.
func noKernel(err error) error {
	if errors.Is(err, errNoFamily) {
		return control.Refuse("E_KERNEL", "the running kernel has no nbd driver").WithTry("modprobe nbd").
			WithTry("a client without the kernel: nbdfuse, qemu, fio --ioengine=nbd")
	}
	if errors.Is(err, unix.EPERM) || errors.Is(err, unix.EACCES) {
		return control.Refuse("E_NOT_PERMITTED", "only root may change /dev/nbd devices").WithTry("the same as root")
	}
	return control.Refuse("E_KERNEL", "%v", err)
}

// Attach binds an export to a device of the kernel. A device that is bound to the same export
// already gets the new connections, which is how it finds a restarted daemon.
func Attach(ctx context.Context, o AttachOptions) (Export, error) {
	index, err := ParseDevice(o.Device)
	if err != nil {
		return Export{}, err
	}
	link, err := dial()
	if err != nil {
		return Export{}, noKernel(err)
	}
	defer link.close()
	cmd, err := commandFor(index, &o)
	if err != nil {
		return Export{}, err
	}
	sockets, export, err := connect(ctx, &o)
	defer func() {
		for _, f := range sockets {
			f.Close() // the kernel has its own references
		}
	}()
	if err != nil {
		return Export{}, err
	}
	if _, err := link.call(link.family, cmd, connectAttributes(index, &o, export, sockets)); err != nil {
		if errors.Is(err, unix.EBUSY) {
			return Export{}, control.Refuse("E_BUSY", "%s is in use", o.Device).WithTry("another device").WithTry("ballast detach %s", o.Device)
		}
		return Export{}, noKernel(fmt.Errorf("attaching %s: %w", o.Device, err))
	}
	return export, nil
}

// commandFor tells a device that is free from one that lost the same export.
func commandFor(index uint32, o *AttachOptions) (uint8, error) {
	dir := fmt.Sprintf("/sys/block/nbd%d", index)
	if _, err := os.Stat(dir + "/pid"); errors.Is(err, os.ErrNotExist) {
		return cmdConnect, nil
	}
	backend, err := os.ReadFile(dir + "/backend")
	if err == nil && strings.TrimSpace(string(backend)) == o.Backend {
		return cmdReconfigure, nil
	}
	return 0, control.Refuse("E_BUSY", "%s is bound to something else", o.Device).WithTry("another device").WithTry("ballast detach %s", o.Device)
}

// connect opens the connections and sees to it that all of them mean the same export.
func connect(ctx context.Context, o *AttachOptions) (sockets []*os.File, export Export, err error) {
	for i := range o.Connections {
		conn, err := new(net.Dialer).DialContext(ctx, "unix", o.Socket)
		if err != nil {
			return sockets, export, control.Refuse("E_NOT_RUNNING", "%s: %v", o.Socket, err)
		}
		e, err := Handshake(conn, o.Export)
		if err == nil && i > 0 && e != export {
			err = errors.New("the export changed meanwhile")
		}
		var f *os.File
		if err == nil {
			export = e
			f, err = conn.(*net.UnixConn).File()
		}
		conn.Close()
		if err != nil {
			return sockets, export, err
		}
		sockets = append(sockets, f)
	}
	return sockets, export, nil
}

// sectorSize is what partition tables count in; another one would make them unreadable.
const sectorSize = 512

func connectAttributes(index uint32, o *AttachOptions, e Export, sockets []*os.File) []byte {
	b := attribute32(nil, attrIndex, index)
	b = attribute64(b, attrSizeBytes, e.Size)
	b = attribute64(b, attrBlockSizeBytes, sectorSize)
	b = attribute64(b, attrServerFlags, uint64(e.Flags))
	b = attribute64(b, attrTimeout, uint64(o.Timeout/time.Second))
	b = attribute64(b, attrDeadConnTimeout, uint64(o.DeadTimeout/time.Second))
	b = attribute(b, attrBackendIdentifier, append([]byte(o.Backend), 0))
	var items []byte
	for _, f := range sockets {
		item := attribute32(nil, attrSockFD, uint32(f.Fd()))
		items = attribute(items, attrSockItem|unix.NLA_F_NESTED, item)
	}
	return attribute(b, attrSockets|unix.NLA_F_NESTED, items)
}

// Detach ends what Attach began.
func Detach(device string) error {
	index, err := ParseDevice(device)
	if err != nil {
		return err
	}
	link, err := dial()
	if err != nil {
		return noKernel(err)
	}
	defer link.close()
	if _, err := os.Stat(fmt.Sprintf("/sys/block/nbd%d/pid", index)); errors.Is(err, os.ErrNotExist) {
		return control.Refuse("E_FAILED", "%s is not attached", device)
	}
	if _, err := link.call(link.family, cmdDisconnect, attribute32(nil, attrIndex, index)); err != nil {
		return noKernel(fmt.Errorf("detaching %s: %w", device, err))
	}
	return nil
}
