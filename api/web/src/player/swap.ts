// The panel of files and clipboard, and what shows of them beside it.
import { Clip, PerigeeStream, StreamError, StreamFile } from "../sdk/index";
import { byId, make, say } from "./dom";

const offerFor = 8000; // ms that a message with a button stays
const shown = 50; // files of the list

/** Swap owns the panel; what it exchanges is one stream's. */
export class Swap {
  private stream: PerigeeStream | null = null;
  private panel = byId("exchange");
  private fresh = new Set<string>(); // files that were there when the list came first
  private listed = false;
  private clip: Clip | null = null; // that the application copied last
  private timer = 0;
  private act: () => void = () => undefined;

  constructor(private opened: () => void) {
    const stage = byId("stage");
    byId("clip-send").addEventListener("click", () => void this.sendText());
    byId("clip-take").addEventListener("click", () => void this.take());
    byId("file-choose").addEventListener("click", () => byId("file-input").click());
    byId<HTMLInputElement>("file-input").addEventListener("change", (e) => {
      const field = e.target as HTMLInputElement;
      this.upload([...(field.files ?? [])]);
      field.value = "";
    });
    byId("offer").addEventListener("click", () => { this.offer(""); this.act(); });
    this.panel.addEventListener("keydown", (e) => { if (e.key === "Escape") this.toggle(); });
    stage.addEventListener("dragenter", (e) => this.drag(e, true));
    stage.addEventListener("dragover", (e) => this.drag(e, true));
    stage.addEventListener("dragleave", (e) => { if (!e.relatedTarget) this.drag(e, false); });
    stage.addEventListener("drop", (e) => {
      this.drag(e, false);
      this.upload([...(e.dataTransfer?.files ?? [])]);
    });
  }

  get open(): boolean { return !this.panel.hidden; }

  enter(stream: PerigeeStream): void {
    this.stream = stream;
    this.fresh.clear();
    this.listed = false;
    this.clip = null;
    for (const id of ["transfers", "downloads"]) byId(id).replaceChildren();
    this.problem("");
    this.permitted();
    if (stream.files?.list.length) this.files(stream.files.list);
  }

  exit(): void {
    this.stream = null;
    this.close();
    this.offer("");
    byId("drop").hidden = true;
  }

  /** permitted offers what the application permits. */
  permitted(): void {
    const { clipboard, files } = this.stream ?? {};
    byId("swap").hidden = !clipboard && !files;
    byId("exchange-clip").hidden = !clipboard;
    byId("exchange-files").hidden = !files;
    byId("clip-in").hidden = byId("clip-send").hidden = !clipboard?.canSend;
    byId("clip-take").hidden = !this.clip;
    byId("file-choose").hidden = !files?.canUpload;
    byId("files-note").textContent = [
      files?.canUpload ? "What you send lies in the application's folder Uploads." : "",
      files?.canDownload ? "What it saves in Downloads is listed here." : "",
    ].join(" ").trim();
  }

  close(): void {
    this.panel.hidden = true;
    byId("swap").setAttribute("aria-expanded", "false");
  }

  toggle(): void {
    if (this.open) {
      this.close();
      byId("swap").focus();
      return;
    }
    this.opened();
    this.panel.hidden = false;
    byId("hint").hidden = true; // it stands where the panel does
    byId("swap").setAttribute("aria-expanded", "true");
    this.panel.querySelector<HTMLElement>("textarea:not([hidden]), button:not([hidden])")?.focus();
  }

  private problem(text: string): void {
    const p = byId("exchange-problem");
    p.textContent = text;
    p.hidden = text === "";
    if (text) say(text);
  }

  /** failed tells what could not be exchanged. */
  failed(e: StreamError): void { this.problem(e.message); if (!this.open) this.offer(e.message, () => this.toggle()); }

  /** copied tells what the application copied, where the user must do something for it. */
  copied(clip: Clip, written: boolean): void {
    this.clip = clip;
    this.permitted();
    if (written) {
      say("What the application copied is in your clipboard.");
      this.offer("");
    } else {
      this.offer(clip.type === "text/plain" ? "The application copied text: take it" : "The application copied a picture: take it", () => void this.take());
    }
  }

  private async take(): Promise<void> {
    if (await this.stream?.clipboard?.copyWaiting()) return;
    if (this.clip?.type === "text/plain") { // no secure page: to copy by hand
      const field = byId<HTMLTextAreaElement>("clip-in");
      if (!this.open) this.toggle();
      field.hidden = false;
      field.value = this.clip.text;
      field.select();
      try {
        await navigator.clipboard.writeText(this.clip.text);
        say("Copied.");
      } catch {
        say("Copy the marked text.");
      }
    } else if (this.clip) {
      save(this.clip.blob, "clipboard.png");
    }
  }

  private async sendText(): Promise<void> {
    const field = byId<HTMLTextAreaElement>("clip-in");
    try {
      await this.stream?.clipboard?.send({ type: "text/plain", text: field.value });
      field.value = "";
      this.problem("");
      say("The application can paste it now.");
      this.close();
      this.stream?.surface.focus({ preventScroll: true });
    } catch (e) {
      this.problem((e as StreamError).message);
    }
  }

  private drag(e: DragEvent, over: boolean): void {
    if (!this.stream?.files?.canUpload || !e.dataTransfer?.types.includes("Files")) return;
    e.preventDefault();
    e.dataTransfer.dropEffect = "copy";
    byId("drop").hidden = !over;
  }

  private upload(files: File[]): void {
    const to = this.stream?.files;
    if (!to || files.length === 0) return;
    if (!this.open) this.toggle();
    for (const f of files) {
      void this.row(f.name, f.size, (onProgress, signal) => to.upload(f, { onProgress, signal })).then((name) => {
        if (name) say(`${name} was sent.`);
      });
    }
  }

  /** files lists what there is to fetch, and offers what is new. */
  files(list: StreamFile[]): void {
    if (!this.stream) return;
    const fresh = list.find((f) => this.listed && !this.fresh.has(key(f)));
    this.fresh = new Set(list.map(key));
    this.listed = true;
    byId("downloads").replaceChildren(...list.slice(0, shown).map((f) => {
      const item = make("li");
      const get = make("button", "Save");
      get.type = "button";
      get.setAttribute("aria-label", `Save ${f.name}`);
      get.addEventListener("click", () => void this.download(f));
      item.append(make("span", f.name), get, make("small", size(f.size)));
      return item;
    }));
    if (fresh && !this.open) this.offer(`${fresh.name} is there: save it`, () => void this.download(fresh));
  }

  private async download(f: StreamFile): Promise<void> {
    const from = this.stream?.files;
    if (!from) return;
    if (!this.open) this.toggle();
    const blob = await this.row(f.name, f.size, (onProgress, signal) => from.download(f.name, { onProgress, signal }));
    if (blob) save(blob, f.name);
  }

  /** row shows a transfer while it runs; undefined: it failed, or was cancelled. */
  private async row<T>(name: string, bytes: number, run: (onProgress: (done: number, of: number) => void, signal: AbortSignal) => Promise<T>): Promise<T | undefined> {
    const item = make("li");
    const bar = make("progress");
    bar.max = Math.max(bytes, 1);
    bar.value = 0;
    bar.setAttribute("aria-label", name);
    const stop = make("button", "Cancel");
    stop.type = "button";
    const abort = new AbortController();
    stop.addEventListener("click", () => abort.abort());
    const note = make("small", `0 of ${size(bytes)}`);
    item.append(make("span", name), stop, bar, note);
    byId("transfers").prepend(item);
    try {
      const r = await run((done, of) => {
        bar.max = Math.max(of, 1);
        bar.value = done;
        note.textContent = `${size(done)} of ${size(of)}`;
      }, abort.signal);
      bar.value = bar.max;
      stop.remove();
      note.textContent = `${size(bytes)}, done`;
      window.setTimeout(() => item.remove(), offerFor);
      return r;
    } catch (e) {
      bar.remove();
      const x = e as StreamError;
      note.textContent = x.message;
      if (x.code !== "aborted") say(`${name}: ${x.message}`);
      stop.replaceWith(dismiss(item));
      return undefined;
    }
  }

  private offer(text: string, act?: () => void): void {
    const b = byId("offer");
    window.clearTimeout(this.timer);
    b.hidden = text === "";
    if (!act) return;
    b.textContent = text;
    this.act = act;
    say(text);
    this.timer = window.setTimeout(() => { b.hidden = true; }, offerFor);
  }
}

function dismiss(item: HTMLElement): HTMLButtonElement {
  const b = make("button", "Dismiss");
  b.type = "button";
  b.addEventListener("click", () => item.remove());
  return b;
}

function key(f: StreamFile): string { return `${f.name}\n${f.modified}`; }

function size(bytes: number): string {
  if (bytes < 1000) return `${bytes} bytes`;
  if (bytes < 1e6) return `${(bytes / 1e3).toFixed(0)} kB`;
  return bytes < 1e9 ? `${(bytes / 1e6).toFixed(1)} MB` : `${(bytes / 1e9).toFixed(2)} GB`;
}

/** save has the browser keep a file. */
function save(blob: Blob, name: string): void {
  const url = URL.createObjectURL(blob);
  const link = make("a");
  link.href = url;
  link.download = name;
  link.click();
  window.setTimeout(() => URL.revokeObjectURL(url), 60_000);
}
