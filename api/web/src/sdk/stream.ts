import { Admission, CreateBody, Gateway } from "./gateway";
import { Clipboard } from "./clipboard";
import { Exchange } from "./exchange";
import { Files } from "./files";
import { Keyboard } from "./keyboard";
import { LatencyMeter } from "./latency";
import { Media } from "./media";
import { Peer } from "./peer";
import { Pointer } from "./pointer";
import { fresh } from "./probe";
import { Microphone } from "./microphone";
import { Meter } from "./stats";
import { TextEntry } from "./text";
import { Devices, Ended, PerigeeOptions, QueuePlace, SessionInfo, ShareInfo, ShareOptions, State, Stats, StreamError, Viewers } from "./types";

const signalingTimeout = 5 * 60_000; // an instance may boot for this long
const iceTimeout = 30_000;
const pictureTimeout = 60_000;
const order: State[] = ["idle", "placing", "queued", "starting", "connecting", "live", "ended"];

/** PerigeeStream is one viewer of one session, from the request to the end. It is used once. */
export class PerigeeStream {
  state: State = "idle";
  /** Known from the gateway's answer on. */
  session: SessionInfo | null = null;
  /** Known once the state is ended. */
  ended: Ended | null = null;
  /** Who watches and what this page may do; null before the server says so. */
  viewers: Viewers | null = null;
  /** Which of its own devices the application may have; null before the server says so, or when none was offered. */
  devices: Devices | null = null;
  readonly video: HTMLVideoElement;
  readonly audio: HTMLAudioElement;
  /** The element that takes the input; give it the focus. */
  readonly surface: HTMLElement;
  /** When each state began, milliseconds of performance.now(). */
  readonly times: Partial<Record<State, number>> = {};

  private gateway: Gateway;
  private media: Media;
  private peer: Peer | null = null;
  private meter: Meter | null = null;
  private latency: LatencyMeter | null = null;
  private keyboard: Keyboard | null = null;
  private pointer: Pointer | null = null;
  private text: TextEntry | null = null;
  private microphone = new Microphone((track) => this.peer?.speak(track) ?? Promise.resolve());
  private exchange: Exchange | null = null;
  private abort = new AbortController();
  private timer = 0;
  private statsTimer = 0;
  private asking = false; // whether the end is being looked into
  private settle: { resolve(): void; reject(e: StreamError): void } | null = null;

  constructor(private options: PerigeeOptions) {
    const token = options.token ?? options.pageToken ?? "";
    const bad = (field: string, message: string) => new StreamError("invalid", `${field}: ${message}`, { field });
    if (!token && !options.shareToken) throw bad("token", "is missing: give an account token, a pageToken or a shareToken");
    if (options.shareToken && !options.sessionId) throw bad("sessionId", "is missing: name the session that is shared");
    if (!options.app && !options.sessionId) throw bad("app", "is missing: name the application, or a sessionId to join");
    if (!options.container && !options.video) throw bad("container", "is missing: give the element that shows the stream");
    if ((options.dataChannels?.length ?? 0) > 5) throw bad("dataChannels", "at most 5 channels");
    if (typeof RTCPeerConnection === "undefined") throw new StreamError("unsupported", "This browser has no WebRTC, which the stream needs.");
    this.gateway = new Gateway(options.url ?? location.origin, token);
    this.media = new Media(options.container, options.video, () => this.options.onSoundBlocked?.());
    this.video = this.media.video;
    this.audio = this.media.audio;
    this.surface = options.container ?? this.video;
  }

  /** connect resolves when the first picture shows, and rejects when the stream ends before. */
  connect(): Promise<void> {
    if (this.state !== "idle") return Promise.reject(new StreamError("conflict", "A stream connects once: make a new one."));
    const live = new Promise<void>((resolve, reject) => { this.settle = { resolve, reject }; });
    void this.begin();
    return live;
  }

  private async begin(): Promise<void> {
    this.to("placing");
    window.addEventListener("pagehide", () => void this.disconnect(), { signal: this.abort.signal });
    try {
      const a = this.options.shareToken
        ? await this.gateway.connect(this.options.sessionId!, this.options.shareToken, this.abort.signal)
        : this.options.sessionId
        ? await this.gateway.join(this.options.sessionId, this.options.screen, this.abort.signal)
        : await this.gateway.create(this.body(), this.abort.signal);
      if (this.state !== "placing") return;
      this.session = a.info;
      this.start(a);
    } catch (e) {
      this.fail(e instanceof StreamError ? e : new StreamError("internal", (e as Error).message));
    }
  }

  /** readmit asks for another ticket of the session that runs. */
  private async readmit(): Promise<Admission> {
    const id = this.session!.id;
    return this.options.shareToken
      ? this.gateway.connect(id, this.options.shareToken, this.abort.signal)
      : this.gateway.join(id, undefined, this.abort.signal);
  }

  private body(): CreateBody {
    const o = this.options;
    const wait = Math.round(o.waitSeconds ?? 0);
    const probes = fresh(o.probes).map((p) => ({ node: p.node, round_trip_ms: p.roundTripMs, ...(p.silent ? { silent: true } : {}) }));
    return {
      app: o.app!,
      ...(o.appVersion === undefined ? {} : { app_version: o.appVersion }),
      region: o.region ?? "",
      joinable: o.joinable ?? false,
      ...(o.idleTimeMin === undefined ? {} : { idle_time_min: o.idleTimeMin }),
      ...(o.screen ? { screen: o.screen } : {}),
      extra_data: o.extraData ?? null,
      ...(o.codecs?.length || probes.length || wait > 0 ? {
        perigee: { ...(wait > 0 ? { wait_s: wait } : {}), ...(o.codecs?.length ? { codecs: o.codecs } : {}), ...(probes.length ? { probes } : {}) },
      } : {}),
    };
  }

  private start(a: Admission): void {
    if (a.info.queue) this.wait(a.info.queue);
    else this.starting();
    if (this.ended) return; // left in the state's own callback
    this.peer = new Peer(a.socket, a.iceServers, this.options, {
      queued: (place) => this.wait(place),
      placed: (node, region, distanceKm, rank) => {
        if (this.session) this.session = { ...this.session, node, region: region || this.session.region, distanceKm, rank, queue: null };
        this.starting();
      },
      offered: () => {
        this.to("connecting");
        this.limit(iceTimeout, "The connection to the node could not be made within 30 seconds. A firewall may block UDP.");
      },
      connected: () => {
        this.limit(pictureTimeout, "The node is connected, but no picture came for a minute.");
        this.takeInput();
        this.peer?.onControlOpen(() => this.peer?.sendControl("perigee::meter", {}));
        if (this.options.videoEnabled === false) this.peer?.onControlOpen(() => this.goLive());
      },
      track: (e) => {
        this.media.add(e);
        if (e.track.kind === "video") this.awaitPicture();
      },
      message: (type, data) => this.message(type, data),
      data: (name, data) => this.options.onData?.(name, data),
      dataState: (name, open) => this.options.onDataState?.(name, open),
      freshUrl: async () => (await this.readmit()).socket,
      searching: (on) => { if (this.state === "live") this.options.onReconnecting?.(on); },
      closed: () => void this.closedByServer(),
      failed: (e) => (this.state === "live" ? void this.closedByServer(e) : this.fail(e)),
    });
    const latency = new LatencyMeter(this.video, (data) => this.peer?.sendControl("perigee::shown", data));
    this.latency = latency;
    this.meter = new Meter(this.peer.pc, () => latency.read());
  }

  private message(type: string, data: unknown): void {
    switch (type) {
      case "perigee::frame":
        this.latency?.frame(data);
        break;
      case "perigee::exchange":
        this.exchanged(data);
        break;
      case "perigee::viewers":
        this.viewers = data as Viewers;
        this.options.onViewers?.(this.viewers);
        break;
      case "perigee::devices":
        this.devices = data as Devices;
        this.options.onDevices?.(this.devices);
        break;
      case "perigee::idle":
        this.options.onIdle?.((data as { left_s: number }).left_s);
        break;
      case "enable-microphone": // Canonical's SDK opens it at this; here the user does
        break;
      default:
        this.options.onMessage?.(type, data);
    }
  }

  private exchanged(data: unknown): void {
    if (!this.peer || this.state === "ended") return;
    const peer = this.peer;
    this.exchange ??= new Exchange((name) => peer.openOwn(name),
      (type, d) => peer.sendControl(type, d, { id: this.latency?.input(performance.now()) ?? 0, width: 0, height: 0 }), this.surface, this.keyboard, this.options);
    this.exchange.told(data);
  }

  /** The clipboard's both ways, where the application permits one; null before the server says so. */
  get clipboard(): Clipboard | null { return this.exchange?.clipboard ?? null; }
  /** Files to and from the application, likewise. */
  get files(): Files | null { return this.exchange?.files ?? null; }
  /** How many gamepads are plugged in; -1 where none can be. */
  get gamepads(): number { return this.exchange?.gamepads?.count ?? -1; }
  /** Why none can be, where the node says so. */
  get gamepadsWhy(): string { return this.exchange?.gamepadsWhy ?? ""; }

  /** wait shows the place in the queue; the gateway ends a wait in vain. */
  private wait(place: QueuePlace): void {
    if (this.session) this.session.queue = place;
    window.clearTimeout(this.timer);
    this.to("queued");
    if (this.state === "queued") this.options.onQueue?.(place);
  }

  private starting(): void {
    this.to("starting");
    if (!this.ended) this.limit(signalingTimeout, "The application did not start within 5 minutes.");
  }

  private awaitPicture(): void {
    if ("requestVideoFrameCallback" in this.video) this.video.requestVideoFrameCallback(() => this.goLive());
    else (this.video as HTMLVideoElement).addEventListener("playing", () => this.goLive(), { once: true, signal: this.abort.signal });
  }

  private goLive(): void {
    if (this.state === "ended" || this.state === "live") return;
    window.clearTimeout(this.timer);
    this.to("live");
    this.settle?.resolve();
    this.settle = null;
    if (this.options.onStats) {
      const every = Math.max(this.options.statsInterval ?? 1000, 100);
      this.statsTimer = window.setInterval(() => void this.tick(), every);
    }
  }

  private async tick(): Promise<void> {
    const s = await this.stats();
    if (this.state === "live") this.options.onStats?.(s);
  }

  private takeInput(): void {
    if (this.options.input === false || this.keyboard) return;
    if (this.surface.tabIndex < 0) this.surface.tabIndex = 0;
    this.surface.style.touchAction = "none";
    // What is sent while an event is handled is sent because of it.
    const send = (type: string, data: object) => this.peer?.sendControl(type, data, {
      id: this.latency?.input(window.event?.timeStamp ?? 0) ?? 0, width: this.video.videoWidth, height: this.video.videoHeight,
    });
    this.keyboard = new Keyboard(this.surface, send, () => {
      this.exitPointerLock();
      this.options.onRelease?.();
    });
    this.text = new TextEntry(this.surface, send, (on) => this.options.onTyping?.(on));
    this.pointer = new Pointer(this.surface, this.video, send, (locked) => this.options.onPointerLock?.(locked));
  }

  private limit(ms: number, message: string): void {
    window.clearTimeout(this.timer);
    this.timer = window.setTimeout(() => this.fail(new StreamError("timeout", message)), ms);
  }

  /** The connection is gone: ask the gateway what that means. */
  private async closedByServer(fault?: StreamError): Promise<void> {
    if (this.asking || this.state === "ended") return;
    this.asking = true;
    this.releaseInput();
    this.peer?.close();
    const ended = await this.whyEnded(fault);
    this.finish(ended);
  }

  private async whyEnded(fault?: StreamError): Promise<Ended> {
    const plain: Ended = fault
      ? { reason: "lost", message: fault.message, error: fault }
      : { reason: "closed", message: "The server closed the stream." };
    if (!this.session) return plain;
    if (this.options.shareToken) {
      return fault ? plain : { reason: "closed", message: "It is not shared with you any more, or it has ended." };
    }
    // A session that just ended may show as active for a moment.
    for (let i = 0; i < 4; i++) {
      try {
        const s = await this.gateway.session(this.session.id);
        if (s.status !== "active" && s.status !== "created") {
          return { reason: s.reason || s.status, message: s.message || `The session is ${s.status}.`, error: fault };
        }
      } catch (e) {
        if ((e as StreamError).code === "not_found") return { reason: "deleted", message: "The session does not exist any more.", error: fault };
        return plain; // the token may not look at sessions
      }
      await new Promise((r) => setTimeout(r, 400));
    }
    return fault ? plain : { reason: "taken_over", message: "Somebody else joined this session, and one at a time runs it." };
  }

  private fail(error: StreamError): void {
    if (this.state === "ended") return;
    this.finish({ reason: error.code === "timeout" ? "timeout" : "error", message: error.message, error });
  }

  private finish(ended: Ended): void {
    if (this.state === "ended") return;
    this.ended = ended;
    if (ended.error) this.options.onError?.(ended.error);
    this.releaseInput();
    window.clearTimeout(this.timer);
    window.clearInterval(this.statsTimer);
    this.microphone.close();
    this.peer?.close();
    this.latency?.dispose();
    this.media.dispose();
    this.abort.abort();
    this.to("ended");
    this.settle?.reject(ended.error ?? new StreamError("aborted", ended.message));
    this.settle = null;
  }

  private releaseInput(): void {
    this.exchange?.dispose();
    this.keyboard?.dispose();
    this.pointer?.dispose();
    this.text?.dispose();
    this.keyboard = this.pointer = this.text = null;
  }

  private to(state: State): void {
    if (order.indexOf(state) <= order.indexOf(this.state)) return;
    this.state = state;
    this.times[state] = performance.now();
    this.options.onState?.(state, this);
  }

  /** disconnect leaves the stream; the session's own rules say whether it goes on. */
  async disconnect(): Promise<void> {
    if (this.state === "ended") return;
    this.releaseInput();
    const left = this.peer?.leave();
    // The page may be going: end at once, and let the goodbye go out beside it.
    const peer = this.peer;
    this.peer = null;
    this.finish({ reason: "left", message: "You left the stream." });
    await left;
    peer?.close();
  }

  /** sendData sends on a user data channel; throws when it is unknown or not open. */
  sendData(name: string, data: string | ArrayBuffer | ArrayBufferView<ArrayBuffer>): void {
    if (!this.peer) throw new StreamError("conflict", "The stream is not connected.");
    this.peer.sendData(name, data);
  }

  /** Whether this page's token may share the session. */
  get mayShare(): boolean { return !this.options.shareToken && this.session !== null; }

  /** share makes a link by which others take part beside this page. */
  async share(options: ShareOptions = {}): Promise<ShareInfo> {
    if (!this.session) throw new StreamError("conflict", "There is no session yet.");
    return this.gateway.share(this.session.id, options);
  }

  /** unshare takes a share back: who came by it is cut off. */
  unshare(id: string): Promise<void> { return this.gateway.unshare(id); }

  /** stats gives what was measured since the call before. */
  async stats(): Promise<Stats> {
    if (!this.meter) throw new StreamError("conflict", "The stream is not connected.");
    return this.meter.read();
  }

  get peerConnection(): RTCPeerConnection | null { return this.peer?.pc ?? null; }

  /**
   * Whether text is taken instead of keys: input methods, dead keys and on-screen
   * keyboards work then. Set it in a gesture of the user, or no keyboard shows.
   */
  get typing(): boolean { return this.text?.on ?? false; }
  set typing(on: boolean) { this.text?.set(on); }

  get muted(): boolean { return this.audio.muted; }
  set muted(m: boolean) { this.audio.muted = m; }

  /** Whether the microphone is open and sent. */
  get speaking(): boolean { return this.microphone.on; }

  /**
   * setMicrophone opens the microphone, for which the browser asks its user, or
   * closes it. It fails with the reason where the application may not hear it.
   */
  async setMicrophone(on: boolean): Promise<void> {
    if (!on) {
      this.microphone.close();
      return;
    }
    if (!this.peer || this.state !== "live") throw new StreamError("conflict", "The stream is not live.");
    if (!this.options.microphone) throw new StreamError("invalid", "microphone: set it in the options", { field: "microphone" });
    if (!this.devices) throw new StreamError("unavailable", "The server has not said yet whether the application hears a microphone.");
    if (!this.devices.microphone.taken) throw new StreamError("forbidden", `The microphone is not taken: ${this.devices.microphone.reason ?? "the server gives no reason"}.`);
    await this.microphone.open();
  }

  resumeSound(): Promise<boolean> { return this.media.resumeSound(); }

  get pointerLocked(): boolean { return this.pointer?.locked ?? false; }

  /** requestPointerLock must be called in a gesture of the user. */
  async requestPointerLock(): Promise<void> {
    this.surface.focus({ preventScroll: true });
    try {
      await this.surface.requestPointerLock();
    } catch (e) {
      throw new StreamError("unsupported", `The browser refused to lock the pointer: ${(e as Error).message}`);
    }
  }

  exitPointerLock(): void {
    if (this.pointerLocked) document.exitPointerLock();
  }
}
