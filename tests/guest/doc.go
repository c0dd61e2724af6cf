// Package guest tests what the machine's own kernel may lack: it boots a kernel with nbd under
// software emulation (qemu), with the ballast program and a few tools in its initramfs, and lets
// testdata/init.sh use an export there as a block device of the kernel. Part of make torture.
package guest
