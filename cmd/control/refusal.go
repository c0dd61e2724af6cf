package control

import (
	"errors"
	"fmt"
	"strings"
)

// Exit codes of ballast. They are part of the interface.
const (
	ExitOK            = 0
	ExitFailed        = 1
	ExitUsage         = 2
	ExitPartial       = 3
	ExitNoVolume      = 10
	ExitBusy          = 11
	ExitNotPermitted  = 12
	ExitNoSpace       = 13
	ExitNotRunning    = 14
	ExitInterrupted   = 130
	ExitCheckOK       = 0 // of status --check
	ExitCheckWarning  = 1
	ExitCheckCritical = 2
	ExitCheckUnknown  = 3
)

// Refusal is an error that people can act on. What it refuses has not been touched.
type Refusal struct {
	Exit    int      `json:"exit"`
	Code    string   `json:"code"`    // stable: E_DEVICE_MOUNTED
	Message string   `json:"message"` // what and why, one line
	Try     []string `json:"try,omitempty"`
	Schema  string   `json:"schema"`
}

// SchemaError names the document of a Refusal.
const SchemaError = "ballast.error/1"

// Refuse returns a Refusal. The exit code is that of the code, see Codes.
func Refuse(code string, format string, args ...any) *Refusal {
	exit := ExitFailed
	if c, ok := Codes[code]; ok {
		exit = c.Exit
	}
	return &Refusal{Exit: exit, Code: code, Message: fmt.Sprintf(format, args...), Schema: SchemaError}
}

// WithTry adds a line that says what to do next and returns r.
func (r *Refusal) WithTry(format string, args ...any) *Refusal {
	r.Try = append(r.Try, fmt.Sprintf(format, args...))
	return r
}

func (r *Refusal) Error() string { return r.Message }

// Refusals are several faults found in one go.
type Refusals []*Refusal

func (rs Refusals) Error() string {
	lines := make([]string, len(rs))
	for i, r := range rs {
		lines[i] = r.Message
	}
	return strings.Join(lines, "\n")
}

// AsRefusals returns the refusals in err, or err itself as one without a way out.
func AsRefusals(err error) Refusals {
	var many Refusals
	var one *Refusal
	switch {
	case errors.As(err, &many):
		return many
	case errors.As(err, &one):
		return Refusals{one}
	default:
		return Refusals{Refuse("E_FAILED", "%v", err)}
	}
}

// ExitCode is the exit code for err.
func ExitCode(err error) int {
	if err == nil {
		return ExitOK
	}
	return AsRefusals(err)[0].Exit
}

// Code is what a refusal's code means.
type Code struct {
	Exit int
	Text string // for ballast help CODE
}

// Codes lists every code. They never change their meaning.
var Codes = map[string]Code{
	"E_FAILED":           {ExitFailed, "Something went wrong that has no code of its own; the message says what."},
	"E_USAGE":            {ExitUsage, "The command line is not one ballast understands."},
	"E_NAME":             {ExitUsage, "Volume names are 1 to 64 of a-z, A-Z, 0-9, '.', '_' and '-', the first a letter or digit. Export names are 1 to 255 printable characters without '/'."},
	"E_SIZE":             {ExitUsage, "A size is digits with a unit, such as 10GiB, 1.5T (1024s) or 2TB (1000s), with no spaces, sign or exponent."},
	"E_CHUNK":            {ExitUsage, "The chunk size is a power of two from 64 KiB to 16 MiB."},
	"E_COPIES":           {ExitUsage, "Copies are 1, 2 or 3, each in a failure domain of its own: on another device, or, with --domain, in another group of devices."},
	"E_DOMAIN":           {ExitUsage, "A failure domain is NAME=DEVICE[,DEVICE...]: devices that may fail together, of which one holds at most one copy of a chunk."},
	"E_ADDRESS":          {ExitUsage, "An address is unix:PATH or tcp:HOST:PORT; TCP is served on loopback only."},
	"E_NO_VOLUME":        {ExitNoVolume, "There is no volume of this name in the state directory."},
	"E_NO_EXPORT":        {ExitNoVolume, "The volume has no export of this name."},
	"E_NO_FILE":          {ExitFailed, "There is no regular file of a mounted volume at this path."},
	"E_VOLUME_EXISTS":    {ExitFailed, "A volume of this name is in the state directory already."},
	"E_EXPORT_EXISTS":    {ExitFailed, "The volume has an export of this name already."},
	"E_BUSY":             {ExitBusy, "Somebody else uses it: another daemon, a client, the kernel."},
	"E_EXPORT_SHRINK":    {ExitFailed, "A smaller export loses what lies beyond its new end. --force does it."},
	"E_EXPORT_DATA":      {ExitFailed, "The export holds data. --yes removes it with all of that."},
	"E_EXPORT_BUSY":      {ExitBusy, "Clients hold the export open."},
	"E_NOT_PERMITTED":    {ExitNotPermitted, "The file system or the daemon does not let this user do it."},
	"E_NO_SPACE":         {ExitNoSpace, "The volume, or the file system that would hold a file, is full."},
	"E_NOT_RUNNING":      {ExitNotRunning, "The volume's daemon does not answer on its control socket."},
	"E_INTERRUPTED":      {ExitInterrupted, "The command was interrupted."},
	"E_DEVICE_NOT_FOUND": {ExitFailed, "There is nothing at this path."},
	"E_DEVICE_KIND":      {ExitFailed, "A device is a block device or a regular file; directories, pipes, sockets and character devices are not."},
	"E_DEVICE_SMALL":     {ExitFailed, "The device is too small to hold the label, the journal area and any data."},
	"E_DEVICE_SIZE":      {ExitFailed, "The disk has not grown, or is smaller than what is used of it."},
	"E_DEVICE_TWICE":     {ExitUsage, "Two of the paths lead to the same disk."},
	"E_DEVICE_BUSY":      {ExitBusy, "The device is mounted, is in use by the kernel, or another process holds it."},
	"E_DEVICE_SIGNATURE": {ExitFailed, "The device holds something: a file system, a partition table. --force overwrites it."},
	"E_DEVICE_MEMBER":    {ExitFailed, "The device belongs to a volume. --force takes it away from there."},
	"E_DEVICE_STALE":     {ExitFailed, "The device was a member of the volume once; the volume went on without it, and what it holds is no longer true. So it is with an older image of a member, as from a backup."},
	"E_DEVICE_MISSING":   {ExitFailed, "A device of the volume was not found, and the volume has no other copy of its data."},
	"E_DEVICE_FILE":      {ExitFailed, "The file to be made is there already, or cannot be made."},
	"E_DEVICE_LABEL":     {ExitFailed, "The device has no readable ballast label."},
	"E_NO_DEVICE":        {ExitFailed, "The volume has no device of this ID or path."},
	"E_DEVICE_NOT_EMPTY": {ExitFailed, "The device still holds data. Drain it first."},
	"E_DEVICE_NEEDED":    {ExitFailed, "Without the device there would be too few for the number of copies, or data would have no copy."},
	"E_NO_JOB":           {ExitFailed, "There is no such job under way, or nothing for it to do."},
	"E_JOB_CONFLICT":     {ExitBusy, "Another job, or the state of the device, stands against it."},
	"E_STATE":            {ExitFailed, "The volume's state directory cannot be used or does not hold what it should."},
	"E_JOURNAL":          {ExitFailed, "The volume's journal cannot be used: it is damaged, older than the disks say, or not this volume's."},
	"E_JOURNAL_FORKED":   {ExitFailed, "Devices of the volume, or its journal and its devices, were served apart from each other. Both sides may hold what was acknowledged, so neither is chosen."},
	"E_MOUNT":            {ExitFailed, "The volume cannot be mounted on this directory."},
	"E_MOUNT_BUSY":       {ExitBusy, "The volume is mounted already, or something else is mounted there."},
	"E_KERNEL":           {ExitFailed, "The running kernel cannot do it."},
}
