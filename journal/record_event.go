package journal

import "fmt"

// EventKey is the key of the record of event number.
func EventKey(number uint64) Key { return MakeKey(SpaceEvent, 0, number) }

const maxSeverity = 2

// Event record, part of the format:
//
//	0   version of the format (1)
//	1   severity
//	2   device (2 bytes)
//	4   time (12)
//	16  length of the code (1), code, length of the message (2), message
//	..  CRC32C (4)

// Pack returns the record's bytes at key. It panics if the severity is not known or the code is
// too long; a longer message is cut.
func (e *Event) Pack(key Key) []byte { return e.AppendPack(nil, key) }

// AppendPack is Pack into the memory behind dst.
func (e *Event) AppendPack(dst []byte, key Key) []byte {
	checkSpace(key, SpaceEvent)
	if e.Severity > maxSeverity {
		panic(fmt.Sprintf("journal: event %v: severity %d", key, e.Severity))
	}
	start := len(dst)
	dst = append(dst, recordVersion, e.Severity)
	dst = le.AppendUint16(dst, e.Device)
	dst = appendTime(dst, e.Time)
	dst = appendText8(dst, "code of an event", e.Code, MaxCode)
	dst = appendText16(dst, "message", cut(e.Message, MaxMessage), MaxMessage)
	return appendCRC(dst, start, &key)
}

// ParseEvent is the reverse of Pack. Times come back in UTC.
func ParseEvent(key Key, b []byte) (Event, error) {
	f, err := openRecord(&key, SpaceEvent, b)
	if err != nil {
		return Event{}, err
	}
	r := reader{b: f}
	var e Event
	e.Severity, e.Device = r.u8(), r.u16()
	e.Time = r.time()
	e.Code = r.text8(MaxCode)
	e.Message = r.text16(MaxMessage)
	if !r.done() || e.Severity > maxSeverity {
		return Event{}, corrupt(key, "fields of an event, %d bytes", len(b))
	}
	return e, nil
}
