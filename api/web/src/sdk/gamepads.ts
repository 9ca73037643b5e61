type Send = (type: string, data: object) => void;

const every = 4; // ms between two looks: browsers tell of no change
const crossAxes = 6; // where pads that the browser knows no mapping of have their cross

interface Known {
  buttons: number[];
  axes: number[];
}

/** Gamepads sends what the browser's gamepads do, in the standard layout. */
export class Gamepads {
  private abort = new AbortController();
  private known = new Map<number, Known>();
  private timer = 0;

  constructor(private send: Send, private changed: (count: number) => void) {
    const on = { signal: this.abort.signal };
    window.addEventListener("gamepadconnected", () => this.look(), on);
    window.addEventListener("gamepaddisconnected", () => this.look(), on);
    // A page without the focus is told nothing any more: nothing may stay held.
    window.addEventListener("blur", () => this.letGo(), on);
    this.look();
  }

  /** count is how many are plugged in. */
  get count(): number { return this.known.size; }

  private look(): void {
    const there = new Set<number>();
    for (const pad of navigator.getGamepads?.() ?? []) {
      if (!pad?.connected) continue;
      there.add(pad.index);
      let k = this.known.get(pad.index);
      if (!k) {
        k = { buttons: [], axes: [] };
        this.known.set(pad.index, k);
        this.send("perigee::gamepad", { id: pad.index, plugged: true, name: pad.id.slice(0, 200) });
        this.changed(this.known.size);
      }
      if (document.hasFocus()) this.compare(pad, k);
    }
    for (const id of [...this.known.keys()]) {
      if (there.has(id)) continue;
      this.known.delete(id);
      this.send("perigee::gamepad", { id, plugged: false });
      this.changed(this.known.size);
    }
    window.clearTimeout(this.timer);
    if (this.known.size > 0) this.timer = window.setTimeout(() => this.look(), document.hidden ? 500 : every);
  }

  private compare(pad: Gamepad, k: Known): void {
    pad.buttons.forEach((b, i) => this.button(pad.index, k, i, b.pressed ? Math.max(b.value, 1 / 255) : b.value));
    pad.axes.forEach((v, i) => {
      if (i < 4) this.axis(pad.index, k, i, v);
      else if (pad.mapping !== "standard" && (i === crossAxes || i === crossAxes + 1)) {
        const first = i === crossAxes ? 14 : 12; // left and right, up and down
        this.button(pad.index, k, first, v < -0.5 ? 1 : 0);
        this.button(pad.index, k, first + 1, v > 0.5 ? 1 : 0);
      }
    });
  }

  private button(id: number, k: Known, index: number, value: number): void {
    const v = Math.round(value * 255) / 255;
    if ((k.buttons[index] ?? 0) === v) return;
    k.buttons[index] = v;
    this.send("input::gamepad-button", { id, index, pressed: v > 0, perigee: { value: v } });
  }

  private axis(id: number, k: Known, index: number, value: number): void {
    const v = Math.round(value * 32767) / 32767;
    if ((k.axes[index] ?? 0) === v) return;
    k.axes[index] = v;
    this.send("input::gamepad-axes", { id, index, value: v });
  }

  private letGo(): void {
    for (const [id, k] of this.known) {
      k.buttons.forEach((_, i) => this.button(id, k, i, 0));
      k.axes.forEach((_, i) => this.axis(id, k, i, 0));
    }
  }

  dispose(): void {
    this.abort.abort();
    window.clearTimeout(this.timer);
    for (const id of this.known.keys()) this.send("perigee::gamepad", { id, plugged: false });
    this.known.clear();
  }
}
