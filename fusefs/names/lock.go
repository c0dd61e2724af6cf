package names

import "slices"

// lockTable has the locks of inodes, hashed. They are held while an operation reads records of the
// inodes and changes them; they are channels, so that they may be held over waiting.
type lockTable [256]chan struct{}

func (l *lockTable) init() {
	for i := range l {
		l[i] = make(chan struct{}, 1)
	}
}

// lock locks inodes (0 stands for none) in an order that all keep, and returns what unlocks them.
// Who holds locks takes no more of them.
func (l *lockTable) lock(inos ...Ino) (unlock func()) {
	list := make([]int, 0, 4)
	for _, ino := range inos {
		if ino != 0 {
			list = append(list, int(uint64(ino)*0x9E3779B97F4A7C15>>56))
		}
	}
	slices.Sort(list)
	list = slices.Compact(list)
	for _, i := range list {
		l[i] <- struct{}{}
	}
	return func() {
		for _, i := range list {
			<-l[i]
		}
	}
}
