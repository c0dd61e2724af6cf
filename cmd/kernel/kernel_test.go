package kernel

import (
	"context"
	"encoding/hex"
	"errors"
	"io"
	"log/slog"
	"net"
	"os"
	"testing"
	"time"

	"ballast/cmd/control"
	"ballast/nbd"
	"ballast/nbd/memexport"

	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"
)

// one is a server's only export.
type one struct {
	export nbd.Export
	name   string
}

func (o one) List() []nbd.Info { return []nbd.Info{{Name: o.name}} }

func (o one) Open(name string) (nbd.Export, nbd.Info, func(), error) {
	if name != o.name {
		return nil, nbd.Info{}, nil, nbd.ErrNoExport
	}
	return o.export, nbd.Info{Name: name}, func() {}, nil
}

func TestHandshakeWithOurServer(t *testing.T) {
	s := nbd.NewServer(one{memexport.New(1 << 20), "e"}, nbd.Options{Logger: slog.New(slog.DiscardHandler)})
	defer s.Close()
	talk := func(name string) (Export, error) {
		a, b := net.Pipe()
		done := make(chan struct{})
		go func() {
			defer close(done)
			s.ServeConn(context.Background(), b)
		}()
		defer func() {
			a.Close()
			<-done
		}()
		return Handshake(a, name)
	}
	e, err := talk("e")
	require.NoError(t, err)
	require.Equal(t, uint64(1<<20), e.Size)
	require.NotZero(t, e.Flags&1)
	_, err = talk("none")
	require.ErrorContains(t, err, "export none: the server answers")
}

func TestHandshakeWithOthers(t *testing.T) {
	for name, bytes := range map[string]string{
		"nothing": "", "HTTP": hex.EncodeToString([]byte("HTTP/1.1 400 Bad Request\r\n\r\n")), "half a greeting": "4e42444d41474943",
		"old server": "4e42444d4147494349484156454f50540000", "wrong reply magic": "4e42444d4147494349484156454f5054000300000000000000000000000000000000000000000000",
		"reply too long": "4e42444d4147494349484156454f505400030003e889045565a90000000700000003ffffffff",
		"ack at once":    "4e42444d4147494349484156454f505400030003e889045565a9000000070000000100000000",
	} {
		t.Run(name, func(t *testing.T) {
			a, b := net.Pipe()
			defer a.Close()
			raw, err := hex.DecodeString(bytes)
			require.NoError(t, err)
			done := make(chan struct{})
			go func() {
				defer close(done)
				go io.Copy(io.Discard, b)
				b.Write(raw)
				b.Close()
			}()
			_, err = Handshake(a, "e")
			require.Error(t, err)
			require.NoError(t, a.Close()) // the other side may still have something to say
			<-done
		})
	}
}

func TestMessageBytes(t *testing.T) {
	r, w, err := os.Pipe()
	require.NoError(t, err)
	defer r.Close()
	defer w.Close()
	o := &AttachOptions{Backend: "b:1", Timeout: 2 * time.Minute, DeadTimeout: 10 * time.Minute}
	attrs := connectAttributes(5, o, Export{Size: 1 << 30, Flags: 0x16f}, []*os.File{r, w})
	m := message(0x1c, 7, cmdConnect, attrs)
	require.Equal(t, uint32(len(m)), ne.Uint32(m))
	got := attributes(m[20:])
	require.Equal(t, uint32(5), ne.Uint32(got[attrIndex]))
	require.Equal(t, uint64(1<<30), ne.Uint64(got[attrSizeBytes]))
	require.Equal(t, uint64(512), ne.Uint64(got[attrBlockSizeBytes]))
	require.Equal(t, uint64(0x16f), ne.Uint64(got[attrServerFlags]))
	require.Equal(t, uint64(120), ne.Uint64(got[attrTimeout]))
	require.Equal(t, uint64(600), ne.Uint64(got[attrDeadConnTimeout]))
	require.Equal(t, "b:1\x00", string(got[attrBackendIdentifier]))
	sockets := got[attrSockets]
	require.Len(t, sockets, 2*12)
	for i, f := range []*os.File{r, w} {
		item := attributes(sockets[i*12 : i*12+12])
		require.Equal(t, uint32(f.Fd()), ne.Uint32(attributes(item[attrSockItem])[attrSockFD]))
	}
	// A detach, byte by byte as the kernel's headers lay it out on a little endian machine.
	if ne.Uint16([]byte{1, 0}) == 1 {
		require.Equal(t, "1c000000"+"1c00"+"0500"+"09000000"+"00000000"+"02010000"+"0800"+"0100"+"03000000",
			hex.EncodeToString(message(0x1c, 9, cmdDisconnect, attribute32(nil, attrIndex, 3))))
	}
}

func TestAnswers(t *testing.T) {
	n := &netlink{seq: 4}
	errno := func(seq uint32, code int32) []byte {
		b := ne.AppendUint32(nil, 20)
		b = ne.AppendUint16(b, unix.NLMSG_ERROR)
		b = ne.AppendUint16(b, 0)
		b = ne.AppendUint32(b, seq)
		b = ne.AppendUint32(b, 0)
		return ne.AppendUint32(b, uint32(code))
	}
	found := map[uint16][]byte{}
	done, err := n.answers(errno(3, -1), found) // of an earlier request
	require.False(t, done)
	require.NoError(t, err)
	done, err = n.answers(append(message(0x1c, 4, 1, attribute32(nil, attrIndex, 8)), errno(4, 0)...), found)
	require.True(t, done)
	require.NoError(t, err)
	require.Equal(t, uint32(8), ne.Uint32(found[attrIndex]))
	_, err = n.answers(errno(4, -int32(unix.EBUSY)), found)
	require.ErrorIs(t, err, unix.EBUSY)
	for _, damaged := range [][]byte{{0xff, 0xff, 0, 0, 2, 0, 0, 0, 4, 0, 0, 0, 0, 0, 0, 0}, {1, 0, 0, 0, 2, 0, 0, 0, 4, 0, 0, 0, 0, 0, 0, 0}, errno(4, 0)[:18]} {
		_, err := n.answers(damaged, found)
		require.Error(t, err)
	}
}

func FuzzAnswers(f *testing.F) {
	f.Add(message(0x1c, 1, 1, attribute32(nil, attrIndex, 8)))
	f.Fuzz(func(t *testing.T, b []byte) {
		(&netlink{seq: 1}).answers(b, map[uint16][]byte{})
	})
}

func TestAKernelWithoutNbdIsRefused(t *testing.T) {
	if _, err := os.Stat("/sys/module/nbd"); err == nil {
		t.Skip("this kernel has nbd")
	}
	for _, err := range []error{Detach("/dev/nbd0"), attachNothing()} {
		var r *control.Refusal
		require.ErrorAs(t, err, &r)
		require.Equal(t, "E_KERNEL", r.Code)
		require.NotEmpty(t, r.Try)
	}
	require.Equal(t, "E_NOT_PERMITTED", noKernel(unix.EPERM).(*control.Refusal).Code)
	require.Equal(t, "E_KERNEL", noKernel(errors.New("x")).(*control.Refusal).Code)
}

func attachNothing() error {
	_, err := Attach(context.Background(), AttachOptions{Device: "/dev/nbd0", Socket: "/none", Connections: 1})
	return err
}
