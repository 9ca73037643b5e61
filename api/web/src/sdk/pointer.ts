import { pictureBox, Steps, toPixel } from "./geometry";

type Send = (type: string, data: object) => void;

// DOM button → wire button.
const buttons: Record<number, number> = { 0: 1, 1: 2, 2: 3, 3: 4, 4: 5 };
const maxTouches = 10;
// Moves closer together than this are joined: 250 a second is beyond any screen.
const moveInterval = 4;

/** Pointer sends mouse, pen, wheel and touch input in the picture's own pixels. */
export class Pointer {
  private abort = new AbortController();
  private held = new Set<number>(); // wire buttons
  private touches = new Map<number, number>(); // pointerId → wire id
  private wheelX = new Steps();
  private wheelY = new Steps();
  private last: { x: number; y: number } | null = null;
  private rest = { x: 0, y: 0 }; // relative movement not sent yet
  private waiting: { x: number; y: number } | null = null;
  private timer = 0;
  private sentAt = 0;
  private raw = "onpointerrawupdate" in window;

  constructor(
    private surface: HTMLElement,
    private video: HTMLVideoElement,
    private send: Send,
    private onLock: (locked: boolean) => void,
  ) {
    const on = { signal: this.abort.signal };
    const active = { signal: this.abort.signal, passive: false };
    surface.addEventListener("pointerdown", (e) => this.down(e), on);
    surface.addEventListener("pointerup", (e) => this.up(e), on);
    surface.addEventListener("pointercancel", (e) => this.up(e), on);
    // Raw updates come at once; pointermove waits for the next frame of the page.
    if (this.raw) surface.addEventListener("pointerrawupdate" as "pointermove", (e) => this.move(e), on);
    surface.addEventListener("pointermove", (e) => {
      // A further button of a mouse that already holds one comes as a move.
      if (e.button >= 0 && e.pointerType !== "touch") this.chord(e);
      if (!this.raw || !e.isTrusted) this.move(e);
    }, on);
    surface.addEventListener("wheel", (e) => this.wheel(e), active);
    surface.addEventListener("contextmenu", (e) => e.preventDefault(), on);
    // Where pointer events have no effect on scrolling and zooming, these do.
    surface.addEventListener("touchstart", (e) => e.preventDefault(), active);
    document.addEventListener("pointerlockchange", () => this.onLock(this.locked), on);
    surface.addEventListener("blur", () => this.releaseAll(), on);
    window.addEventListener("blur", () => this.releaseAll(), on);
  }

  get locked(): boolean { return document.pointerLockElement === this.surface; }

  private at(e: MouseEvent): { x: number; y: number } | null {
    const { videoWidth: w, videoHeight: h } = this.video;
    if (!w || !h) return null; // no picture yet, so no place in it
    return toPixel(e.clientX, e.clientY, pictureBox(this.video.getBoundingClientRect(), w, h), w, h);
  }

  private down(e: PointerEvent): void {
    // preventDefault stops the page's own reaction, so the focus is set by hand.
    e.preventDefault();
    this.surface.focus({ preventScroll: true });
    const p = this.at(e);
    if (!p) return;
    if (!this.locked && e.isTrusted) this.surface.setPointerCapture(e.pointerId);
    if (e.pointerType === "touch") {
      const id = this.freeTouch();
      if (id < 0) return;
      this.touches.set(e.pointerId, id);
      this.send("input::touch-start", { id, x: p.x, y: p.y });
      return;
    }
    this.movePixel(e, p);
    this.flush();
    this.button(e.button, true);
  }

  private up(e: PointerEvent): void {
    const touch = this.touches.get(e.pointerId);
    if (touch !== undefined) {
      this.touches.delete(e.pointerId);
      this.send("input::touch-end", { id: touch, last: this.touches.size === 0 });
      return;
    }
    const p = this.at(e);
    if (p && e.type === "pointerup") this.movePixel(e, p);
    this.flush();
    if (e.type === "pointercancel") this.releaseAll();
    else this.button(e.button, false);
  }

  private move(e: PointerEvent): void {
    const p = this.at(e);
    if (!p) return;
    const touch = this.touches.get(e.pointerId);
    if (touch !== undefined) {
      this.send("input::touch-move", { id: touch, x: p.x, y: p.y });
      return;
    }
    if (e.pointerType === "touch") return;
    this.movePixel(e, p);
  }

  private chord(e: PointerEvent): void {
    const bit = [1, 4, 2, 8, 16][e.button];
    if (bit === undefined) return;
    const pressed = (e.buttons & bit) !== 0;
    this.flush();
    this.button(e.button, pressed);
  }

  private button(domButton: number, pressed: boolean): void {
    const button = buttons[domButton];
    if (button === undefined || this.held.has(button) === pressed) return;
    if (pressed) this.held.add(button);
    else this.held.delete(button);
    this.send("input::mouse-button", { pressed, button });
  }

  private movePixel(e: PointerEvent, p: { x: number; y: number }): void {
    if (this.locked) {
      const box = pictureBox(this.video.getBoundingClientRect(), this.video.videoWidth, this.video.videoHeight);
      const scale = this.video.videoWidth / box.width;
      this.rest.x += e.movementX * scale;
      this.rest.y += e.movementY * scale;
      if (e.movementX === 0 && e.movementY === 0) return;
    } else {
      const to = { x: Math.round(p.x), y: Math.round(p.y) };
      if (this.last && this.last.x === to.x && this.last.y === to.y) return;
      if (this.last) {
        this.rest.x += to.x - this.last.x;
        this.rest.y += to.y - this.last.y;
      }
      this.last = to;
    }
    this.waiting = this.last ?? { x: 0, y: 0 };
    const now = performance.now();
    if (now - this.sentAt >= moveInterval) this.flush();
    else if (!this.timer) this.timer = window.setTimeout(() => this.flush(), moveInterval);
  }

  private flush(): void {
    window.clearTimeout(this.timer);
    this.timer = 0;
    const to = this.waiting;
    if (!to) return;
    this.waiting = null;
    this.sentAt = performance.now();
    const rx = Math.trunc(this.rest.x);
    const ry = Math.trunc(this.rest.y);
    this.rest.x -= rx;
    this.rest.y -= ry;
    if (this.locked) {
      if (rx || ry) this.send("input::mouse-move", { rx, ry });
    } else {
      this.send("input::mouse-move", { rx, ry, x: to.x, y: to.y });
    }
  }

  private wheel(e: WheelEvent): void {
    e.preventDefault();
    const nx = this.wheelX.add(e.deltaX, e.deltaMode, window.innerWidth);
    const ny = this.wheelY.add(e.deltaY, e.deltaMode, window.innerHeight);
    this.flush();
    for (let i = 0; i < Math.max(Math.abs(nx), Math.abs(ny)); i++) {
      const x = i < Math.abs(nx) ? -Math.sign(nx) : 0;
      const y = i < Math.abs(ny) ? -Math.sign(ny) : 0;
      this.send("input::mouse-wheel", { x, y });
    }
  }

  private freeTouch(): number {
    const used = new Set(this.touches.values());
    for (let id = 0; id < maxTouches; id++) if (!used.has(id)) return id;
    return -1;
  }

  releaseAll(): void {
    this.flush();
    for (const button of [...this.held]) {
      this.held.delete(button);
      this.send("input::mouse-button", { pressed: false, button });
    }
    for (const [pointer, id] of [...this.touches]) {
      this.touches.delete(pointer);
      this.send("input::touch-end", { id, last: this.touches.size === 0 });
    }
  }

  dispose(): void {
    this.releaseAll();
    this.abort.abort();
    if (this.locked) document.exitPointerLock();
  }
}
