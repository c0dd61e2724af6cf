package fusefs

// Flags say how a volume is mounted. The zero value is right for a backup destination: everybody
// may use it as far as the files' modes let them if root mounts it, and setuid programs and device
// nodes are kept but have no effect here.
type Flags struct {
	ReadOnly   bool
	Suid, Dev  bool // setuid bits and device nodes have an effect
	NoExec     bool
	NoAtime    bool // reading does not move atime; else it does as with relatime
	Sync       bool // every write is durable when it returns
	AllowOther bool // other users may use it; root's mounts do so unless OnlyOwner
	OnlyOwner  bool
}
