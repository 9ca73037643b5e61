import { Latency, Stage } from "./types";

const maxPending = 512; // inputs and reports that wait for their picture
const maxShown = 240; // pictures remembered for reports that come late
const maxSamples = 120; // of each stage: what the medians are taken over
const wrap = 2 ** 32;

interface Told { rtp: number; input?: number; ms: Partial<Record<Stage, number>> }
interface Shown { rtp: number; received: number; presented: number; displayed: number; decode: number }

/** after says whether one RTP timestamp is another or comes after it. */
const after = (a: number, b: number) => (a - b + wrap) % wrap < wrap / 2;

/**
 * LatencyMeter finds out where the time from an input to its picture goes. Each
 * input carries an id; the server names the first picture that may show it and
 * what its own side took; the page adds when that picture was displayed. What
 * nobody measured is the network, both ways, so that no two clocks are compared.
 */
export class LatencyMeter {
  private inputs = new Map<number, { at: number; sent: number }>();
  private told: Told[] = [];
  private shown: Shown[] = [];
  private samples = new Map<Stage, number[]>();
  private next = 1;
  private off = false;
  private interval = 1000 / 60; // ms between two steps of the display

  /** answer tells the server what the page measured of a picture. */
  constructor(private video: HTMLVideoElement, private answer: (data: object) => void) {
    if (!("requestVideoFrameCallback" in video)) return;
    this.watch();
    this.learnInterval();
  }

  dispose(): void { this.off = true; }

  /** input gives an id to an input that happened at a time of performance.now(). */
  input(at: number): number {
    const id = this.next++;
    // An event's time may be of another clock (old browsers): then now will do.
    const now = performance.now();
    this.inputs.set(id, { at: at > 0 && at <= now && now - at < 1000 ? at : now, sent: now });
    if (this.inputs.size > maxPending) this.inputs.delete(this.inputs.keys().next().value!);
    return id;
  }

  /** frame takes the server's report of a picture. */
  frame(data: unknown): void {
    const t = data as Told;
    if (typeof t?.rtp !== "number" || typeof t.ms !== "object" || !t.ms) return;
    const shown = this.shown.find((s) => after(s.rtp, t.rtp));
    if (shown) this.measure(t, shown);
    else if (this.told.push(t) > maxPending) this.told.shift();
  }

  /** learnInterval finds out how often the display steps, once. */
  private learnInterval(): void {
    const gaps: number[] = [];
    let last = Infinity;
    const step = (now: number) => {
      if (now > last) gaps.push(now - last);
      last = now;
      if (this.off) return;
      if (gaps.length < 15) requestAnimationFrame(step);
      else this.interval = gaps.sort((a, b) => a - b)[7];
    };
    requestAnimationFrame(step);
  }

  /**
   * displayed gives the first step of the display after a picture was presented.
   * expectedDisplayTime lies on a step, but for a connection's pictures Chromium
   * gives the one that it last prepared for (crbug.com/1050755).
   */
  private displayed(meta: VideoFrameCallbackMetadata): number {
    const steps = Math.ceil((meta.presentationTime - meta.expectedDisplayTime) / this.interval);
    return meta.expectedDisplayTime + steps * this.interval;
  }

  private watch(): void {
    this.video.requestVideoFrameCallback((_, meta) => {
      if (this.off) return;
      this.watch();
      if (meta.rtpTimestamp === undefined || meta.receiveTime === undefined) return; // not of a connection
      const s: Shown = {
        rtp: meta.rtpTimestamp, received: meta.receiveTime, presented: meta.presentationTime,
        displayed: this.displayed(meta), decode: (meta.processingDuration ?? 0) * 1000,
      };
      if (this.shown.push(s) > maxShown) this.shown.shift();
      const ready = this.told.filter((t) => after(s.rtp, t.rtp));
      this.told = this.told.filter((t) => !after(s.rtp, t.rtp));
      for (const t of ready) this.measure(t, s);
    });
  }

  private measure(t: Told, s: Shown): void {
    const ms: Partial<Record<Stage, number>> = {
      ...t.ms,
      decode: s.decode,
      jitter: Math.max(s.presented - s.received - s.decode, 0),
      present: Math.max(s.displayed - s.presented, 0),
    };
    const input = t.input ? this.inputs.get(t.input) : undefined;
    if (t.input) for (const id of this.inputs.keys()) if (id <= t.input) this.inputs.delete(id);
    if (input) {
      ms.input = (t.ms.input ?? 0) + input.sent - input.at;
      ms.total = s.displayed - input.at;
      const known = (Object.keys(ms) as Stage[]).filter((k) => k !== "total").reduce((n, k) => n + (ms[k] ?? 0), 0);
      ms.network = Math.max(ms.total - known, 0);
    } else delete ms.input;
    for (const [stage, v] of Object.entries(ms) as [Stage, number][]) {
      const list = this.samples.get(stage) ?? [];
      if (list.push(v) > maxSamples) list.shift();
      this.samples.set(stage, list);
    }
    const { input: i, network, jitter, decode, present, total } = ms;
    this.answer({ ms: { input: i, network, jitter, decode, present, total } });
  }

  /** read gives the medians of the newest measurements. */
  read(): Latency {
    const out: Latency = {};
    for (const [stage, list] of this.samples) {
      const sorted = [...list].sort((a, b) => a - b);
      out[stage] = sorted[Math.floor(sorted.length / 2)];
    }
    return out;
  }
}
