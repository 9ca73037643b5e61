import { decode, encode, Frame, Signaling } from "./signaling";
import { iceServers, queuePlace } from "./gateway";
import { Recovery } from "./recovery";
import { Codec, PerigeeOptions, QueuePlace, StreamError } from "./types";

const apiVersion = 2;
const maxDataChannels = 5;
const goodbyeLimit = 300; // ms
const maxUnsent = 128;

export interface PeerEvents {
  /** The session waits for room, at this place. */
  queued(place: QueuePlace): void;
  /** It has a node now. */
  placed(node: string, region: string, distanceKm: number, rank: number): void;
  /** The server's offer came: the instance is there. */
  offered(): void;
  /** Media can flow; signalling is over. */
  connected(): void;
  track(e: RTCTrackEvent): void;
  message(type: string, data: unknown): void;
  data(name: string, data: string | ArrayBuffer): void;
  dataState(name: string, open: boolean): void;
  /** Another address of the signalling websocket. */
  freshUrl(): Promise<string>;
  /** The way to the node broke and another is looked for, or it was found. */
  searching(on: boolean): void;
  /** The server closed the connection. */
  closed(): void;
  failed(e: StreamError): void;
}

/** Peer is the WebRTC connection and its channels; it answers the server's offer (wire API version 2). */
export class Peer {
  readonly pc: RTCPeerConnection;
  private control: RTCDataChannel;
  private channels = new Map<string, RTCDataChannel>();
  private signaling: Signaling;
  private early: RTCIceCandidateInit[] = [];
  private voice: RTCRtpSender | null = null;
  private unsent: string[] = []; // control messages, until the channel opens
  private described = false;
  private isConnected = false;
  private done = false;
  private recovery: Recovery;

  constructor(url: string, iceServers: RTCIceServer[], private options: PerigeeOptions, private on: PeerEvents) {
    try {
      this.pc = new RTCPeerConnection({ iceServers, bundlePolicy: "max-bundle", iceTransportPolicy: options.iceTransportPolicy ?? "all" });
    } catch (e) {
      throw new StreamError("protocol", `The gateway's stun_servers cannot be used: ${(e as Error).message}`);
    }
    this.pc.ontrack = (e) => this.on.track(e);
    this.pc.onicecandidate = (e) => {
      if (!e.candidate || e.candidate.candidate === "") return; // the wire has no end marker
      const { candidate, sdpMid, sdpMLineIndex } = e.candidate;
      const frame = { type: "candidate", candidate: encode(candidate), sdpMid, sdpMLineIndex };
      if (!this.recovery.send(frame)) this.signaling.send(frame);
    };
    this.pc.oniceconnectionstatechange = () => this.iceChanged();
    this.pc.onconnectionstatechange = () => {
      const mayMend = this.isConnected && this.pc.iceConnectionState !== "connected";
      if (this.pc.connectionState === "failed" && !mayMend) this.fail("The media connection failed. A firewall may block UDP.");
      if (this.pc.connectionState === "closed" && !this.done) this.on.closed();
    };
    this.recovery = new Recovery(this.pc, url, {
      url: () => this.on.freshUrl(),
      frame: (f) => this.frame(f),
      searching: (on) => this.on.searching(on),
      lost: (why) => this.fail(why),
    });
    this.control = this.openControl();
    for (const name of (options.dataChannels ?? []).slice(0, maxDataChannels)) this.openChannel(name);
    this.signaling = new Signaling(url, {
      open: () => this.signaling.send({ type: "discover" }),
      frame: (f) => void this.frame(f).catch((e: Error) => this.failWith(e)),
      lost: (e) => this.failWith(e),
    });
  }

  private openControl(): RTCDataChannel {
    const c = this.pc.createDataChannel("control");
    c.onmessage = (m) => {
      try {
        const { type, data: raw } = JSON.parse(m.data as string) as Frame;
        const data: unknown = typeof raw === "string" ? JSON.parse(raw) : raw;
        if (type === "perigee::resume") this.recovery.key = String((data as Frame).key);
        else if (type === "perigee::restart") this.recovery.restart();
        else this.on.message(type, data);
      } catch {
        console.warn("perigee: a control message is not JSON", m.data);
      }
    };
    // The server ends a viewer by closing its connection: this is how that looks here.
    c.onclose = () => { if (!this.done) this.on.closed(); };
    return c;
  }

  private openChannel(name: string): void {
    const c = this.pc.createDataChannel(name);
    c.binaryType = "arraybuffer";
    c.onopen = () => this.on.dataState(name, true);
    c.onclose = () => { if (!this.done) this.on.dataState(name, false); };
    c.onmessage = (m) => this.on.data(name, m.data as string | ArrayBuffer);
    this.channels.set(name, c);
  }

  /** openOwn opens a channel of Perigee's, when the server has said that there is one. */
  openOwn(name: string): RTCDataChannel { return this.pc.createDataChannel(name); }

  private async frame(f: Frame): Promise<void> {
    switch (f.type) {
      case "resp:discover":
        if (!(Number(f.max_api_version) >= apiVersion)) {
          throw new StreamError("unsupported", `The server speaks version ${String(f.max_api_version)} of the protocol, this page needs ${apiVersion}.`);
        }
        this.signaling.send(this.settings());
        break;
      case "perigee.queue":
        this.on.queued(queuePlace(f as object));
        break;
      case "perigee.placed": {
        // Which relays there are is known only now.
        if (Array.isArray(f.stun_servers)) this.pc.setConfiguration({ ...this.pc.getConfiguration(), iceServers: iceServers(f.stun_servers) });
        const p = (f.perigee ?? {}) as Record<string, unknown>;
        this.on.placed(String(p.node ?? ""), String(p.region ?? ""), typeof p.distance_km === "number" ? p.distance_km : -1, Number(p.rank) || 0);
        break;
      }
      case "offer":
        if (!this.isConnected) this.on.offered();
        await this.answer(decode(f.sdp));
        break;
      case "candidate": {
        const c = { candidate: decode(f.candidate), sdpMid: f.sdpMid as string | null, sdpMLineIndex: f.sdpMLineIndex as number | null };
        if (this.described) await this.addCandidate(c);
        else this.early.push(c);
        break;
      }
      case "error":
        throw new StreamError("signaling", String(f.message || "The server reported a fault without a message."));
      default: // the wire may grow
    }
  }

  private settings(): Frame {
    const codecs = this.options.codecs?.length ? this.options.codecs : decodable();
    return {
      type: "settings",
      api_version: apiVersion,
      data_channels: [...this.channels.keys()],
      enable_speaker: this.options.audio !== false,
      enable_microphone: this.options.microphone === true,
      enable_video: this.options.videoEnabled !== false,
      enable_camera: this.options.camera === true,
      ...(codecs.length ? { video: { preferred_decoder_codecs: codecs } } : {}),
    };
  }

  private async answer(sdp: string): Promise<void> {
    await this.pc.setRemoteDescription({ type: "offer", sdp });
    this.described = true;
    this.prepareMicrophone();
    const answer = await this.pc.createAnswer();
    await this.pc.setLocalDescription(answer);
    const frame = { type: "answer", sdp: encode(answer.sdp ?? "") };
    if (!this.recovery.send(frame)) this.signaling.send(frame);
    for (const c of this.early.splice(0)) await this.addCandidate(c);
  }

  /** prepareMicrophone answers that sound may go out, where the server would take it: nothing can be agreed later. */
  private prepareMicrophone(): void {
    if (this.options.microphone !== true) return;
    const t = this.pc.getTransceivers().find((t) => t.receiver.track.kind === "audio");
    if (t) t.direction = this.options.audio === false ? "sendonly" : "sendrecv"; // what the server does not take the browser leaves out
    this.voice = t?.sender ?? null;
  }

  /** speak sends a microphone's track, or none. */
  async speak(track: MediaStreamTrack | null): Promise<void> {
    if (!this.voice) throw new StreamError("conflict", "The stream has no way for a microphone: set microphone in its options.");
    await this.voice.replaceTrack(track);
  }

  private async addCandidate(c: RTCIceCandidateInit): Promise<void> {
    try {
      await this.pc.addIceCandidate(c);
    } catch (e) {
      if (!this.done) console.warn("perigee: a candidate cannot be used", c.candidate, e);
    }
  }

  private iceChanged(): void {
    const s = this.pc.iceConnectionState;
    if ((s === "connected" || s === "completed") && !this.isConnected) {
      this.isConnected = true;
      this.signaling.close(); // the wire's rule: nothing is signalled from here on
      this.on.connected();
    }
    if (this.isConnected) this.recovery.state(s);
    else if (s === "failed") this.fail("The media connection failed. A firewall may block UDP.");
  }

  private fail(message: string): void {
    this.failWith(new StreamError("connection", message));
  }

  private failWith(e: Error): void {
    if (this.done) return;
    this.on.failed(e instanceof StreamError ? e : new StreamError("protocol", `The server's message cannot be used: ${e.message}`));
  }

  /**
   * sendControl sends one control message. What comes before the channel is open
   * waits for it, the oldest first to go when it is too much: the picture may
   * show, and be answered by a key, before the channel is there. more is an
   * input's own id, by which the server names it again, and the size of the
   * picture in whose pixels its position is: that may be smaller than the screen.
   */
  sendControl(type: string, data: object, more?: { id: number; width: number; height: number }): void {
    const message = JSON.stringify(more ? { type, data, perigee: more } : { type, data });
    if (this.controlOpen) this.control.send(message);
    else if (this.control.readyState === "connecting") {
      if (this.unsent.length === 0) this.onControlOpen(() => this.unsent.splice(0).forEach((m) => this.control.send(m)));
      if (this.unsent.push(message) > maxUnsent) this.unsent.shift();
    }
  }

  get controlOpen(): boolean { return this.control.readyState === "open"; }

  onControlOpen(f: () => void): void {
    if (this.controlOpen) f();
    else this.control.addEventListener("open", f, { once: true });
  }

  sendData(name: string, data: string | ArrayBuffer | ArrayBufferView<ArrayBuffer>): void {
    const c = this.channels.get(name);
    if (!c) throw new StreamError("invalid", `There is no data channel "${name}": name it in dataChannels.`, { field: "dataChannels" });
    if (c.readyState !== "open") throw new StreamError("conflict", `The data channel "${name}" is ${c.readyState}.`);
    if (typeof data === "string") c.send(data);
    else if (ArrayBuffer.isView(data)) c.send(data);
    else c.send(data);
  }

  /**
   * leave says goodbye, then closes. Closing the connection at once would
   * overtake the goodbye: the channel's own close waits for what was sent.
   */
  async leave(): Promise<void> {
    if (this.done) return;
    this.done = true;
    if (this.controlOpen) {
      const closed = new Promise((r) => this.control.addEventListener("close", r, { once: true }));
      this.sendControl("stream::disconnect", {});
      this.control.close();
      await Promise.race([closed, new Promise((r) => setTimeout(r, goodbyeLimit))]);
    }
    this.close();
  }

  close(): void {
    this.done = true;
    this.recovery?.close();
    this.signaling?.close();
    this.pc.close();
  }
}

/** decodable lists the codecs that this browser can receive, the cheapest to encode first. */
export function decodable(): Codec[] {
  const have = RTCRtpReceiver.getCapabilities?.("video")?.codecs.map((c) => c.mimeType.toLowerCase()) ?? [];
  return (["H264", "VP8", "VP9", "AV1", "H265"] as Codec[]).filter((c) => have.includes("video/" + c.toLowerCase()));
}
