import { keyNumber } from "./keys";

type Send = (type: string, data: object) => void;

/** Keyboard sends the keys of a focused element and lets go of all of them when the focus leaves. */
export class Keyboard {
  private held = new Map<string, number>(); // KeyboardEvent.code → wire number
  private abort = new AbortController();
  private queued: [string, object][] | null = null;
  /** Whether the page wants a key to paste: it is left to the browser, too. */
  pasting: ((e: KeyboardEvent) => boolean) | null = null;

  constructor(private surface: HTMLElement, private out: Send, private onRelease: () => void) {
    const on = { signal: this.abort.signal };
    surface.addEventListener("keydown", (e) => this.down(e), on);
    surface.addEventListener("keyup", (e) => this.up(e), on);
    surface.addEventListener("blur", () => this.releaseAll(), on);
    window.addEventListener("blur", () => this.releaseAll(), on);
    document.addEventListener("visibilitychange", () => { if (document.hidden) this.releaseAll(); }, on);
  }

  /** hold keeps back what is sent, in its order, until resume. */
  hold(): void { this.queued ??= []; }

  resume(): void {
    const all = this.queued ?? [];
    this.queued = null;
    for (const [type, data] of all) this.out(type, data);
  }

  private send(type: string, data: object): void {
    if (this.queued) this.queued.push([type, data]);
    else this.out(type, data);
  }

  private down(e: KeyboardEvent): void {
    // A key that an input method is composing with is not the application's.
    if (e.isComposing || e.keyCode === 229) return;
    if (e.ctrlKey && e.altKey && e.shiftKey && /^(Control|Alt|Shift)/.test(e.code)) {
      e.preventDefault();
      this.releaseAll();
      this.surface.blur();
      this.onRelease();
      return;
    }
    const code = keyNumber(e);
    if (code === undefined) return;
    if (!this.pasting?.(e)) e.preventDefault();
    if (e.repeat || this.held.has(e.code)) return; // the X server repeats held keys itself
    const twin = this.isHeld(code);
    this.held.set(e.code, code);
    if (!twin) this.send("input::key", { code, pressed: true });
  }

  private up(e: KeyboardEvent): void {
    const code = this.held.get(e.code);
    if (code === undefined) return;
    e.preventDefault();
    this.letGo(e.code, code);
    // macOS tells no keyup of keys that are let go while Command is held.
    if (e.code.startsWith("Meta")) this.releaseAll();
  }

  private letGo(domCode: string, code: number): void {
    this.held.delete(domCode);
    if (!this.isHeld(code)) this.send("input::key", { code, pressed: false });
  }

  private isHeld(code: number): boolean {
    for (const c of this.held.values()) if (c === code) return true;
    return false;
  }

  releaseAll(): void {
    for (const [domCode, code] of [...this.held]) this.letGo(domCode, code);
  }

  dispose(): void {
    this.resume();
    this.releaseAll();
    this.abort.abort();
  }
}
