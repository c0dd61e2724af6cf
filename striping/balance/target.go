package balance

import (
	"slices"
	"time"

	"ballast/devices"
	"ballast/striping/policy"
)

// Target is the device that would soonest take one more copy, of size bytes, of a chunk that has
// copies on the devices kept: in another failure domain, where the capacity guard agrees if there is
// such a device. ahead is the work that a device will be given before, besides what it has. among, if
// not nil, limits the choice. False: no device takes it.
func (b *Balancer) Target(size int64, kept []devices.ID, ahead func(devices.ID) time.Duration, among func(devices.ID) bool) (devices.ID, bool) {
	cands := b.candidates(size, devices.Background)
	members := b.devs()
	var domains []int
	for i := range cands {
		cands[i].Expect += ahead(members[i].id)
		if slices.Contains(kept, members[i].id) && !members[i].gone.Load() && !slices.Contains(domains, members[i].domain) {
			domains = append(domains, members[i].domain)
		}
	}
	o := policy.Order{Size: size, Copies: b.opts.Copies, Promised: b.promised()}
	if among != nil {
		o.Only = func(i int) bool { return among(members[i].id) }
	}
	i, _ := policy.Spare(cands, o, domains, nil)
	if i < 0 {
		return 0, false
	}
	return members[i].id, true
}
