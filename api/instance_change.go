package api

import "strings"

// InstanceChange is what changes of an instance while it lives; what is nil stays.
type InstanceChange struct {
	Tags      *[]string `json:"tags,omitempty"`
	Joinable  *bool     `json:"joinable,omitempty"`
	Protected *bool     `json:"delete_protected,omitempty"`
	// IdleMinutes without a client end a streamed one, from now on; 0 never does.
	IdleMinutes *int  `json:"idle_time_min,omitempty"`
	Grant       Grant `json:"grant"`
}

// Normalize checks a change.
func (c InstanceChange) Normalize() (InstanceChange, error) {
	if c.Tags == nil && c.Joinable == nil && c.Protected == nil && c.IdleMinutes == nil {
		return c, Invalidf("body", "changes nothing: give tags, or of perigee joinable, delete_protected or idle_time_min; all else of an instance stays as it was launched")
	}
	if c.Tags != nil {
		if err := checkTags(*c.Tags); err != nil {
			return c, err
		}
	}
	if m := c.IdleMinutes; m != nil && (*m < 0 || *m > MaxIdleMinutes) {
		return c, Invalidf("idle_time_min", "must be 0 to %d minutes, got %d", MaxIdleMinutes, *m)
	}
	return c, nil
}

// checkTags checks the tags that an operator gives an instance.
func checkTags(tags []string) error {
	if len(tags) > maxTags {
		return Invalidf("tags", "at most %d, got %d", maxTags, len(tags))
	}
	for _, t := range tags {
		if k, v, ok := strings.Cut(t, "="); ok && labelFault(k, v) != "" || !ok && labelFault(t, t) != "" {
			return Invalidf("tags", "%q must be a word, or key=value, each of 1 to 64 characters of [a-zA-Z0-9._/-]", t)
		}
		if strings.HasPrefix(t, "session=") {
			return Invalidf("tags", "%q: the tag session is given by us", t)
		}
	}
	return nil
}

// InstanceChangeBody is the body of PATCH /1.0/instances/{id}.
type InstanceChangeBody struct {
	Tags    *[]string             `json:"tags,omitempty"`
	Perigee *InstanceChangeExtras `json:"perigee,omitempty"`
}

// InstanceChangeExtras are our additions to InstanceChangeBody.
type InstanceChangeExtras struct {
	Joinable    *bool `json:"joinable,omitempty"`
	Protected   *bool `json:"delete_protected,omitempty"`
	IdleMinutes *int  `json:"idle_time_min,omitempty"` // 0 = for ever
}
