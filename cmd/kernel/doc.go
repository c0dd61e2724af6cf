// Package kernel binds exports to the block devices of the Linux kernel, /dev/nbdN.
//
// [Attach] opens the connections, agrees with the server on the export ([Handshake]), and hands
// the sockets to the kernel over generic netlink; no process of ours stays. [Detach] ends that. A
// kernel without nbd is refused before anything is opened.
//
// The numbers are those of include/uapi/linux/nbd-netlink.h and genetlink.h.
package kernel
