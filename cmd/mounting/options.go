package mounting

import (
	"slices"
	"strings"

	"ballast/cmd/control"
	"ballast/fusefs"
)

// Options are those of one mount.
type Options struct {
	fusefs.Flags
	StateDir, RunDir string // where the volume is looked for; "": as without
}

// flags are the options that are ours or the kernel's; each stands beside what takes it back.
var flags = map[string]func(*Options){
	"ro":             func(o *Options) { o.ReadOnly = true },
	"rw":             func(o *Options) { o.ReadOnly = false },
	"suid":           func(o *Options) { o.Suid = true },
	"nosuid":         func(o *Options) { o.Suid = false },
	"dev":            func(o *Options) { o.Dev = true },
	"nodev":          func(o *Options) { o.Dev = false },
	"exec":           func(o *Options) { o.NoExec = false },
	"noexec":         func(o *Options) { o.NoExec = true },
	"atime":          func(o *Options) { o.NoAtime = false },
	"relatime":       func(o *Options) { o.NoAtime = false },
	"noatime":        func(o *Options) { o.NoAtime = true },
	"sync":           func(o *Options) { o.Sync = true },
	"async":          func(o *Options) { o.Sync = false },
	"allow_other":    func(o *Options) { o.AllowOther = true },
	"no_allow_other": func(o *Options) { o.OnlyOwner = true },
}

// values are options with a value.
var values = map[string]func(*Options, string){
	"state-dir": func(o *Options, v string) { o.StateDir = v },
	"run-dir":   func(o *Options, v string) { o.RunDir = v },
}

// ignored are generic: mount(8) has acted on them, or nobody needs to.
var ignored = []string{"defaults", "auto", "noauto", "user", "nouser", "users", "nousers", "owner", "noowner", "group", "nogroup", "_netdev",
	"nofail", "diratime", "nodiratime", "norelatime", "lazytime", "nolazytime", "silent", "loud", "acl", "user_xattr", "default_permissions"}

// ignoredPrefixes are generic options with a value, and those of service managers and people.
var ignoredPrefixes = []string{"x-", "X-", "comment=", "uhelper=", "helper=", "subtype=", "fsname="}

// ParseOptions adds what a list of options separated by commas says. With sloppy, what is unknown
// is passed over.
func (o *Options) ParseOptions(list string, sloppy bool) error {
	var faults control.Refusals
	for option := range strings.SplitSeq(list, ",") {
		if err := o.parse(option); err != nil && !sloppy {
			faults = append(faults, err)
		}
	}
	if len(faults) > 0 {
		return faults
	}
	return nil
}

func (o *Options) parse(option string) *control.Refusal {
	name, value, hasValue := strings.Cut(option, "=")
	switch {
	case option == "" || slices.Contains(ignored, option):
		return nil
	case slices.ContainsFunc(ignoredPrefixes, func(p string) bool { return strings.HasPrefix(option, p) }):
		return nil
	case option == "remount":
		return control.Refuse("E_USAGE", "a mounted volume cannot be mounted anew with other options").WithTry("umount DIR, and mount it again")
	case flags[name] != nil && !hasValue:
		flags[name](o)
		return nil
	case values[name] != nil && value != "":
		values[name](o, value)
		return nil
	case flags[name] != nil:
		return control.Refuse("E_USAGE", "option %s takes no value, not %q", name, value).WithTry("-o %s", name)
	case values[name] != nil:
		return control.Refuse("E_USAGE", "option %s needs a value", name).WithTry("-o %s=DIR", name)
	}
	r := control.Refuse("E_USAGE", "there is no mount option %s", option)
	if meant := nearest(name); meant != "" {
		return r.WithTry("-o %s", meant)
	}
	return r.WithTry("ballast mount --help")
}

// nearest is the known option that name is most likely a misspelling of.
func nearest(name string) string {
	var known []string
	for k := range flags {
		known = append(known, k)
	}
	for k := range values {
		known = append(known, k)
	}
	known = append(known, ignored...)
	slices.Sort(known)
	best, least := "", 3
	for _, k := range known {
		if d := distance(name, k); d < least {
			best, least = k, d
		}
	}
	return best
}

// distance is how many letters have to be changed, added or taken away to make b of a.
func distance(a, b string) int {
	row := make([]int, len(b)+1)
	for j := range row {
		row[j] = j
	}
	for i := range len(a) {
		diagonal := row[0]
		row[0] = i + 1
		for j := range len(b) {
			cost := diagonal
			if a[i] != b[j] {
				cost++
			}
			diagonal = row[j+1]
			row[j+1] = min(cost, row[j]+1, row[j+1]+1)
		}
	}
	return row[len(b)]
}

// List is the options as they would be written after -o.
func (o *Options) List() string {
	list := []string{}
	for name, set := range map[string]bool{"ro": o.ReadOnly, "suid": o.Suid, "dev": o.Dev, "noexec": o.NoExec, "noatime": o.NoAtime,
		"sync": o.Sync, "allow_other": o.AllowOther, "no_allow_other": o.OnlyOwner} {
		if set {
			list = append(list, name)
		}
	}
	slices.Sort(list)
	return strings.Join(list, ",")
}
