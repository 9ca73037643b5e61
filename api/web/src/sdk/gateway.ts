import { QueuePlace, Refusal, Screen, SessionInfo, ShareInfo, ShareOptions, StreamError } from "./types";

const requestTimeout = 30_000;

/** What a create or join answers. */
export interface Admission {
  info: SessionInfo;
  socket: string;
  iceServers: RTCIceServer[];
}

export interface AppInfo {
  name: string;
  title: string;
}

/** A node to measure: relay addresses ("ip:port"), ICE ufrag and password. */
export interface ProbeTarget {
  node: string;
  addresses: string[];
  ticket: string;
  password: string;
}

export interface SessionStatus {
  status: string;
  message: string;
  reason: string;
}

interface Envelope {
  status?: string;
  status_code?: number;
  error?: string;
  // eslint-disable-next-line @typescript-eslint/no-explicit-any
  metadata?: any;
  // eslint-disable-next-line @typescript-eslint/no-explicit-any
  perigee?: any;
}

/** Gateway speaks the HTTP side of the wire contract. */
export class Gateway {
  private base: string;

  constructor(url: string, private token: string) {
    this.base = url.replace(/\/+$/, "");
  }

  private async call(method: string, path: string, body: unknown, want: number, signal?: AbortSignal): Promise<Envelope> {
    const limit = AbortSignal.timeout(requestTimeout);
    let answer: Response;
    let text: string;
    try {
      answer = await fetch(this.base + path, {
        method,
        headers: {
          Accept: "application/json",
          ...(this.token ? { Authorization: "Macaroon root=" + this.token } : {}),
          ...(body === undefined ? {} : { "Content-Type": "application/json" }),
        },
        body: body === undefined ? undefined : JSON.stringify(body),
        signal: signal ? AbortSignal.any([signal, limit]) : limit,
      });
      text = await answer.text();
    } catch (e) {
      if (signal?.aborted) throw new StreamError("aborted", "The request was cancelled.");
      if (limit.aborted) throw new StreamError("timeout", `The gateway did not answer within ${requestTimeout / 1000} seconds.`);
      throw new StreamError("network", `The gateway at ${this.base || location.origin} cannot be reached.`);
    }
    return open(text, answer.status, want);
  }

  async create(body: CreateBody, signal: AbortSignal): Promise<Admission> {
    const e = await this.call("POST", "/1.0/sessions/", body, 201, signal);
    return admission(e.metadata, "");
  }

  async join(id: string, screen: Screen | undefined, signal: AbortSignal): Promise<Admission> {
    const e = await this.call("POST", `/1.0/sessions/${encodeURIComponent(id)}/join`, screen ? { screen } : {}, 200, signal);
    return admission(e.metadata, id);
  }

  /** connect takes part by a share. */
  async connect(id: string, share: string, signal: AbortSignal): Promise<Admission> {
    const e = await this.call("GET", `/1.0/sessions/${encodeURIComponent(id)}/connect?type=stream&token=${encodeURIComponent(share)}`, undefined, 200, signal);
    return admission(e.metadata, id);
  }

  async share(id: string, o: ShareOptions): Promise<ShareInfo> {
    const body = {
      type: "stream",
      ...(o.description ? { description: o.description } : {}),
      ...(o.expiryAt ? { expiry_at: o.expiryAt } : {}),
      perigee: { role: o.role ?? "viewer", ...(o.rights ? { rights: o.rights } : {}) },
    };
    const m = (await this.call("POST", `/1.0/sessions/${encodeURIComponent(id)}/share`, body, 200)).metadata ?? {};
    return { id: m.id ?? "", link: m.perigee?.link ?? "", url: m.url ?? "", role: m.perigee?.role === "control" ? "control" : "viewer", expiryAt: Number(m.expiry_at) || 0 };
  }

  async unshare(share: string): Promise<void> {
    await this.call("DELETE", `/1.0/shares/${encodeURIComponent(share)}?sync=true`, undefined, 200);
  }

  async applications(): Promise<AppInfo[]> {
    const e = await this.call("GET", "/1.0/applications", undefined, 200);
    const list: { name?: string; perigee?: { title?: string } }[] = Array.isArray(e.metadata) ? e.metadata : [];
    return list.filter((a) => a.name).map((a) => ({ name: a.name!, title: a.perigee?.title || a.name! }));
  }

  async probes(): Promise<ProbeTarget[]> {
    const e = await this.call("GET", "/1.0/probes", undefined, 200);
    return Array.isArray(e.metadata) ? e.metadata : [];
  }

  /** session tells how a session is; the answer decides what an end is called. */
  async session(id: string): Promise<SessionStatus> {
    const e = await this.call("GET", `/1.0/sessions/${encodeURIComponent(id)}`, undefined, 200);
    const m = e.metadata ?? {};
    return { status: m.status ?? "", message: m.status_message ?? "", reason: m.perigee?.reason ?? "" };
  }
}

export interface CreateBody {
  app: string;
  app_version?: number;
  region: string;
  joinable: boolean;
  idle_time_min?: number;
  screen?: Screen;
  extra_data: unknown;
  perigee?: { wait_s?: number; codecs?: string[]; probes?: { node: string; round_trip_ms: number; silent?: boolean }[] };
}

function open(text: string, status: number, want: number): Envelope {
  let e: Envelope;
  try {
    e = JSON.parse(text) as Envelope;
  } catch {
    throw new StreamError("protocol", `The gateway answered ${status} with something that is not JSON.`, { status });
  }
  if (status === want && e.status === "success") return e;
  const p = e.perigee ?? {};
  const refusals: Refusal[] = Array.isArray(p.refusals) ? p.refusals : [];
  throw new StreamError(p.code || codeOf(status), e.error || `The gateway answered ${status}.`, { status, field: p.field ?? "", refusals });
}

function codeOf(status: number): string {
  const codes: Record<number, string> = {
    400: "invalid", 401: "unauthorized", 403: "forbidden", 404: "not_found", 409: "conflict",
    413: "too_large", 429: "rate_limited", 503: "unavailable", 504: "timeout",
  };
  return codes[status] ?? (status < 400 ? "protocol" : "internal");
}

// eslint-disable-next-line @typescript-eslint/no-explicit-any
function admission(m: any, id: string): Admission {
  if (!m || typeof m.url !== "string" || !Array.isArray(m.stun_servers)) {
    throw new StreamError("protocol", "The gateway's answer lacks the url or the stun_servers.");
  }
  const p = m.perigee ?? {};
  const place = p.placement ?? p;
  return {
    info: {
      id: m.id || id,
      region: m.region ?? p.region ?? "",
      joinable: m.joinable === true,
      node: p.node_name || p.node || "",
      distanceKm: typeof place.distance_km === "number" ? place.distance_km : -1,
      rank: typeof place.rank === "number" ? place.rank : 0,
      queue: p.queue ? queuePlace(p.queue) : null,
    },
    socket: m.url.replace(/^http/, "ws"),
    iceServers: iceServers(m.stun_servers),
  };
}

/** queuePlace reads a place in the queue as answers and frames have it. */
export function queuePlace(q: { position?: unknown; length?: unknown; eta_s?: unknown }): QueuePlace {
  return { position: Number(q.position) || 1, length: Number(q.length) || 1, etaS: Number(q.eta_s) || 0 };
}

export function iceServers(list: { urls: string[]; username?: string; password?: string }[]): RTCIceServer[] {
  return list.map((s) => ({ urls: s.urls, ...(s.username ? { username: s.username, credential: s.password } : {}) }));
}
