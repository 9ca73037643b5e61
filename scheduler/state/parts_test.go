package state

import (
	"bytes"
	"fmt"
	"strings"
	"testing"

	"github.com/perigee-cloud/perigee/api"
)

// newPartsRig is a cluster of version 4 with two nodes: the first has two
// graphics processors and little of everything, the second says nothing.
func newPartsRig(t testing.TB) *rig {
	r := newRig(t)
	r.do(&Raise{Version: 4}, nodeWith(t, "n1", 8, &api.Machine{CPUMillis: 8000, MemoryMiB: 4096, UplinkKbps: 12_500,
		GPUs: []api.GPUMemory{{Device: "0", VRAMMiB: 4096}, {Device: "1", VRAMMiB: 8192}}}))
	return r
}

func taking(id, node string, p api.Parts) *Create {
	c := creation(id, node)
	c.Parts = p
	return c
}

func used(t testing.TB, r *rig, node string) string {
	t.Helper()
	n, ok := r.s.Node(api.NodeID(node))
	if !ok {
		t.Fatalf("no node %s", node)
	}
	var out []string
	for _, u := range n.Parts() {
		out = append(out, fmt.Sprintf("%s%s %d/%d", u.Part, u.Device, u.Reserved, u.Most))
	}
	return strings.Join(out, " ")
}

// TestEachPartBinds fills one part after the other and holds that the refusal
// names it, and that nothing is taken by a refused create.
func TestEachPartBinds(t *testing.T) {
	r := newPartsRig(t)
	r.do(taking("s1", "n1", api.Parts{CPUMillis: 2000, MemoryMiB: 1024, UplinkKbps: 5000, VRAMMiB: 3000, GPU: 1}),
		taking("s2", "n1", api.Parts{CPUMillis: 2000, MemoryMiB: 1024, UplinkKbps: 5000, VRAMMiB: 3000, GPU: 2}))
	before := used(t, r, "n1")
	if want := "cpu 4000/8000 memory 2048/4096 uplink 10000/12500 vram0 3000/4096 vram1 3000/8192"; before != want {
		t.Fatalf("the ledger has %s, want %s", before, want)
	}
	for _, c := range []struct {
		parts api.Parts
		code  api.RefusalCode
		says  string
	}{
		{api.Parts{CPUMillis: 4001}, api.RefusedCPU, "4000 of 8000 millicores reserved, 4001 are needed"},
		{api.Parts{MemoryMiB: 2049}, api.RefusedMemory, "2048 of 4096 MiB reserved"},
		{api.Parts{UplinkKbps: 5000}, api.RefusedUplink, "10000 of 12500 kb/s reserved, 5000 are needed"},
		{api.Parts{VRAMMiB: 2000, GPU: 1}, api.RefusedVRAM, "3000 of 4096 MiB of 0 reserved"},
		{api.Parts{VRAMMiB: 1, GPU: 3}, api.RefusedVRAM, "no graphics processor number 3"},
		{api.Parts{VRAMMiB: 1}, api.RefusedVRAM, "no graphics processor number 0"},
	} {
		e := r.refused(api.CodeNoCapacity, taking("s3", "n1", c.parts))
		if len(e.Refusals) != 1 || e.Refusals[0].Code != c.code || !strings.Contains(e.Refusals[0].Detail, c.says) {
			t.Errorf("%+v is refused with %+v, want %s: %s", c.parts, e.Refusals, c.code, c.says)
		}
	}
	if got := used(t, r, "n1"); got != before {
		t.Errorf("refused creates left %s", got)
	}
	r.do(taking("s3", "n1", api.Parts{CPUMillis: 4000, MemoryMiB: 2048, UplinkKbps: 2500, VRAMMiB: 5000, GPU: 2})) // to the last of each
	r.refused(api.CodeNoCapacity, taking("s4", "n1", api.Parts{CPUMillis: 1}))
	r.do(taking("s4", "n1", api.Parts{})) // asks for nothing of what is full
	r.do(taking("s5", "n2", api.Parts{CPUMillis: 1 << 30, MemoryMiB: 1 << 30, UplinkKbps: 1 << 30, VRAMMiB: 1 << 30, GPU: 1}))
	for _, id := range []string{"s1", "s2", "s3", "s4", "s5"} {
		r.report(id, api.ObservedStopped, 1)
	}
	if got, want := used(t, r, "n1"), "cpu 0/8000 memory 0/4096 uplink 0/12500 vram0 0/4096 vram1 0/8192"; got != want {
		t.Errorf("when all have ended the ledger has %s", got)
	}
	checkLedger(t, r.s)
}

// TestShrunkMachineAdmitsNothingMore holds that a node that came back smaller is
// overdrawn, and takes no more of that part.
func TestShrunkMachineAdmitsNothingMore(t *testing.T) {
	r := newPartsRig(t)
	r.do(taking("s1", "n1", api.Parts{CPUMillis: 2000, UplinkKbps: 10_000, VRAMMiB: 3000, GPU: 2}),
		nodeWith(t, "n1", 8, &api.Machine{CPUMillis: 1000, UplinkKbps: 20_000}))
	if got, want := used(t, r, "n1"), "cpu 2000/1000 memory 0/0 uplink 10000/20000"; got != want {
		t.Errorf("the ledger has %s, want %s", got, want)
	}
	r.refused(api.CodeNoCapacity, taking("s2", "n1", api.Parts{CPUMillis: 1}))
	r.refused(api.CodeNoCapacity, taking("s2", "n1", api.Parts{VRAMMiB: 1, GPU: 2}))
	r.do(taking("s2", "n1", api.Parts{UplinkKbps: 10_000, MemoryMiB: 1 << 20}))
	checkLedger(t, r.s)
}

// TestSharesTakeUplinkOnly counts viewers beyond the first, through a resize, a
// lost node and another place.
func TestSharesTakeUplinkOnly(t *testing.T) {
	r := newPartsRig(t)
	r.do(taking("s1", "n1", api.Parts{CPUMillis: 2000, MemoryMiB: 1024, UplinkKbps: 5000}))
	r.report("s1", api.ObservedRunning, 1)
	if res := r.do(share(r)); res.Session.MoreViewers != 1 || res.Session.Parts.UplinkKbps != 5000 {
		t.Errorf("with a share it is %+v", res.Session)
	}
	if got, want := used(t, r, "n1"), "cpu 2000/8000 memory 1024/4096 uplink 10000/12500 vram0 0/4096 vram1 0/8192"; got != want {
		t.Errorf("with two viewers the ledger has %s, want %s", got, want)
	}
	if e := r.refused(api.CodeNoCapacity, share(r)); len(e.Refusals) != 1 || e.Refusals[0].Code != api.RefusedUplink {
		t.Errorf("a third viewer is refused with %+v", e.Refusals)
	}
	if open, _ := r.s.Shares("s1"); len(open) != 1 {
		t.Errorf("a refused share left %+v", open)
	}
	small := api.Screen{Width: 640, Height: 360, FPS: 30, Density: 240}
	r.do(&Join{ID: "s1", Screen: small}) // both viewers get the small picture
	v, _ := r.s.Live("s1")
	if v.Takes().UplinkKbps != 2*api.Uplink(small) || v.Viewer != 2 {
		t.Errorf("resized it takes %+v", v.Takes())
	}
	r.do(taking("s2", "n1", api.Parts{UplinkKbps: 10_500}))
	if e := r.refused(api.CodeNoCapacity, &Join{ID: "s1", Screen: hd}); e.Refusals[0].Code != api.RefusedUplink {
		t.Errorf("a larger picture is refused with %+v", e.Refusals)
	}
	if again, _ := r.s.Live("s1"); again.Screen != small || again.Takes() != v.Takes() {
		t.Errorf("a refused join left %+v", again)
	}
	checkLedger(t, r.s)
	r.do(nodeWith(t, "n3", 4, &api.Machine{UplinkKbps: 9000}), &LoseNode{ID: "n1"})
	again := &Place{ID: "s1", From: 1, Generation: 2, Node: "n3", Pool: api.PoolCPU, Codec: api.H264, Region: "eu", Reserved: oneHD(), Screen: hd,
		Parts: api.Parts{CPUMillis: 2000, UplinkKbps: 5000}}
	if e := r.refused(api.CodeNoCapacity, again); e.Refusals[0].Code != api.RefusedUplink {
		t.Errorf("a place with too little for both viewers is refused with %+v", e.Refusals)
	}
	fits := *again
	fits.Parts.UplinkKbps = 4500
	r.do(&fits)
	if got := used(t, r, "n1"); !strings.Contains(got, "uplink 12500/12500") {
		t.Errorf("the lost node holds %s: what it may still run with both viewers", got)
	}
	back, err := Read(bytes.NewReader(dump(t, r.s)))
	if err != nil {
		t.Fatal(err)
	}
	checkLedger(t, back)
	r.do(&Missing{ID: "s1", Generation: 1, Node: "n1"}, &DropShare{ID: "s1", Number: 1})
	if got, there := used(t, r, "n1"), used(t, r, "n3"); !strings.Contains(got, "uplink 10500/12500") || !strings.Contains(there, "uplink 4500/9000") {
		t.Errorf("after its absence was told the node holds %s, and without the share the other %s", got, there)
	}
}

// TestEarlierEntriesTakeNothingBeside holds that what a version cannot say costs
// nothing, whatever the replica that wrote it meant.
func TestEarlierEntriesTakeNothingBeside(t *testing.T) {
	r := newPartsRig(t)
	for version := 1; version < 4; version++ {
		c := taking(fmt.Sprint("s", version), "n1", api.Parts{CPUMillis: 1 << 40})
		next, results, err := r.s.Apply(EncodeAs(version, r.now, c))
		if err != nil || results[0].Err != nil {
			t.Fatal(err, results)
		}
		r.s = next
	}
	if got := used(t, r, "n1"); !strings.HasPrefix(got, "cpu 0/8000") {
		t.Errorf("entries of earlier versions took %s", got)
	}
}

// TestSnapshotV4 holds the bytes of a snapshot with all that version 4 brought.
func TestSnapshotV4(t *testing.T) {
	r := newPartsRig(t)
	r.do(taking("s1", "n1", api.Parts{CPUMillis: 2000, MemoryMiB: 1024, UplinkKbps: 5000, VRAMMiB: 3000, GPU: 2}),
		taking("s2", "n1", api.Parts{CPUMillis: 500, UplinkKbps: 1000}), taking("s3", "n2", api.Parts{UplinkKbps: 1000}), asks("a1", "alice"))
	r.report("s1", api.ObservedRunning, 1)
	r.do(share(r), &LoseNode{ID: "n1"}, &End{ID: "s1", Reason: api.ReasonDeleted})
	s := keptSnapshot(t, "testdata/snapshot_v4.txt", r.s)
	if got, want := used(t, &rig{s: s}, "n1"), "cpu 2500/8000 memory 1024/4096 uplink 11000/12500 vram0 0/4096 vram1 3000/8192"; got != want {
		t.Errorf("the ledger came back with %s, want %s", got, want)
	}
}
