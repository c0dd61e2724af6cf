package show

import (
	"cmp"
	"fmt"
	"io"
	"strings"
	"time"

	"ballast/cmd/control"
	"ballast/cmd/size"
)

// jobLine is a job in one line.
func jobLine(j *control.Job) string {
	line := j.ID
	if len(j.Devices) > 0 {
		line += "  " + strings.Join(j.Devices, ",")
	}
	if j.Target != "" {
		line += " to " + j.Target
	}
	line += fmt.Sprintf("  %s / %s  %.1f %%", size.Format(j.BytesDone), size.Format(j.BytesTotal), j.Percent)
	if j.State != "running" {
		return line + "  " + j.State
	}
	if j.BlockedReason != nil {
		return line + "  waits: " + Clean(*j.BlockedReason)
	}
	return line + "  " + rate(j.Rate) + "  " + left(j.SecondsLeft)
}

// left is how long something will take, if that is known.
func left(seconds *float64) string {
	if seconds == nil {
		return "time left not known yet"
	}
	return "~" + duration(*seconds) + " left"
}

// duration is a time as people say it.
func duration(seconds float64) string {
	d := time.Duration(seconds * float64(time.Second)).Round(time.Second)
	switch {
	case d >= time.Hour:
		return fmt.Sprintf("%dh%02dm", int(d.Hours()), int(d.Minutes())%60)
	case d >= time.Minute:
		return fmt.Sprintf("%dm%02ds", int(d.Minutes()), int(d.Seconds())%60)
	}
	return fmt.Sprintf("%ds", int(d.Seconds()))
}

// Jobs writes a table of jobs.
func Jobs(w io.Writer, js *control.Jobs) {
	if len(js.Jobs) == 0 {
		fmt.Fprintf(w, "volume %s has had no jobs\n", js.Volume)
		return
	}
	t := &table{}
	t.add("JOB", "STATE", "DEVICES", ">DONE", ">TOTAL", ">%", ">RATE", ">LEFT", "")
	for _, j := range js.Jobs {
		devs := strings.Join(j.Devices, ",")
		if j.Target != "" {
			devs += " to " + j.Target
		}
		if devs == "" {
			devs = "-"
		}
		r, l, note := "-", "-", Clean(j.Reason)
		if j.State == "running" && j.BlockedReason == nil {
			r = rate(j.Rate)
			if j.SecondsLeft != nil {
				l = duration(*j.SecondsLeft)
			}
		}
		if j.BlockedReason != nil {
			note = "waits: " + Clean(*j.BlockedReason)
		}
		if j.Errors > 0 {
			note = strings.TrimLeft(note+"; ", "; ") + count(j.Errors, "block", "blocks") + " had no good copy"
		}
		if j.Healed > 0 {
			note = strings.TrimLeft(note+"; ", "; ") + count(j.Healed, "block", "blocks") + " healed"
		}
		t.add(j.ID, j.State, devs, size.Format(j.BytesDone), size.Format(j.BytesTotal), fmt.Sprintf("%.1f", j.Percent), r, l, note)
	}
	t.write(w, "")
}

// Job writes one job as a line.
func Job(w io.Writer, j *control.Job) { fmt.Fprintln(w, jobLine(j)) }

// Plan writes a forecast.
func Plan(w io.Writer, p *control.Plan) {
	fmt.Fprintf(w, "%s would copy %s (%s) in about %s, while clients leave the disks alone; nothing has been begun\n",
		p.Kind, size.Format(p.Bytes), count(p.Chunks, "chunk", "chunks"), duration(p.Seconds))
	t := &table{}
	t.add("DEVICE", ">SIZE", ">NOW", ">THEN")
	for _, d := range p.Devices {
		t.add(d.Name, size.Format(d.SizeBytes), percent(d.UsedBytes, d.SizeBytes), percent(d.ThenBytes, d.SizeBytes))
	}
	t.write(w, "  ")
}

// Map writes what would be lost.
func Map(w io.Writer, m *control.Map) {
	what := strings.Join(m.Devices, ", ")
	if what == "" {
		what = "nothing more"
	}
	fmt.Fprintf(w, "with %s lost: %s (%s) unrecoverable in %s, %s with fewer copies than asked for\n", what,
		count(m.Chunks, "chunk", "chunks"), size.Format(m.Bytes), count(int64(len(m.Objects)), "export or file", "exports and files"), count(m.Degraded, "more chunk", "more chunks"))
	for _, o := range m.Objects {
		fmt.Fprintf(w, "  %s  %s, %s, the first at %d\n", Clean(cmp.Or(o.Path, o.Name)), count(o.Chunks, "chunk", "chunks"), size.Format(o.Bytes), o.First)
	}
}

// Why writes where an export or a file stands.
func Why(w io.Writer, y *control.Why) {
	fmt.Fprintf(w, "%s: %s written in %s, %s with fewer copies than asked for, %s lost\n", Clean(y.Name), size.Format(y.Bytes),
		count(y.Chunks, "chunk", "chunks"), fmt.Sprint(y.Degraded), fmt.Sprint(y.Lost))
	t := &table{}
	t.add("DEVICE", "STATE", ">CHUNKS", ">SHARE", ">STALE", ">CAN WRITE", "RULE")
	for _, d := range y.Devices {
		t.add(d.Name, d.State, fmt.Sprint(d.Chunks), fmt.Sprintf("%.0f%%", d.Percent), fmt.Sprint(d.Stale), rate(d.Rate), Clean(d.Rule))
	}
	t.write(w, "  ")
	if c := y.Chunk; c != nil {
		fmt.Fprintf(w, "chunk %d at %d: %s written of a slot of %s, generation %d\n", c.Index, c.Offset, size.Format(c.Written), size.Format(c.Slot), c.Generation)
		for _, p := range c.Copies {
			note := ""
			if p.Stale {
				note = "  stale: it misses writes"
			}
			fmt.Fprintf(w, "  %s at %d%s\n", p.Device, p.Offset, note)
		}
	}
}
