import { Frame, Signaling } from "./signaling";

const lostGrace = 28_000; // the node keeps the connection of a viewer that it lost for so long
const plainGrace = 10_000; // where no restart can be asked for
const refusalsMost = 2; // in a row: the session, or the connection, has ended
const retryAfter = 1000; // between two websockets that led nowhere
const attemptLimit = 8000; // for one restart, from its websocket to the new way
const settleFor = 2000; // candidates may follow the answer; then the websocket is of no more use
const lookEvery = 1000;
const silentLooks = 3; // the node sends something at least once a second; browsers take up to 20 s to miss it
const freshUrlAfter = 3; // attempts until the gateway is asked for another ticket

export interface RecoveryHooks {
  /** Another websocket's address, when the ticket of the first does not open one any more. */
  url(): Promise<string>;
  /** A frame of the server's but an error: offers and candidates. */
  frame(f: Frame): Promise<void>;
  /** A new way is looked for, or found. */
  searching(on: boolean): void;
  /** No way was found. */
  lost(message: string): void;
}

/**
 * Recovery keeps a connection that has been up: when the way to the node breaks,
 * or the page's network changes, it asks for an ICE restart by a websocket of its own.
 */
export class Recovery {
  /** The server's name of the connection; without one there is no restart. */
  key = "";
  private ws: Signaling | null = null;
  private on = false;
  private attempts = 0;
  private refusals = 0;
  private giveUp = 0;
  private next = 0;
  private looks = 0; // without anything received
  private received = -1;
  private looking = 0;
  private abort = new AbortController();

  constructor(private pc: RTCPeerConnection, private url: string, private hooks: RecoveryHooks) {
    const on = { signal: this.abort.signal };
    window.addEventListener("online", () => this.restart(), on);
    // Its other changes are estimates of the same network.
    const network = (navigator as Navigator & { connection?: EventTarget & { type?: string } }).connection;
    let type = network?.type;
    network?.addEventListener("change", () => {
      if (network.type !== type) this.restart();
      type = network.type;
    }, on);
  }

  /** state follows the connection's; it is called once that has been up. */
  state(s: RTCIceConnectionState): void {
    if (!this.looking) this.looking = window.setInterval(() => void this.look(), lookEvery);
    if (s === "failed" && !this.key) this.end();
    else if (s === "disconnected" || s === "failed") this.broke();
    else if (s === "connected" || s === "completed") this.mended();
  }

  /** look finds out whether anything still comes. */
  private async look(): Promise<void> {
    let sum = 0;
    for (const r of (await this.pc.getStats()).values()) {
      if (r.type === "candidate-pair") sum += (r.bytesReceived ?? 0) + (r.requestsReceived ?? 0) + (r.responsesReceived ?? 0);
    }
    if (this.abort.signal.aborted) return;
    const silent = sum === this.received; // less: pairs of before a restart are gone
    this.received = sum;
    this.looks = silent ? this.looks + 1 : 0;
    if (this.looks >= silentLooks) this.broke();
    else if (!silent && this.on && this.up()) this.mended();
  }

  private broke(): void {
    if (!this.giveUp) this.giveUp = window.setTimeout(() => this.end(), this.key ? lostGrace : plainGrace);
    this.show(true);
    this.restart();
  }

  private mended(): void {
    window.clearTimeout(this.giveUp);
    this.giveUp = this.looks = 0;
    this.attempts = this.refusals = 0;
    this.show(false);
    if (this.ws) this.settle();
  }

  private up(): boolean { return this.looks < silentLooks && ["connected", "completed"].includes(this.pc.iceConnectionState); }

  private show(on: boolean): void {
    if (this.on === on) return;
    this.on = on;
    this.hooks.searching(on);
  }

  /** restart asks the node for an ICE restart, unless that goes on already. */
  restart(): void {
    if (!this.key || this.ws || this.abort.signal.aborted) return;
    window.clearTimeout(this.next);
    void this.attempt();
  }

  private async attempt(): Promise<void> {
    if (++this.attempts > freshUrlAfter) {
      try {
        this.url = await this.hooks.url();
      } catch {
        // the network may be away, or the token not allowed to: the ticket of before may still do
      }
      if (this.abort.signal.aborted || this.ws) return;
    }
    const ws = new Signaling(this.url, {
      open: () => ws.send({ type: "perigee.restart", key: this.key }),
      frame: (f) => {
        if (f.type === "error") this.refused(ws);
        else void this.hooks.frame(f).catch(() => this.again(ws));
      },
      lost: () => this.again(ws),
    });
    this.ws = ws;
    window.clearTimeout(this.next);
    this.next = window.setTimeout(() => (this.up() ? this.settle() : this.again(ws)), attemptLimit);
  }

  private refused(ws: Signaling): void {
    if (++this.refusals >= refusalsMost) this.end();
    else this.again(ws);
  }

  /** again tries once more, while there is still a need. */
  private again(ws: Signaling): void {
    if (this.ws !== ws) return;
    ws.close();
    this.ws = null;
    window.clearTimeout(this.next);
    if (!this.up()) this.next = window.setTimeout(() => this.restart(), retryAfter);
  }

  private settle(): void {
    const ws = this.ws;
    window.clearTimeout(this.next);
    this.next = window.setTimeout(() => {
      if (this.ws !== ws) return;
      ws?.close();
      this.ws = null;
    }, settleFor);
  }

  /** send gives a frame to the websocket of a restart; false: none goes on. */
  send(f: Frame): boolean {
    this.ws?.send(f);
    return this.ws !== null;
  }

  private end(): void {
    if (this.up() || this.abort.signal.aborted) return;
    this.close();
    this.hooks.lost("The connection to the node was lost.");
  }

  close(): void {
    this.abort.abort();
    window.clearInterval(this.looking);
    window.clearTimeout(this.giveUp);
    window.clearTimeout(this.next);
    this.ws?.close();
    this.ws = null;
  }
}
