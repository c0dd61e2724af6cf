package journal

import (
	"fmt"
	"math"
)

// DeviceKey is the key of the record of device id.
func DeviceKey(id uint16) Key { return MakeKey(SpaceDevice, uint64(id), 0) }

// Device record, part of the format; the ID stands in the key:
//
//	0   version of the format (1)
//	1   state; with areaFollows if the data area stands at the end, labelFollows if the label does
//	2   UUID (16 bytes)
//	18  size (8)
//	26  since (12)
//	38  epoch (8)
//	46  seconds per operation (4 x 8, IEEE 754)
//	78  seconds per byte (4 x 8)
//	110 length of the path (2), path, length of the domain (1), domain, length of the reason (2), reason
//	..  offset (8) and size (8) of the data area, with areaFollows
//	..  sequence that its label is known to have had (8), with labelFollows
//	..  CRC32C (4)

// areaFollows is set in the state of records that say where the data area is. A record of a device
// that has never grown may do without.
const areaFollows = 0x80

// labelFollows is set in the state of records of devices whose label was noted.
const labelFollows = 0x40

// Pack returns the record's bytes at key. It panics if the ID is not that of the key, the state
// is not known, the size is negative, or a text is too long; a longer reason is cut. A learned
// speed that is no positive number is stored as 0: not known.
func (d *Device) Pack(key Key) []byte { return d.AppendPack(nil, key) }

// AppendPack is Pack into the memory behind dst.
func (d *Device) AppendPack(dst []byte, key Key) []byte {
	checkSpace(key, SpaceDevice)
	if _, id, _ := key.Parts(); id != uint64(d.ID) || !d.valid() {
		panic(fmt.Sprintf("journal: device %d for key %v: state %d, size %d", d.ID, key, d.State, d.Size))
	}
	start := len(dst)
	state := byte(d.State)
	if d.DataSize > 0 {
		state |= areaFollows
	}
	if d.LabelSeq > 0 {
		state |= labelFollows
	}
	dst = append(dst, recordVersion, state)
	dst = append(dst, d.UUID[:]...)
	dst = le.AppendUint64(dst, uint64(d.Size))
	dst = appendTime(dst, d.Since)
	dst = le.AppendUint64(dst, d.Epoch)
	dst = appendSpeeds(dst, &d.SecondsPerOp)
	dst = appendSpeeds(dst, &d.SecondsPerByte)
	dst = appendText16(dst, "path of a device", d.Path, MaxPath)
	dst = appendText8(dst, "failure domain", d.Domain, MaxDomain)
	dst = appendText16(dst, "reason", cut(d.Reason, MaxReason), MaxReason)
	if d.DataSize > 0 {
		dst = le.AppendUint64(dst, uint64(d.DataOff))
		dst = le.AppendUint64(dst, uint64(d.DataSize))
	}
	if d.LabelSeq > 0 {
		dst = le.AppendUint64(dst, uint64(d.LabelSeq))
	}
	return appendCRC(dst, start, &key)
}

func (d *Device) valid() bool {
	return d.State >= Online && d.State <= Rebuilding && d.Size >= 0 && d.DataOff >= 0 && d.DataSize >= 0 && (d.DataSize > 0 || d.DataOff == 0)
}

func appendSpeeds(dst []byte, speeds *[4]float64) []byte {
	for _, x := range speeds {
		if !(x > 0) || math.IsInf(x, 1) {
			x = 0
		}
		dst = le.AppendUint64(dst, math.Float64bits(x))
	}
	return dst
}

func (r *reader) speeds() (speeds [4]float64) {
	for i := range speeds {
		bits := r.u64()
		x := math.Float64frombits(bits)
		if bits != 0 && !(x > 0) || math.IsInf(x, 1) {
			r.bad = true
		}
		speeds[i] = x
	}
	return speeds
}

// ParseDevice is the reverse of Pack. Times come back in UTC.
func ParseDevice(key Key, b []byte) (Device, error) {
	f, err := openRecord(&key, SpaceDevice, b)
	if err != nil {
		return Device{}, err
	}
	_, id, rest := key.Parts()
	r := reader{b: f}
	d := Device{ID: uint16(id)}
	state := r.u8()
	d.State = DeviceState(state &^ (areaFollows | labelFollows))
	copy(d.UUID[:], r.take(16))
	d.Size = int64(r.u64())
	d.Since = r.time()
	d.Epoch = r.u64()
	d.SecondsPerOp, d.SecondsPerByte = r.speeds(), r.speeds()
	d.Path = r.text16(MaxPath)
	d.Domain = r.text8(MaxDomain)
	d.Reason = r.text16(MaxReason)
	if state&areaFollows != 0 {
		d.DataOff, d.DataSize = int64(r.u64()), int64(r.u64())
		r.bad = r.bad || d.DataSize == 0
	}
	if state&labelFollows != 0 {
		d.LabelSeq = Seq(r.u64())
		r.bad = r.bad || d.LabelSeq == 0
	}
	if !r.done() || !d.valid() || id > math.MaxUint16 || rest != 0 {
		return Device{}, corrupt(key, "fields of a device, %d bytes", len(b))
	}
	return d, nil
}
