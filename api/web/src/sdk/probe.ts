import { Gateway, ProbeTarget } from "./gateway";
import { NodeProbe, Probes, StreamError } from "./types";

const silentAfter = 250; // milliseconds: a node that says nothing is at least that far
const samplesFor = 400; // milliseconds: time for the first three checks of each way
const samples = 3;
const rounds = 2; // a burst of checks may meet a burst of something else
const startLimit = 1500; // milliseconds until the browser sends its first check
const look = 50; // milliseconds: browsers renew their statistics no sooner
const leastMs = 0.5; // browsers count whole milliseconds: 0 is less than one
const freshFor = 10 * 60_000;

/**
 * probe measures the round trip to the nodes that the gateway names, by ICE
 * connectivity checks alone: nothing is connected, no picture is asked for.
 * Call it when the page loads and give the result to PerigeeStream: the session
 * then goes where the network is fastest, not where the map says. It takes
 * under a second and rejects only when the gateway cannot be asked.
 */
export async function probe(options: { url?: string; token?: string; pageToken?: string }): Promise<Probes> {
  const token = options.token ?? options.pageToken;
  if (!token) throw new StreamError("invalid", "token: is missing: give an account token or a pageToken", { field: "token" });
  let targets: ProbeTarget[] = [];
  try {
    targets = await new Gateway(options.url ?? location.origin, token).probes();
  } catch (e) {
    if ((e as StreamError).code !== "not_found") throw e; // an older gateway offers none
  }
  const best = new Map<string, NodeProbe>();
  for (let i = 0; i < rounds; i++) {
    const round = targets.filter((t) => i === 0 || best.get(t.node)?.silent === false);
    for (const n of await Promise.all(round.map((t) => measure(t).catch(() => null)))) {
      const have = n && best.get(n.node);
      if (n && (!have || (!n.silent && n.roundTripMs < have.roundTripMs))) best.set(n.node, n);
    }
  }
  return { at: Date.now(), nodes: [...best.values()] };
}

/** fresh gives what is worth sending with a create. */
export function fresh(p: Probes | undefined): NodeProbe[] {
  const age = Date.now() - (p?.at ?? 0);
  return p && age >= 0 && age < freshFor ? p.nodes : [];
}

/** measure gives null where the browser could not ask: that says nothing of the node. */
async function measure(t: ProbeTarget): Promise<NodeProbe | null> {
  const pc = new RTCPeerConnection();
  try {
    pc.createDataChannel("probe");
    await pc.setLocalDescription();
    await pc.setRemoteDescription({ type: "answer", sdp: answer(t) });
    const began = performance.now();
    let asked = 0;
    for (;;) {
      await new Promise((r) => setTimeout(r, look));
      const w = ways(await pc.getStats());
      const now = performance.now();
      if (w.asked && !asked) asked = now;
      if (!asked) {
        if (now - began > startLimit) return null;
      } else if (w.heard >= samples || now - asked > samplesFor) {
        if (w.best < Infinity) return { node: t.node, roundTripMs: Math.max(Math.round(w.best * 1e4) / 10, leastMs), silent: false };
        return w.heard ? null : { node: t.node, roundTripMs: silentAfter, silent: true };
      } else if (!w.heard && now - asked > silentAfter) {
        return { node: t.node, roundTripMs: silentAfter, silent: true };
      }
    }
  } finally {
    pc.close();
  }
}

/** ways sums up the pairs of candidates: the best round trip in seconds, the most answers on one. */
function ways(stats: RTCStatsReport): { asked: boolean; heard: number; best: number } {
  const w = { asked: false, heard: 0, best: Infinity };
  for (const s of stats.values() as Iterable<RTCIceCandidatePairStats>) {
    if (s.type !== "candidate-pair") continue;
    const heard = s.responsesReceived ?? (s.state === "succeeded" ? samples : 0);
    w.asked ||= (s.requestsSent ?? 0) > 0 || heard > 0 || s.state === "in-progress";
    w.heard = Math.max(w.heard, heard);
    if (heard && s.currentRoundTripTime !== undefined) w.best = Math.min(w.best, s.currentRoundTripTime);
  }
  return w;
}

/**
 * answer is what an ICE-lite peer at the node's relay would say. It is the
 * active side of a handshake that it never begins, so the browser sends checks
 * and nothing else.
 */
function answer(t: ProbeTarget): string {
  return [
    "v=0", "o=- 1 1 IN IP4 0.0.0.0", "s=-", "t=0 0", "a=ice-lite",
    "m=application 9 UDP/DTLS/SCTP webrtc-datachannel", "c=IN IP4 0.0.0.0", "a=mid:0",
    "a=ice-ufrag:" + t.ticket, "a=ice-pwd:" + t.password,
    "a=fingerprint:sha-256 " + Array(32).fill("00").join(":"), "a=setup:active", "a=sctp-port:5000",
    ...t.addresses.map((a, i) => {
      const colon = a.lastIndexOf(":");
      return `a=candidate:${i + 1} 1 udp ${2130706431 - i} ${a.slice(0, colon).replace(/[[\]]/g, "")} ${a.slice(colon + 1)} typ host`;
    }),
    "a=end-of-candidates", "",
  ].join("\r\n");
}
