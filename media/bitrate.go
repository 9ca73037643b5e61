package media

import "github.com/perigee-cloud/perigee/api"

// Limits are the lowest and highest bitrate of a picture size, in kb/s.
type Limits struct{ MinKbps, MaxKbps int }

// BitrateLimits gives the bitrates between which a picture is streamed: those
// that the schedulers count of the node's way out.
func BitrateLimits(s api.Screen) Limits {
	least, most := api.Bitrates(s)
	return Limits{MinKbps: least, MaxKbps: most}
}
