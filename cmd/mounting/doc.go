// Package mounting reads what mount(8) and fstab say about a mount: the command line of a mount
// helper and the options after -o.
//
// Options that mount(8) itself acts on, or that tell the service manager what to do, are taken and
// forgotten. One that means nothing to anybody is refused, with what may have been meant.
package mounting
