// The stream that fills the window, and its toolbar.
import { Devices, PerigeeStream, Stats, Viewers } from "../sdk/index";
import { byId, say } from "./dom";
import { draw, rows } from "./numbers";
import { Sharing } from "./sharing";
import { Swap } from "./swap";

const awayAfter = 3000; // ms without a movement until the toolbar makes room
const hintFor = 6000;
const nearTop = 64; // CSS pixels
// Keys that the browser keeps for itself outside fullscreen. Escape stays the user's way out.
const fullscreenKeys = ["Tab", "AltLeft", "MetaLeft", "MetaRight", "F11", "KeyW", "KeyN", "KeyT", "KeyQ"];

/** Stage owns the live view; one stream at a time is put on it. */
export class Stage {
  private stream: PerigeeStream | null = null;
  private stage = byId("stage");
  private bar = byId("bar");
  private numbers = byId("numbers");
  private timer = 0;
  private hintTimer = 0;
  private sharing = new Sharing(() => this.swap.close());
  readonly swap: Swap = new Swap(() => this.sharing.close());
  readonly surface = byId("surface");

  constructor(private onLeave: () => void) {
    this.on("full", () => this.toggleFull());
    this.on("lock", () => void this.toggleLock());
    this.on("type", () => this.toggleType());
    this.on("mute", () => this.toggleMute());
    this.on("microphone", () => void this.toggleMicrophone());
    this.on("stats", () => this.toggleStats());
    this.on("share", () => this.sharing.toggle());
    this.on("swap", () => this.swap.toggle());
    this.on("leave", () => this.onLeave());
    this.on("grip", () => { this.showBar(); byId("full").focus(); });
    this.on("sound", () => void this.sound());
    // Only near the top: everywhere else the pointer is the application's.
    this.stage.addEventListener("pointermove", (e) => { if (e.pointerType !== "touch" && e.clientY < nearTop) this.showBar(); });
    this.bar.addEventListener("focusin", () => this.showBar());
    this.bar.addEventListener("keydown", (e) => this.barKey(e));
    document.addEventListener("fullscreenchange", () => this.fullChanged());
  }

  private on(id: string, f: () => void): void {
    byId(id).addEventListener("click", f);
  }

  /** enter shows the stream, gives it the keyboard and tells how to get it back. */
  enter(stream: PerigeeStream, name: string): void {
    this.stream = stream;
    byId("live-app").textContent = name;
    this.press("mute", stream.muted);
    this.sharing.enter(stream);
    this.swap.enter(stream);
    if (stream.viewers) this.viewers(stream.viewers);
    if (stream.devices) this.devices(stream.devices);
    this.surface.focus({ preventScroll: true });
    this.showBar();
    const touch = matchMedia("(pointer: coarse)").matches;
    byId("hint").hidden = touch;
    window.clearTimeout(this.hintTimer);
    this.hintTimer = window.setTimeout(() => { byId("hint").hidden = true; }, hintFor);
  }

  /** exit takes the stream off the stage. */
  exit(): void {
    this.stream = null;
    this.sharing.exit();
    this.swap.exit();
    window.clearTimeout(this.timer);
    window.clearTimeout(this.hintTimer);
    for (const id of ["hint", "sound", "numbers", "mending"]) byId(id).hidden = true;
    for (const id of ["lock", "type", "stats", "microphone"]) this.press(id, false);
    byId("microphone").hidden = true;
    if (document.fullscreenElement) void document.exitFullscreen().catch(() => undefined); // already out
  }

  released(): void {
    this.showBar();
    byId("full").focus();
    say("The keyboard is the page's again. Tab moves in the toolbar, Escape returns to the application.");
  }

  locked(is: boolean): void {
    this.press("lock", is);
    say(is ? "The pointer is locked. Escape lets go." : "The pointer is free.");
  }

  /** viewers shows how many watch, where it is more than one. */
  viewers(v: Viewers): void {
    const b = byId("watching");
    const text = v.count > 1 ? `· ${v.count} watch` : "";
    if (text && b.textContent !== text) say(`${v.count} people watch.`);
    b.textContent = text;
    b.hidden = !text;
    if (v.role === "viewer") byId("hint").hidden = true; // its keyboard drives nothing
  }

  /** reconnecting says that the picture stands because the way to the node broke. */
  reconnecting(on: boolean): void {
    byId("mending").hidden = !on;
    say(on ? "The connection broke. Reconnecting." : "The stream goes on.");
  }

  /** idle warns that the session ends for want of input; 0 takes the warning away. */
  idle(leftSeconds: number): void {
    const b = byId("resting");
    b.hidden = leftSeconds === 0;
    if (!b.hidden) b.textContent = `Nothing has happened for a while: the session ends in ${leftSeconds} seconds. Press a key or move the pointer to stay.`;
  }

  soundBlocked(): void { byId("sound").hidden = false; }

  stats(s: Stats): void {
    if (!this.numbers.hidden) draw(this.numbers, rows(s, this.stream?.session ?? null));
  }

  private press(id: string, on: boolean): void {
    byId(id).setAttribute("aria-pressed", String(on));
  }

  private showBar(): void {
    this.bar.classList.remove("away");
    byId("grip").setAttribute("aria-expanded", "true");
    window.clearTimeout(this.timer);
    this.timer = window.setTimeout(() => this.hideBar(), awayAfter);
  }

  private hideBar(): void {
    if (this.sharing.open || this.swap.open || this.bar.matches(":hover") || this.bar.contains(document.activeElement)) {
      this.timer = window.setTimeout(() => this.hideBar(), awayAfter);
      return;
    }
    this.bar.classList.add("away");
    byId("grip").setAttribute("aria-expanded", "false");
  }

  private barKey(e: KeyboardEvent): void {
    const tools = [...byId("tools").querySelectorAll("button")].filter((b) => !b.hidden);
    const at = tools.indexOf(document.activeElement as HTMLButtonElement);
    const step = e.key === "ArrowRight" ? 1 : e.key === "ArrowLeft" ? -1 : 0;
    if (step && at >= 0) tools[(at + step + tools.length) % tools.length].focus();
    if (e.key === "Escape") this.surface.focus({ preventScroll: true });
  }

  private toggleFull(): void {
    if (document.fullscreenElement) void document.exitFullscreen();
    else this.stage.requestFullscreen().then(() => this.surface.focus()).catch(() => say("The browser refused full screen."));
  }

  private fullChanged(): void {
    const full = document.fullscreenElement === this.stage;
    this.press("full", full);
    const keyboard = (navigator as Navigator & { keyboard?: { lock?(keys: string[]): Promise<void>; unlock?(): void } }).keyboard;
    if (full) void keyboard?.lock?.(fullscreenKeys).catch(() => undefined); // a comfort that not every browser has
    else keyboard?.unlock?.();
  }

  private async toggleLock(): Promise<void> {
    if (!this.stream) return;
    if (this.stream.pointerLocked) this.stream.exitPointerLock();
    else await this.stream.requestPointerLock().catch((e: Error) => say(e.message));
  }

  private toggleType(): void {
    if (this.stream) this.stream.typing = !this.stream.typing;
  }

  typing(on: boolean): void {
    this.press("type", on);
    say(on ? "Text goes to the application as you write it, with your keyboard's own letters." : "Keys go to the application as they are.");
  }

  private toggleMute(): void {
    if (!this.stream) return;
    this.stream.muted = !this.stream.muted;
    this.press("mute", this.stream.muted);
    if (!this.stream.muted) void this.sound();
  }

  /** devices shows the microphone's button where the application may hear it. */
  devices(d: Devices): void {
    byId("microphone").hidden = !d.microphone.taken;
  }

  private async toggleMicrophone(): Promise<void> {
    const stream = this.stream;
    if (!stream) return;
    try {
      await stream.setMicrophone(!stream.speaking);
      say(stream.speaking ? "The application hears you." : "The microphone is closed.");
    } catch (e) {
      say((e as Error).message);
    }
    if (this.stream === stream) this.press("microphone", stream.speaking);
  }

  private async sound(): Promise<void> {
    if (await this.stream?.resumeSound()) byId("sound").hidden = true;
    if (document.activeElement === document.body) this.surface.focus({ preventScroll: true });
  }

  private toggleStats(): void {
    this.numbers.hidden = !this.numbers.hidden;
    this.press("stats", !this.numbers.hidden);
    if (!this.numbers.hidden) void this.stream?.stats().then((s) => this.stats(s)).catch(() => undefined); // it ended meanwhile
  }
}
