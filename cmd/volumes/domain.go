package volumes

import (
	"path/filepath"
	"regexp"
	"strings"

	"ballast/cmd/control"
)

// A device that is given no domain is one of its own and goes by its ID, so no domain may have
// the name of an ID.
var (
	domainName = regexp.MustCompile(`^[a-zA-Z0-9][a-zA-Z0-9._:-]{0,63}$`)
	deviceName = regexp.MustCompile(`^d[0-9]+$`)
)

// parseDomains reads NAME=DEVICE[,DEVICE...] and returns the domain of each spec, "" for a domain
// of its own. A DEVICE is one of specs as it was typed, or its path.
func parseDomains(args []string, specs []Spec) (domains []string, faults control.Refusals) {
	domains = make([]string, len(specs))
	bad := func(format string, args ...any) {
		faults = append(faults, control.Refuse("E_DOMAIN", format, args...).WithTry("--domain NAME=DEVICE,DEVICE, with devices of this volume"))
	}
	for _, arg := range args {
		name, list, ok := strings.Cut(arg, "=")
		switch {
		case !ok || list == "":
			bad("--domain %q: NAME=DEVICE[,DEVICE...] is wanted", arg)
			continue
		case !domainName.MatchString(name):
			bad("--domain: %q cannot be the name of a failure domain: 1 to 64 of a-z, A-Z, 0-9, '.', '_', ':' and '-', the first a letter or digit", name)
			continue
		case deviceName.MatchString(name):
			bad("--domain: %q is the name of a device's own failure domain", name)
			continue
		}
		for _, dev := range splitDevices(specs, list) {
			switch i := findSpec(specs, dev); {
			case i < 0:
				bad("--domain %s: %q is none of the devices of the volume", name, dev)
			case domains[i] != "" && domains[i] != name:
				bad("--domain: %s is put into two failure domains, %s and %s", dev, domains[i], name)
			default:
				domains[i] = name
			}
		}
	}
	return domains, faults
}

// splitDevices cuts a list at its commas, but for those that are part of a device's path.
func splitDevices(specs []Spec, list string) (devs []string) {
	parts := strings.Split(list, ",")
	for len(parts) > 0 {
		n := len(parts)
		for n > 1 && findSpec(specs, strings.Join(parts[:n], ",")) < 0 {
			n--
		}
		devs = append(devs, strings.Join(parts[:n], ","))
		parts = parts[n:]
	}
	return devs
}

// findSpec returns which spec arg names, -1 if none.
func findSpec(specs []Spec, arg string) int {
	if arg == "" {
		return -1
	}
	abs, err := filepath.Abs(arg)
	if err != nil {
		abs = arg
	}
	for i, s := range specs {
		if arg == s.Given || realDir(abs) == realDir(s.Path) {
			return i
		}
	}
	return -1
}

// checkDomains refuses more copies than there are failure domains.
func checkDomains(copies int, domains []string) *control.Refusal {
	n, names := 0, []string{}
	seen := map[string]bool{}
	for _, d := range domains {
		if d == "" {
			n++
		} else if !seen[d] {
			seen[d] = true
			names = append(names, d)
		}
	}
	if n+len(names) >= copies || len(names) == 0 || len(domains) < copies {
		return nil
	}
	others := ""
	if n > 0 {
		others = " and one for each device without"
	}
	return control.Refuse("E_COPIES", "%d copies need %d failure domains, there %s only %d: %s%s", copies, copies,
		map[bool]string{true: "is", false: "are"}[n+len(names) == 1], n+len(names), strings.Join(names, ", "), others).
		WithTry("--copies %d, or devices in another domain", n+len(names))
}
