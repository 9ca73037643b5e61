import { Keyboard } from "./keyboard";
import { Note, Parcels } from "./parcels";
import { Clip, StreamError } from "./types";

const pasteWait = 150; // ms until it is clear that the browser tells of no paste
const takenWait = 2000; // ms for the application's clipboard to take it

/**
 * Clipboard copies text and pictures both ways. What the user pastes goes to the
 * application before the key that pastes does: that is a gesture, so the browser
 * asks nothing. What the application copies is written into the browser's
 * clipboard at once where it lets us, else in the user's next gesture.
 */
export class Clipboard {
  private abort = new AbortController();
  private id = 0;
  private taken = new Map<number, { resolve(): void; reject(e: Error): void }>();
  private coming: { id: number; type: string; size: number; parts: Uint8Array<ArrayBuffer>[]; got: number } | null = null;
  private waiting: Clip | null = null;
  private writing: Promise<void> = Promise.resolve();
  private timer = 0;

  constructor(
    private parcels: Parcels,
    private surface: HTMLElement,
    private keyboard: Keyboard | null,
    private may: { in: boolean; out: boolean; maxBytes: number },
    private told: (clip: Clip, written: boolean) => void,
    private failed: (e: StreamError) => void,
  ) {
    parcels.onNote = (n) => this.note(n);
    parcels.onData = (id, data) => this.data(id, data);
    parcels.onEnd = () => this.dispose();
    const on = { signal: this.abort.signal };
    if (may.in) {
      if (keyboard) keyboard.pasting = (e) => this.pasting(e);
      document.addEventListener("paste", (e) => void this.pasted(e), on);
    }
    for (const gesture of ["pointerup", "keyup"]) {
      document.addEventListener(gesture, () => { if (this.waiting) void this.copyWaiting(); }, { ...on, capture: true });
    }
  }

  /** Whether send works. */
  get canSend(): boolean { return this.may.in; }

  // A key that pastes is held back, with all that follow it, until the clip is there.
  private pasting(e: KeyboardEvent): boolean {
    const pastes = e.code === "KeyV" && (e.ctrlKey || e.metaKey) && !e.altKey || e.code === "Insert" && e.shiftKey && !e.ctrlKey && !e.altKey;
    if (!pastes || e.repeat || !this.parcels.open) return false;
    this.keyboard?.hold();
    window.clearTimeout(this.timer);
    this.timer = window.setTimeout(() => this.keyboard?.resume(), pasteWait);
    return true;
  }

  private async pasted(e: ClipboardEvent): Promise<void> {
    if (!this.surface.contains(document.activeElement)) return; // into a field of the page's own
    e.preventDefault();
    window.clearTimeout(this.timer);
    try {
      const text = e.clipboardData?.getData("text/plain") ?? "";
      const picture = [...(e.clipboardData?.items ?? [])].find((i) => i.type === "image/png")?.getAsFile();
      if (text) await this.send({ type: "text/plain", text });
      else if (picture) await this.send({ type: "image/png", blob: picture });
    } catch (err) {
      this.failed(err instanceof StreamError ? err : new StreamError("internal", String(err)));
    } finally {
      this.keyboard?.resume();
    }
  }

  /** send makes a clip what the application pastes; it resolves when it can. */
  async send(clip: Clip): Promise<void> {
    if (!this.may.in) throw new StreamError("forbidden", "The application does not take the clipboard.");
    const bytes = clip.type === "text/plain"
      ? new TextEncoder().encode(clip.text.replaceAll("\r\n", "\n"))
      : new Uint8Array(await clip.blob.arrayBuffer());
    if (bytes.length > this.may.maxBytes) {
      throw new StreamError("too_large", `At most ${this.may.maxBytes >> 20} MiB are copied at once.`);
    }
    await this.parcels.opened;
    const id = ++this.id;
    const done = new Promise<void>((resolve, reject) => {
      this.taken.set(id, { resolve, reject });
      window.setTimeout(() => reject(new StreamError("timeout", "The application's clipboard does not answer.")), takenWait + bytes.length / 1000);
    });
    this.parcels.note({ op: "clip", id, type: clip.type, size: bytes.length });
    this.parcels.data(id, bytes);
    try {
      await done;
    } finally {
      this.taken.delete(id);
    }
  }

  private note(n: Note): void {
    const t = this.taken.get(n.id ?? 0);
    if (n.op === "done") t?.resolve();
    else if (n.op === "failed") t?.reject(new StreamError("invalid", n.why ?? "The clipboard was not taken."));
    else if (n.op === "clip" && this.may.out && (n.size ?? 0) <= this.may.maxBytes) {
      this.coming = { id: n.id ?? 0, type: n.type ?? "", size: n.size ?? 0, parts: [], got: 0 };
    }
  }

  private data(id: number, data: Uint8Array<ArrayBuffer>): void {
    const c = this.coming;
    if (!c || c.id !== id) return;
    c.parts.push(data);
    c.got += data.length;
    if (c.got < c.size) return;
    this.coming = null;
    const blob = new Blob(c.parts, { type: c.type });
    // One after the other: a picture takes longer to write than the text copied after it.
    this.writing = this.writing.then(async () => this.copied(c.type === "image/png"
      ? { type: "image/png", blob } : { type: "text/plain", text: await blob.text() }))
      .catch((err: unknown) => this.failed(err instanceof StreamError ? err : new StreamError("internal", String(err))));
  }

  private async copied(clip: Clip): Promise<void> {
    const written = await write(clip);
    this.waiting = written ? null : clip;
    this.told(clip, written);
  }

  /** copyWaiting writes what the browser refused before; call it in a gesture. */
  async copyWaiting(): Promise<boolean> {
    const clip = this.waiting;
    if (!clip) return false;
    this.waiting = null;
    const written = await write(clip);
    if (written) this.told(clip, true);
    else this.waiting ??= clip;
    return written;
  }

  dispose(): void {
    this.abort.abort();
    window.clearTimeout(this.timer);
    if (this.keyboard) this.keyboard.pasting = null;
    this.keyboard?.resume();
    for (const t of this.taken.values()) t.reject(new StreamError("closed", "The connection was closed."));
    this.taken.clear();
  }
}

/** write puts a clip into the browser's clipboard, where it lets us. */
async function write(clip: Clip): Promise<boolean> {
  try {
    if (clip.type === "text/plain") await navigator.clipboard.writeText(clip.text);
    else await navigator.clipboard.write([new ClipboardItem({ [clip.type]: clip.blob })]);
    return true;
  } catch {
    return false; // no gesture, no focus, or no secure page
  }
}
