import { Clipboard } from "./clipboard";
import { Files } from "./files";
import { Gamepads } from "./gamepads";
import { Keyboard } from "./keyboard";
import { Parcels } from "./parcels";
import { PerigeeOptions } from "./types";

interface Told {
  clipboard: { in: boolean; out: boolean; max_bytes: number };
  files: { up: boolean; down: boolean; max_bytes: number };
  gamepads: { slots: number; why?: string };
}

/** Exchange is what a page and the application give each other beside picture, sound and keys. */
export class Exchange {
  clipboard: Clipboard | null = null;
  files: Files | null = null;
  gamepads: Gamepads | null = null;
  /** Why there are no gamepads; "" where there are, or where none are permitted. */
  gamepadsWhy = "";

  constructor(
    private open: (name: string) => RTCDataChannel,
    private send: (type: string, data: object) => void,
    private surface: HTMLElement,
    private keyboard: Keyboard | null,
    private options: PerigeeOptions,
  ) {}

  /** told takes the server's word of what may be exchanged; it may come again. */
  told(data: unknown): void {
    const t = data as Told;
    const o = this.options;
    if ((t.clipboard.in || t.clipboard.out) && o.clipboard !== false) {
      this.clipboard ??= new Clipboard(new Parcels(this.open("perigee.clipboard")), this.surface, this.keyboard,
        { in: t.clipboard.in, out: t.clipboard.out, maxBytes: t.clipboard.max_bytes },
        (clip, written) => o.onCopied?.(clip, written), (e) => o.onExchangeError?.(e));
    }
    if ((t.files.up || t.files.down) && o.files !== false) {
      this.files ??= new Files(new Parcels(this.open("perigee.files")),
        { up: t.files.up, down: t.files.down, maxBytes: t.files.max_bytes }, (list) => o.onFiles?.(list));
    }
    this.gamepadsWhy = t.gamepads.why ?? "";
    if (t.gamepads.slots > 0 && o.gamepads !== false && o.input !== false) {
      this.gamepads ??= new Gamepads(this.send, (n) => o.onGamepads?.(n));
    } else {
      this.gamepads?.dispose();
      this.gamepads = null;
    }
    o.onExchange?.();
  }

  dispose(): void {
    this.clipboard?.dispose();
    this.files?.dispose();
    this.gamepads?.dispose();
    this.gamepads = null;
  }
}
