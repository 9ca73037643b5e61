package state

import (
	"encoding/binary"
	"fmt"
	"time"
)

// EntryVersion is the highest version of entries that this code reads. It
// writes State.EntryVersion, which no replica is above.
//
//	1  the first
//	2  the queue, later places, accounts' policies, the atlas; a million finished
//	   sessions are kept instead of 200,000
//	3  shares of sessions; tickets that were signed together
//	4  what a session takes beside its encoder pool, and the way out of its shares
//	5  instances that are started for sessions to come; changes of instances
const EntryVersion = 5

// maxCommands bounds the commands of one entry.
const maxCommands = 4096

// manyBytes is an entry of several creates, which share most of their words.
const manyBytes = 1 << 10

// kind numbers the commands; a number is never given away twice.
type kind uint64

const (
	kindCreate        kind = 1
	kindEnd           kind = 2
	kindJoin          kind = 3
	kindReport        kind = 4
	kindMissing       kind = 5
	kindQueue         kind = 6 // from version 2 on, as kindPlace, kindPutPolicy and kindRoutes
	kindPlace         kind = 7
	kindPrepare       kind = 8 // since version 5, as kindClaim, kindPutPool and kindDropPool
	kindClaim         kind = 9
	kindPutNode       kind = 16
	kindDrainNode     kind = 17
	kindRemoveNode    kind = 18
	kindLoseNode      kind = 19
	kindBackNode      kind = 20
	kindPutApp        kind = 32
	kindDeleteApp     kind = 33
	kindStageApp      kind = 34 // since version 2
	kindPublishApp    kind = 35 // since version 2
	kindDropVersion   kind = 36 // since version 2
	kindPutPool       kind = 37
	kindDropPool      kind = 38
	kindLaunch        kind = 96 // since version 2
	kindPutToken      kind = 48
	kindRevokeToken   kind = 49
	kindDeleteAccount kind = 50
	kindPutPolicy     kind = 51
	kindSecrets       kind = 64
	kindTick          kind = 65
	kindDemand        kind = 66
	kindRoutes        kind = 67
	kindPutReplica    kind = 80
	kindRemoveReplica kind = 81
	kindRaise         kind = 82
	kindPutShare      kind = 112 // since version 3
	kindDropShare     kind = 113 // since version 3
	kindEditInstance  kind = 128 // since version 5
)

// Command is one change of the state.
type Command interface {
	kind() kind
	fields(*coder)
	apply(*tx) Result
}

// newCommand gives the empty command of a kind, nil for a kind unknown here.
func newCommand(k kind) Command {
	switch k {
	case kindCreate:
		return &Create{}
	case kindEnd:
		return &End{}
	case kindJoin:
		return &Join{}
	case kindReport:
		return &Report{}
	case kindMissing:
		return &Missing{}
	case kindQueue:
		return &Queue{}
	case kindPlace:
		return &Place{}
	case kindPutNode:
		return &PutNode{}
	case kindDrainNode:
		return &DrainNode{}
	case kindRemoveNode:
		return &RemoveNode{}
	case kindLoseNode:
		return &LoseNode{}
	case kindBackNode:
		return &BackNode{}
	case kindPutApp:
		return &PutApp{}
	case kindDeleteApp:
		return &DeleteApp{}
	case kindStageApp:
		return &StageApp{}
	case kindPublishApp:
		return &PublishApp{}
	case kindDropVersion:
		return &DropVersion{}
	case kindLaunch:
		return &Launch{}
	case kindPutToken:
		return &PutToken{}
	case kindRevokeToken:
		return &RevokeToken{}
	case kindDeleteAccount:
		return &DeleteAccount{}
	case kindPutPolicy:
		return &PutPolicy{}
	case kindSecrets:
		return &Secrets{}
	case kindTick:
		return &Tick{}
	case kindDemand:
		return &Demand{}
	case kindRoutes:
		return &Routes{}
	case kindPutReplica:
		return &PutReplica{}
	case kindRemoveReplica:
		return &RemoveReplica{}
	case kindRaise:
		return &Raise{}
	case kindPutShare:
		return &PutShare{}
	case kindDropShare:
		return &DropShare{}
	case kindPrepare:
		return &Prepare{}
	case kindClaim:
		return &Claim{}
	case kindPutPool:
		return &PutPool{}
	case kindDropPool:
		return &DropPool{}
	case kindEditInstance:
		return &EditInstance{}
	default:
		return nil
	}
}

// Since is the version of entries from which on a command can be written.
func Since(c Command) int { return c.kind().since() }

func (k kind) since() int {
	switch k {
	case kindQueue, kindPlace, kindPutPolicy, kindRoutes, kindStageApp, kindPublishApp, kindDropVersion, kindLaunch:
		return 2
	case kindPutShare, kindDropShare:
		return 3
	case kindPrepare, kindClaim, kindPutPool, kindDropPool:
		return WarmSince
	case kindEditInstance:
		return EditSince
	default:
		return 1
	}
}

// Encode makes an entry of the lowest version that may hold the commands: a
// version byte, the leader's stamp and a list of (kind, length, payload).
func Encode(stamp time.Time, commands ...Command) []byte {
	version := 1
	for _, c := range commands {
		version = max(version, Since(c))
	}
	return EncodeAs(version, stamp, commands...)
}

// EncodeAs makes an entry of a version up to EntryVersion. The caller has asked
// Since of each command; of those known to the version, it leaves out the
// fields that came later.
func EncodeAs(version int, stamp time.Time, commands ...Command) []byte {
	b := make([]byte, 1, 64+256*len(commands))
	b[0] = byte(min(version, EntryVersion))
	c := coder{b: b}
	ns := stamp.UnixNano()
	c.int(&ns)
	payload := coder{version: int(b[0])}
	for _, cmd := range commands {
		payload.b = payload.b[:0]
		cmd.fields(&payload)
		c.b = binary.AppendUvarint(c.b, uint64(cmd.kind()))
		c.b = binary.AppendUvarint(c.b, uint64(len(payload.b)))
		c.b = append(c.b, payload.b...)
	}
	return c.b
}

// Decode reads an entry. Its error wraps ErrEntry and says what is wrong; an
// entry of a later version must stop the replica, as skipping it would make its
// state differ from the others'.
func Decode(b []byte) (stamp time.Time, commands []Command, err error) {
	if len(b) == 0 {
		return stamp, nil, fmt.Errorf("read an empty entry: %w", ErrEntry)
	}
	if b[0] == 0 || b[0] > EntryVersion {
		return stamp, nil, fmt.Errorf("entry has version %d and this program reads up to %d; install the version that the other schedulers run: %w",
			b[0], EntryVersion, ErrEntry)
	}
	c := coder{reading: true, b: b[1:]}
	var ns int64
	c.int(&ns)
	var known *words
	if len(b) > manyBytes {
		known = new(words)
	}
	for len(c.b) > 0 && c.err == nil {
		var k uint64
		c.uint(&k)
		payload := c.part()
		if c.err != nil {
			break
		}
		if len(commands) == maxCommands {
			return stamp, nil, fmt.Errorf("read an entry of over %d commands: %w", maxCommands, ErrEntry)
		}
		cmd := newCommand(kind(k))
		if cmd == nil || cmd.kind().since() > int(b[0]) {
			return stamp, nil, fmt.Errorf("entry holds a command of the unknown kind %d; install the version that the other schedulers run: %w", k, ErrEntry)
		}
		p := coder{reading: true, version: int(b[0]), b: payload, words: known}
		cmd.fields(&p)
		if p.err != nil {
			return stamp, nil, fmt.Errorf("read command of kind %d: %w", k, p.err)
		}
		if len(p.b) > 0 {
			return stamp, nil, fmt.Errorf("command of kind %d has %d bytes too many: %w", k, len(p.b), ErrEntry)
		}
		commands = append(commands, cmd)
	}
	return time.Unix(0, ns).UTC(), commands, c.err
}
