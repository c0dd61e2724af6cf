package journal

import (
	"fmt"
	"time"
)

// JobKind is what a job does.
type JobKind uint8

// The kinds of job. Part of the format.
const (
	JobDrain JobKind = iota + 1
	JobRebuild
	JobRebalance
	JobScrub
	JobReplace
)

// JobState is how far a job is.
type JobState uint8

// The states of a job. Part of the format.
const (
	JobRunning JobState = iota + 1
	JobPaused
	JobDone
	JobCancelled
	JobFailed
)

// Job is a record of SpaceJob. What is left to do stands in the placements; the record says what is
// wanted and what has been done, as of not long ago.
type Job struct {
	Number  uint64
	Kind    JobKind
	State   JobState
	Devices []uint16 // that it is about; none: all
	Target  uint16   // of a replacement
	Created time.Time
	Ended   time.Time // of a job that is over
	Total   uint64    // bytes
	Done    uint64    // bytes
	Errors  uint64    // blocks that no copy could give
	Healed  uint64    // blocks
	Pace    uint64    // most bytes per second; 0: no limit
	// Where a scrub is: a device, and the offset on it.
	CursorDevice uint16
	CursorOff    int64
	Since        time.Time // a scrub reads only what was written since then; zero: everything
	Reason       string    // why it was started, or how it ended
}

// JobKey is the key of the record of job number.
func JobKey(number uint64) Key { return MakeKey(SpaceJob, 0, number) }

// maxJobDevices is more than a volume has.
const maxJobDevices = 64

// jobSince is the bit of a record that has a Since.
const jobSince = 1 << 7

// Job record, part of the format; the number stands in the key:
//
//	0   version of the format (1)
//	1   kind
//	2   state
//	3   bits 0-6 number of devices, bit 7 there is a since (1); devices (2 each)
//	..  target (2)
//	..  created (12), ended (12)
//	..  total (8), done (8), errors (8), healed (8), pace (8)
//	..  cursor: device (2), offset (8)
//	..  if there is one: since (12)
//	..  length of the reason (2), reason
//	..  CRC32C (4)

// Pack returns the record's bytes at key. It panics if the number is not that of the key, or kind,
// state or the number of devices is not known; a longer reason is cut.
func (j *Job) Pack(key Key) []byte {
	checkSpace(key, SpaceJob)
	if _, _, n := key.Parts(); n != j.Number || !j.valid() {
		panic(fmt.Sprintf("journal: job %d for key %v: kind %d, state %d, %d devices", j.Number, key, j.Kind, j.State, len(j.Devices)))
	}
	dst := []byte{recordVersion, byte(j.Kind), byte(j.State), byte(len(j.Devices))}
	if !j.Since.IsZero() {
		dst[3] |= jobSince
	}
	for _, d := range j.Devices {
		dst = le.AppendUint16(dst, d)
	}
	dst = le.AppendUint16(dst, j.Target)
	dst = appendTime(dst, j.Created)
	dst = appendTime(dst, j.Ended)
	for _, n := range []uint64{j.Total, j.Done, j.Errors, j.Healed, j.Pace} {
		dst = le.AppendUint64(dst, n)
	}
	dst = le.AppendUint16(dst, j.CursorDevice)
	dst = le.AppendUint64(dst, uint64(j.CursorOff))
	if !j.Since.IsZero() {
		dst = appendTime(dst, j.Since)
	}
	dst = appendText16(dst, "reason", cut(j.Reason, MaxReason), MaxReason)
	return appendCRC(dst, 0, &key)
}

func (j *Job) valid() bool {
	return j.Kind >= JobDrain && j.Kind <= JobReplace && j.State >= JobRunning && j.State <= JobFailed &&
		len(j.Devices) <= maxJobDevices && j.CursorOff >= 0
}

// ParseJob is the reverse of Pack. Times come back in UTC.
func ParseJob(key Key, b []byte) (Job, error) {
	f, err := openRecord(&key, SpaceJob, b)
	if err != nil {
		return Job{}, err
	}
	_, zero, n := key.Parts()
	r := reader{b: f}
	j := Job{Number: n, Kind: JobKind(r.u8()), State: JobState(r.u8())}
	flags := r.u8()
	if d := int(flags &^ jobSince); d <= maxJobDevices {
		for range d {
			j.Devices = append(j.Devices, r.u16())
		}
	} else {
		r.bad = true
	}
	j.Target = r.u16()
	j.Created, j.Ended = r.time(), r.time()
	j.Total, j.Done, j.Errors, j.Healed, j.Pace = r.u64(), r.u64(), r.u64(), r.u64(), r.u64()
	j.CursorDevice = r.u16()
	j.CursorOff = int64(r.u64())
	if flags&jobSince != 0 {
		j.Since = r.time()
		r.bad = r.bad || j.Since.IsZero()
	}
	j.Reason = r.text16(MaxReason)
	if !r.done() || !j.valid() || zero != 0 {
		return Job{}, corrupt(key, "fields of a job, %d bytes", len(b))
	}
	return j, nil
}
