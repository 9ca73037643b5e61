package api

import "testing"

func TestShareIDs(t *testing.T) {
	s := Share{Session: "a-b:c", Number: 12}
	if id, n, err := ParseShareID(s.ID()); err != nil || id != s.Session || n != 12 {
		t.Errorf("%q came back as %q, %d, %v", s.ID(), id, n, err)
	}
	for _, bad := range []string{"", "a", "-1", "a-", "a-0", "a-x", "a b-1", "a-99999999999"} {
		if _, _, err := ParseShareID(bad); CodeOf(err) != CodeNotFound {
			t.Errorf("%q: %v", bad, err)
		}
	}
}

func TestGuestIDs(t *testing.T) {
	if n, ok := ParseGuest(GuestID(7, "abcd")); !ok || n != 7 {
		t.Errorf("came back as %d, %v", n, ok)
	}
	for _, other := range []string{"1-abcd", "g-abcd", "g0-a", "g1", "", "gx-a", "h1-a"} {
		if n, ok := ParseGuest(other); ok || n != 0 {
			t.Errorf("%q is guest %d", other, n)
		}
	}
}

func TestSeats(t *testing.T) {
	for _, c := range []struct {
		seat       Seat
		input, pad bool
	}{
		{Seat{}, true, true}, {Seat{Role: RoleControl}, true, true}, {Seat{Role: RoleViewer}, false, false},
		{Seat{Role: RoleControl, Rights: []ViewerRight{"gamepad"}}, false, true},
	} {
		if c.seat.May(MayInput) != c.input || c.seat.May("gamepad") != c.pad {
			t.Errorf("%+v may input %v, gamepad %v", c.seat, c.seat.May(MayInput), c.seat.May("gamepad"))
		}
	}
}
