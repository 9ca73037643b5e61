import { Latency, Stats } from "./types";

const shortest = 200; // ms

interface Totals { at: number; bytes: number; emitted: number; buffer: number; decoded: number; decode: number }

/** Meter turns the browser's running totals into rates over the time between two readings. */
export class Meter {
  private before: Totals | null = null;
  private last: Stats | null = null;

  constructor(private pc: RTCPeerConnection, private latency: () => Latency) {}

  async read(): Promise<Stats> {
    const report = await this.pc.getStats();
    // eslint-disable-next-line @typescript-eslint/no-explicit-any
    const all: any[] = [...report.values()];
    const inbound = all.filter((s) => s.type === "inbound-rtp");
    const video = inbound.find((s) => s.kind === "video");
    const transport = all.find((s) => s.type === "transport" && s.selectedCandidatePairId);
    const pair = (transport && report.get(transport.selectedCandidatePairId)) ?? all.find((s) => s.type === "candidate-pair" && s.nominated);
    const ends = pair ? [report.get(pair.localCandidateId), report.get(pair.remoteCandidateId)] : [];
    const codec = video?.codecId ? report.get(video.codecId) : undefined;

    const now: Totals = {
      at: performance.now(),
      bytes: inbound.reduce((n, s) => n + (s.bytesReceived ?? 0), 0),
      emitted: video?.jitterBufferEmittedCount ?? 0,
      buffer: video?.jitterBufferDelay ?? 0,
      decoded: video?.framesDecoded ?? 0,
      decode: video?.totalDecodeTime ?? 0,
    };
    const was = this.before;
    // Two readers close together share one interval: over a few frames a rate says nothing.
    if (was && this.last && now.at - was.at < shortest) return this.last;
    this.before = now;
    const seconds = was ? (now.at - was.at) / 1000 : 0;
    const per = (total: number, count: number) => (count > 0 ? (total / count) * 1000 : -1);
    this.last = {
      width: video?.frameWidth ?? 0,
      height: video?.frameHeight ?? 0,
      codec: codec?.mimeType ? String(codec.mimeType).replace(/^video\//, "") : "",
      fps: was && seconds > 0 ? (now.decoded - was.decoded) / seconds : -1,
      bitrateKbps: was && seconds > 0 ? ((now.bytes - was.bytes) * 8) / 1000 / seconds : -1,
      roundTripMs: typeof pair?.currentRoundTripTime === "number" ? pair.currentRoundTripTime * 1000 : -1,
      jitterBufferMs: was ? per(now.buffer - was.buffer, now.emitted - was.emitted) : -1,
      decodeMs: was ? per(now.decode - was.decode, now.decoded - was.decoded) : -1,
      framesDecoded: now.decoded,
      framesDropped: video?.framesDropped ?? 0,
      freezes: video?.freezeCount ?? 0,
      packetsLost: inbound.reduce((n, s) => n + (s.packetsLost ?? 0), 0),
      // A relayed pair may show as peer-reflexive: its peer saw another address of the relay.
      relayed: ends.some((c) => c?.candidateType === "relay" || c?.relayProtocol),
      latency: this.latency(),
    };
    return this.last;
  }
}
