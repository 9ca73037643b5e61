package api

import "time"

// Alarm is something of a node that an operator has to see to while the node
// goes on.
type Alarm struct {
	Part   string    `json:"part"`   // such as "relay certificate"
	Reason string    `json:"reason"` // what is wrong
	Remedy string    `json:"remedy"` // what mends it
	Since  time.Time `json:"since"`  // by the node's clock
}

// MaxAlarms bounds a node's alarms; each text has MaxMessage bytes at most.
const MaxAlarms = 8

// ClipAlarms bounds what a node says of itself.
func ClipAlarms(list []Alarm) []Alarm {
	var out []Alarm
	for _, a := range list[:min(len(list), MaxAlarms)] {
		for _, text := range []*string{&a.Part, &a.Reason, &a.Remedy} {
			*text = (*text)[:min(len(*text), MaxMessage)]
		}
		out = append(out, a)
	}
	return out
}
