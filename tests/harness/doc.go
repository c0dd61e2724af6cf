// Package harness runs the built daemon as a user would, against real disks and clients, and puts
// everything back.
//
// [Main] replaces m.Run in TestMain and fails the run when a mount, a loop device, a process or a
// throttle of ours is left behind. [New] gives a test its own state and run directories and
// [Env.Serve] a daemon that is ready. [NewLoop] makes a block device over a sparse file, and
// [Loop.Throttle] limits its speed. [NewSick] makes one that turns slow, stalls, hangs, fails, vanishes
// and returns when told to. [NewMachine] makes several that lose their power at once, and with it what
// chance wants of what they had not flushed.
//
// What a test made ends with the test, and with the test process however that dies: loop devices
// detach with the last descriptor, and daemons get a signal when their parent is gone.
package harness
