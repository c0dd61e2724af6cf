package striping

import "os"

// torture reports whether the campaigns are to be as long as a release wants them.
func torture() bool { return os.Getenv("BALLAST_TORTURE") != "" }

func spaceCases() int {
	if torture() {
		return 100
	}
	return 4
}
