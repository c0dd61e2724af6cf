package kernel

import (
	"encoding/binary"
	"errors"
	"fmt"

	"golang.org/x/sys/unix"
)

// Commands and attributes of the nbd family (include/uapi/linux/nbd-netlink.h).
const (
	cmdConnect     = 1
	cmdDisconnect  = 2
	cmdReconfigure = 3

	attrIndex             = 1
	attrSizeBytes         = 2
	attrBlockSizeBytes    = 3
	attrTimeout           = 4
	attrServerFlags       = 5
	attrSockets           = 7
	attrDeadConnTimeout   = 8
	attrBackendIdentifier = 10

	attrSockItem = 1
	attrSockFD   = 1
)

// errNoFamily tells that the kernel has no nbd.
var errNoFamily = errors.New("the kernel has no nbd")

var ne = binary.NativeEndian

// attribute appends one netlink attribute, padded to 4 bytes.
func attribute(b []byte, kind uint16, data []byte) []byte {
	b = ne.AppendUint16(b, uint16(4+len(data)))
	b = ne.AppendUint16(b, kind)
	b = append(b, data...)
	for len(b)%4 != 0 {
		b = append(b, 0)
	}
	return b
}

func attribute32(b []byte, kind uint16, v uint32) []byte {
	return attribute(b, kind, ne.AppendUint32(nil, v))
}

func attribute64(b []byte, kind uint16, v uint64) []byte {
	return attribute(b, kind, ne.AppendUint64(nil, v))
}

// message is a generic netlink request.
func message(family uint16, seq uint32, cmd uint8, attributes []byte) []byte {
	size := unix.SizeofNlMsghdr + 4 + len(attributes)
	b := ne.AppendUint32(nil, uint32(size))
	b = ne.AppendUint16(b, family)
	b = ne.AppendUint16(b, unix.NLM_F_REQUEST|unix.NLM_F_ACK)
	b = ne.AppendUint32(b, seq)
	b = ne.AppendUint32(b, 0) // the kernel
	b = append(b, cmd, 1, 0, 0)
	return append(b, attributes...)
}

// attributes splits a run of them. Damaged ones end it.
func attributes(b []byte) map[uint16][]byte {
	found := map[uint16][]byte{}
	for len(b) >= 4 {
		size := int(ne.Uint16(b))
		if size < 4 || size > len(b) {
			break
		}
		found[ne.Uint16(b[2:])&^(unix.NLA_F_NESTED|unix.NLA_F_NET_BYTEORDER)] = b[4:size]
		b = b[min((size+3)&^3, len(b)):]
	}
	return found
}

// netlink is a socket to the kernel's generic netlink.
type netlink struct {
	fd     int
	seq    uint32
	family uint16 // of nbd
}

// dial opens the socket and asks for the nbd family.
func dial() (*netlink, error) {
	fd, err := unix.Socket(unix.AF_NETLINK, unix.SOCK_RAW|unix.SOCK_CLOEXEC, unix.NETLINK_GENERIC)
	if err != nil {
		return nil, fmt.Errorf("netlink: %w", err)
	}
	n := &netlink{fd: fd}
	// Should the kernel ever stay silent, so do not we.
	err = unix.SetsockoptTimeval(fd, unix.SOL_SOCKET, unix.SO_RCVTIMEO, &unix.Timeval{Sec: 30})
	if err == nil {
		err = unix.Bind(fd, &unix.SockaddrNetlink{Family: unix.AF_NETLINK})
	}
	if err == nil {
		err = n.findFamily()
	}
	if err != nil {
		n.close()
		return nil, err
	}
	return n, nil
}

func (n *netlink) close() { unix.Close(n.fd) }

func (n *netlink) findFamily() error {
	replies, err := n.call(unix.GENL_ID_CTRL, unix.CTRL_CMD_GETFAMILY, attribute(nil, unix.CTRL_ATTR_FAMILY_NAME, []byte("nbd\x00")))
	if errors.Is(err, unix.ENOENT) {
		return errNoFamily
	}
	if err != nil {
		return fmt.Errorf("netlink: looking for nbd: %w", err)
	}
	id := replies[unix.CTRL_ATTR_FAMILY_ID]
	if len(id) < 2 {
		return errNoFamily
	}
	n.family = ne.Uint16(id)
	return nil
}

// call sends a command and returns the attributes of the answers.
func (n *netlink) call(family uint16, cmd uint8, attrs []byte) (map[uint16][]byte, error) {
	n.seq++
	if err := unix.Sendto(n.fd, message(family, n.seq, cmd, attrs), 0, &unix.SockaddrNetlink{Family: unix.AF_NETLINK}); err != nil {
		return nil, err
	}
	found := map[uint16][]byte{}
	buf := make([]byte, 64<<10)
	for {
		size, _, err := unix.Recvfrom(n.fd, buf, 0)
		if errors.Is(err, unix.EINTR) {
			continue
		}
		if err != nil {
			return nil, err
		}
		done, err := n.answers(buf[:size], found)
		if done || err != nil {
			return found, err
		}
	}
}

// answers reads the messages of one datagram and reports whether the last was among them.
func (n *netlink) answers(b []byte, found map[uint16][]byte) (done bool, err error) {
	for len(b) >= unix.SizeofNlMsghdr {
		size := int(ne.Uint32(b))
		if size < unix.SizeofNlMsghdr || size > len(b) {
			return false, errors.New("a damaged answer of the kernel")
		}
		kind, seq, body := ne.Uint16(b[4:]), ne.Uint32(b[8:]), b[unix.SizeofNlMsghdr:size]
		b = b[min((size+3)&^3, len(b)):]
		switch {
		case seq != n.seq:
		case kind == unix.NLMSG_ERROR:
			if len(body) < 4 {
				return false, errors.New("a damaged answer of the kernel")
			}
			if errno := int32(ne.Uint32(body)); errno != 0 {
				return true, unix.Errno(-errno)
			}
			return true, nil
		case len(body) >= 4:
			for k, v := range attributes(body[4:]) {
				found[k] = append([]byte(nil), v...)
			}
		}
	}
	return false, nil
}
