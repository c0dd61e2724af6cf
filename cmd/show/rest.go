package show

import (
	"fmt"
	"io"

	"ballast/cmd/control"
	"ballast/cmd/size"
)

// Event writes one event as a line.
func Event(w io.Writer, e control.Event) {
	device := ""
	if e.Device != "" {
		device = " " + e.Device
	}
	fmt.Fprintf(w, "%s %-8s %s%s: %s\n", clock(e.Time), e.Severity, e.Code, device, Clean(e.Message))
}

// Listed is one volume of ballast list.
type Listed struct {
	Volume  string `json:"volume"`
	State   string `json:"state"` // of the volume, or "not running"
	Copies  int    `json:"copies"`
	Devices int    `json:"devices"`
	Raw     int64  `json:"raw_bytes"`
	UUID    string `json:"uuid"`
	Fault   string `json:"fault,omitempty"` // why it cannot be told
}

// List is the volumes known on this machine.
type List struct {
	Schema  string   `json:"schema"`
	Dir     string   `json:"state_dir"`
	Volumes []Listed `json:"volumes"`
}

// Write writes l for people.
func (l *List) Write(w io.Writer) {
	if len(l.Volumes) == 0 {
		fmt.Fprintf(w, "no volumes in %s\n  try: ballast create NAME DEVICE...\n", Clean(l.Dir))
		return
	}
	t := &table{}
	t.add("VOLUME", "STATE", ">COPIES", ">DEVICES", ">RAW", "UUID")
	for _, v := range l.Volumes {
		if v.Fault != "" {
			t.add(v.Volume, "unreadable", "-", "-", "-", Clean(v.Fault))
			continue
		}
		t.add(v.Volume, v.State, fmt.Sprint(v.Copies), fmt.Sprint(v.Devices), size.Format(v.Raw), v.UUID)
	}
	t.write(w, "")
}

// Refusals writes errors for people: what and why, the code, the way out.
func Refusals(w io.Writer, rs control.Refusals) {
	for _, r := range rs {
		fmt.Fprintf(w, "ballast: %s\n", Clean(r.Message))
		for _, t := range r.Try {
			fmt.Fprintf(w, "  try:  %s\n", Clean(t))
		}
		fmt.Fprintf(w, "  code: %s\n", r.Code)
	}
}

// RefusalDoc is the errors as one document.
type RefusalDoc struct {
	Schema string           `json:"schema"`
	Exit   int              `json:"exit"`
	Errors control.Refusals `json:"errors"`
}

// RefusalsJSON writes errors for programs.
func RefusalsJSON(w io.Writer, rs control.Refusals) error {
	return Line(w, &RefusalDoc{Schema: "ballast.errors/1", Exit: rs[0].Exit, Errors: rs})
}
