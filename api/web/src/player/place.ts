// What the address bar says, and the token, which must not stay there.
import { Codec, Screen } from "../sdk/index";

const tokenKey = "perigee.token";
const shareKey = "perigee.share.";

export interface Wish {
  token: string;
  app: string;
  session: string;
  /** The token of the share by which the session is watched; "" for none. */
  share: string;
  joinable: boolean;
  relay: boolean;
}

/** read takes the wishes out of the URL; the token moves from there to this tab's storage. */
export function read(): Wish {
  const url = new URL(location.href);
  const hash = new URLSearchParams(url.hash.replace(/^#/, ""));
  const given = url.searchParams.get("token") ?? hash.get("token");
  if (given) {
    remember(given);
    url.searchParams.delete("token");
    hash.delete("token");
    url.hash = hash.toString();
    history.replaceState(history.state, "", url);
  }
  const q = url.searchParams;
  const session = q.get("session") ?? "";
  const share = hash.get("share");
  if (share && session) {
    sessionStorage.setItem(shareKey + session, share);
    hash.delete("share");
    url.hash = hash.toString();
    history.replaceState(history.state, "", url);
  }
  return {
    token: sessionStorage.getItem(tokenKey) ?? "",
    app: q.get("app") ?? "",
    session,
    share: session ? sessionStorage.getItem(shareKey + session) ?? "" : "",
    joinable: q.get("joinable") === "1",
    relay: q.get("relay") === "1",
  };
}

export function remember(token: string): void {
  sessionStorage.setItem(tokenKey, token.trim());
}

export function forget(): void {
  sessionStorage.removeItem(tokenKey);
}

/** address gives the player's URL of an application or a session. */
export function address(what: { app?: string; session?: string }): string {
  const q = new URLSearchParams();
  if (what.app) q.set("app", what.app);
  if (what.session) q.set("session", what.session);
  return "/?" + q.toString();
}

interface Picture { screen: Screen; codecs: Codec[] | undefined }

function option(select: HTMLSelectElement, value: string | null, label = value): void {
  if (!value) return;
  if (![...select.options].some((o) => o.value === value)) select.add(new Option(label ?? value, value));
  select.value = value;
}

/** Settings reads the picture settings, which the URL may preset: ?size=1920x1080&fps=30&codec=VP8. */
export class Settings {
  constructor(private size: HTMLSelectElement, private fps: HTMLSelectElement, private codec: HTMLSelectElement) {
    const q = new URL(location.href).searchParams;
    const wanted = q.get("size");
    if (wanted && /^\d{1,4}x\d{1,4}$/.test(wanted)) option(size, wanted, wanted.replace("x", " × "));
    const rate = q.get("fps");
    if (rate && /^\d{1,3}$/.test(rate)) option(fps, rate);
    const name = q.get("codec")?.toUpperCase();
    if (name && [...codec.options].some((o) => o.value === name)) codec.value = name;
  }

  picture(): Picture {
    let [width, height] = this.size.value.split("x").map(Number);
    if (this.size.value === "window") {
      // Beyond the server's limits a picture would be refused, not cut.
      const scale = Math.min(devicePixelRatio || 1, 3840 / innerWidth, 2160 / innerHeight);
      width = 2 * Math.floor((innerWidth * scale) / 2);
      height = 2 * Math.floor((innerHeight * scale) / 2);
    }
    const codec = this.codec.value as Codec | "";
    return { screen: { width, height, fps: Number(this.fps.value), density: 240 }, codecs: codec ? [codec] : undefined };
  }
}
