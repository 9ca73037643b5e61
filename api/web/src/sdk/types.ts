// The words of the SDK: states, errors, options, statistics.

/** Where a stream is in its life. It only ever moves to the right. */
export type State = "idle" | "placing" | "queued" | "starting" | "connecting" | "live" | "ended";

/** Video codecs by their names on the wire. */
export type Codec = "H264" | "VP8" | "VP9" | "AV1" | "H265";

/** Size (pixels), rate (frames per second) and density (dots per inch) of the picture. */
export interface Screen {
  width: number;
  height: number;
  fps?: number;
  density?: number;
}

/** One thing that a viewer in control may do. */
export type ViewerRight = "data" | "input" | "microphone";

/** Who watches, and what this page may do: the server's word. */
export interface Viewers {
  count: number;
  role: "control" | "viewer";
  may: ViewerRight[];
}

/** Whether the application may have a device of this browser, and why not: the server's word. */
export interface Device {
  taken: boolean;
  reason?: string;
}

export interface Devices {
  microphone: Device;
  camera: Device;
}

/** What those who come by a share may do; without rights, one in control may do all. */
export interface ShareOptions {
  role?: "control" | "viewer";
  rights?: ViewerRight[];
  description?: string;
  /** When it ends, Unix seconds; 12 hours from now without. */
  expiryAt?: number;
}

/** A share: `link` opens the player, `url` is for other clients. Both are secrets. */
export interface ShareInfo {
  id: string;
  link: string;
  url: string;
  role: "control" | "viewer";
  expiryAt: number;
}

/** Where a session stands that waits for room. */
export interface QueuePlace {
  /** 1 is the next one. */
  position: number;
  length: number;
  /** Estimated seconds; 0 when nothing is known. */
  etaS: number;
}

/** One node that could not take the session, and why. */
export interface Refusal {
  node?: string;
  region?: string;
  code: string;
  detail: string;
}

/**
 * What went wrong, for programs (`code`) and for people (`message`).
 * Codes of the gateway: invalid, unauthorized, forbidden, not_found, conflict,
 * no_capacity, too_large, rate_limited, unavailable, timeout, internal.
 * Codes of the SDK: network, protocol, signaling, connection, unsupported, aborted.
 */
export class StreamError extends Error {
  readonly code: string;
  /** HTTP status, 0 when there was no HTTP answer. */
  readonly status: number;
  /** The request's field that is wrong, when one is. */
  readonly field: string;
  readonly refusals: Refusal[];

  constructor(code: string, message: string, more: { status?: number; field?: string; refusals?: Refusal[] } = {}) {
    super(message);
    this.name = "StreamError";
    this.code = code;
    this.status = more.status ?? 0;
    this.field = more.field ?? "";
    this.refusals = more.refusals ?? [];
  }
}

/** What was copied. */
export type Clip = { type: "text/plain"; text: string } | { type: "image/png"; blob: Blob };

/** A file that the application has put into ~/Downloads. `modified`: milliseconds since 1970. */
export interface StreamFile {
  name: string;
  size: number;
  modified: number;
}

export interface TransferOptions {
  /** Bytes that are through, of how many. */
  onProgress?: (done: number, size: number) => void;
  signal?: AbortSignal;
}

/** What the gateway told about the session. */
export interface SessionInfo {
  id: string;
  region: string;
  joinable: boolean;
  node: string;
  /** Great-circle distance to the node in kilometres; -1 when unknown. */
  distanceKm: number;
  /** 1 for the nearest node, 0 when unknown. */
  rank: number;
  /** Its place in the queue when no node had room; null once it has a node. */
  queue: QueuePlace | null;
}

/** The round trip to one node as this browser measured it; `silent`: nothing came back, it is at least that. */
export interface NodeProbe {
  node: string;
  roundTripMs: number;
  silent: boolean;
}

/** What `probe` measured, and when (Date.now()). */
export interface Probes {
  at: number;
  nodes: NodeProbe[];
}

/** Why a stream ended. `reason` is "left", "taken_over", "closed", "lost", "error" or the gateway's reason of the session. */
export interface Ended {
  reason: string;
  message: string;
  error?: StreamError;
}

/** Parts of the way from an input to the picture that shows it, in their order, and their sum. */
export type Stage = "input" | "application" | "capture" | "encode" | "send" | "network" | "jitter" | "decode" | "present" | "total";

/** Medians of the newest measurements, milliseconds; a stage that was not measured is absent. */
export type Latency = Partial<Record<Stage, number>>;

/** Measured over the last interval; -1 where the browser does not say. */
export interface Stats {
  width: number;
  height: number;
  codec: string;
  fps: number;
  /** Video and sound received, kilobits per second. */
  bitrateKbps: number;
  roundTripMs: number;
  jitterBufferMs: number;
  decodeMs: number;
  framesDecoded: number;
  framesDropped: number;
  freezes: number;
  packetsLost: number;
  /** Whether the media goes through a TURN relay. */
  relayed: boolean;
  /** Where the time goes; without an input there is no application, network and total. */
  latency: Latency;
}

export interface PerigeeOptions {
  /** Base URL of the gateway, for example https://play.example.com. Default: the page's own origin. */
  url?: string;
  /** Account token, or a page token in `pageToken`; one of the two is needed. */
  token?: string;
  pageToken?: string;
  /** The token of a share of `sessionId`, in place of an account's: watch beside the session's own client. */
  shareToken?: string;
  /** Application to start; not needed with `sessionId`. */
  app?: string;
  /** A version of the application; the newest by default. */
  appVersion?: number;
  /** Join this session instead of creating one; its client now is cut off, who came by a share is not. */
  sessionId?: string;
  /** What `probe` measured; not used when it is older than ten minutes. */
  probes?: Probes;
  screen?: Screen;
  region?: string;
  joinable?: boolean;
  /** Minutes that a joinable session waits for a viewer. */
  idleTimeMin?: number;
  /** Seconds to wait in the queue when no node has room; without it the stream ends with no_capacity then. */
  waitSeconds?: number;
  extraData?: unknown;
  /** Element that receives the video and the input. One of `container` and `video` is needed. */
  container?: HTMLElement;
  video?: HTMLVideoElement;
  /** Preferred codecs, best first. Default: all that this browser decodes, cheapest to encode first. */
  codecs?: Codec[];
  /** Names of data channels to the application, at most five. */
  dataChannels?: string[];
  /** false: no sound, or no picture, is asked for. */
  audio?: boolean;
  videoEnabled?: boolean;
  /**
   * true: the application may be let hear this browser's microphone. Nothing is
   * opened before setMicrophone(true); the server's answer is in `devices`.
   */
  microphone?: boolean;
  /** true: a camera is offered, too. */
  camera?: boolean;
  /** false: send no keyboard, pointer or touch input. */
  input?: boolean;
  /** false: nothing of the kind is exchanged, whatever the application permits. */
  clipboard?: boolean;
  files?: boolean;
  gamepads?: boolean;
  /** "relay" sends the media through TURN only. */
  iceTransportPolicy?: RTCIceTransportPolicy;
  /** Milliseconds between two calls of onStats; default 1000. */
  statsInterval?: number;

  onState?: (state: State, stream: unknown) => void;
  /** The place in the queue, in the state "queued". */
  onQueue?: (place: QueuePlace) => void;
  onStats?: (stats: Stats) => void;
  /** Called once, before the state becomes ended, when it ends by a fault. */
  onError?: (error: StreamError) => void;
  onData?: (name: string, data: string | ArrayBuffer) => void;
  /** A data channel opened or closed. */
  onDataState?: (name: string, open: boolean) => void;
  /** The way to the node broke and another is looked for (true), or the stream goes on (false). */
  onReconnecting?: (on: boolean) => void;
  /** Who watches, on every change. */
  onViewers?: (viewers: Viewers) => void;
  /** The server's answer to `microphone` and `camera`. */
  onDevices?: (devices: Devices) => void;
  /** What may be exchanged is known: stream.clipboard, stream.files and stream.gamepads are there where it may. */
  onExchange?: () => void;
  /** The application copied; `written`: it is in the browser's clipboard. Else it comes there in the user's next gesture. */
  onCopied?: (clip: Clip, written: boolean) => void;
  /** What there is to fetch, on every change. */
  onFiles?: (files: StreamFile[]) => void;
  /** How many gamepads are plugged in. */
  onGamepads?: (count: number) => void;
  /** A clip was not taken. */
  onExchangeError?: (error: StreamError) => void;
  /**
   * The session ends in so many seconds because nothing is done and nothing
   * changes; 0: somebody did something, and it goes on.
   */
  onIdle?: (leftSeconds: number) => void;
  /** A message of the instance on the control channel. */
  onMessage?: (type: string, data: unknown) => void;
  /** The browser wants a gesture before it plays sound: call resumeSound() in one. */
  onSoundBlocked?: () => void;
  onPointerLock?: (locked: boolean) => void;
  /** Text is taken instead of keys, or not any more. */
  onTyping?: (on: boolean) => void;
  /** Ctrl+Alt+Shift was pressed: the keyboard belongs to the page again. */
  onRelease?: () => void;
}
