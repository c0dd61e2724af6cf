package mounting

import (
	"path/filepath"
	"slices"
	"strings"

	"ballast/cmd/control"
)

// Helper is the command line that mount(8) gives a helper: SOURCE DIR [-sfnv] [-N NAMESPACE]
// [-t TYPE] [-o OPTIONS].
type Helper struct {
	Volume, Dir string
	Options     Options
	Fake        bool // do everything but mount
	Verbose     bool
}

// IsHelper tells whether a program called by this name with these arguments is a mount helper: it
// is called mount.ballast, as mount(8) does for the type ballast, or its first arguments are a
// source and an absolute path, as mount.fuse3(8) does for the type fuse.ballast.
func IsHelper(name string, args []string, commands []string) bool {
	if strings.HasPrefix(filepath.Base(name), "mount.") {
		return true
	}
	return len(args) >= 2 && !slices.Contains(commands, args[0]) && !strings.HasPrefix(args[0], "-") && filepath.IsAbs(args[1]) &&
		(len(args) == 2 || strings.HasPrefix(args[2], "-"))
}

// ParseHelper reads the command line of a helper.
func ParseHelper(args []string) (*Helper, error) {
	h := &Helper{}
	var options, names []string
	sloppy := false
	for i := 0; i < len(args); i++ {
		arg := args[i]
		if !strings.HasPrefix(arg, "-") || arg == "-" {
			names = append(names, arg)
			continue
		}
		for j, letter := range arg[1:] {
			switch letter {
			case 's':
				sloppy = true
			case 'f':
				h.Fake = true
			case 'n':
			case 'v':
				h.Verbose = true
			case 'o', 't', 'N':
				value := arg[1+j+1:]
				if value == "" {
					if i++; i == len(args) {
						return nil, control.Refuse("E_USAGE", "-%c needs a value", letter)
					}
					value = args[i]
				}
				if letter == 'N' {
					return nil, control.Refuse("E_USAGE", "mounting in another mount namespace (-N %s) is not possible: the daemon mounts in its own", value)
				}
				if letter == 'o' {
					options = append(options, value)
				}
			default:
				return nil, control.Refuse("E_USAGE", "there is no option -%c", letter).WithTry("mount.ballast VOLUME DIR [-sfnv] [-o OPTIONS]")
			}
			if strings.ContainsRune("otN", letter) {
				break
			}
		}
	}
	if len(names) != 2 {
		return nil, control.Refuse("E_USAGE", "a volume and a directory are needed, not %q", names).WithTry("mount.ballast VOLUME DIR [-sfnv] [-o OPTIONS]")
	}
	h.Volume, h.Dir = names[0], names[1]
	return h, h.Options.ParseOptions(strings.Join(options, ","), sloppy)
}
