import { Note, Parcels } from "./parcels";
import { StreamError, StreamFile, TransferOptions } from "./types";

const ahead = 1 << 20; // bytes sent before the server has said that it wrote them
const slice = 256 << 10;
const listLimit = 4; // uploads at once: the server's own bound

interface Transfer {
  /** Wakes what waits for the next note. */
  step(): void;
  got: number; // bytes that the other side has, or that came
  name: string;
  size: number;
  done: boolean;
  fault: StreamError | null;
  parts: Uint8Array<ArrayBuffer>[];
}

/** Files sends files into the application's home, and fetches what it puts into its Downloads. */
export class Files {
  /** What there is to fetch, the newest first. */
  list: StreamFile[] = [];
  private id = 0;
  private transfers = new Map<number, Transfer>();
  private uploading = 0;
  private queue: (() => void)[] = [];
  private ended: StreamError | null = null;

  constructor(private parcels: Parcels, private may: { up: boolean; down: boolean; maxBytes: number }, private told: (list: StreamFile[]) => void) {
    parcels.onNote = (n) => this.note(n);
    parcels.onData = (id, data) => {
      const t = this.transfers.get(id);
      if (!t) return;
      t.parts.push(data);
      t.got += data.length;
      t.step();
    };
    parcels.onEnd = () => this.end(new StreamError("closed", "The connection was closed before the file was complete."));
  }

  get canUpload(): boolean { return this.may.up && !this.ended; }
  get canDownload(): boolean { return this.may.down && !this.ended; }

  private end(e: StreamError): void {
    this.ended ??= e;
    for (const t of this.transfers.values()) {
      t.fault ??= this.ended;
      t.step();
    }
  }

  private note(n: Note): void {
    if (n.op === "files") {
      this.list = n.files ?? [];
      this.told(this.list);
      return;
    }
    if (n.op === "failed" && !n.id) { // of the whole channel
      this.end(new StreamError("unavailable", n.why ?? "The application exchanges no files."));
      return;
    }
    const t = this.transfers.get(n.id ?? 0);
    if (!t) return;
    if (n.op === "taken") t.got = n.bytes ?? 0;
    if (n.op === "get") t.size = n.size ?? 0;
    if (n.op === "done") {
      t.done = true;
      t.name = n.name ?? t.name;
    }
    if (n.op === "failed") t.fault = new StreamError("failed", n.why ?? "The file was not exchanged.");
    t.step();
  }

  private begin(name: string, size: number): { id: number; t: Transfer; next: () => Promise<void> } {
    const id = ++this.id;
    let wake: () => void = () => undefined;
    let stepped = false;
    const t: Transfer = { got: 0, name, size, done: false, fault: this.ended, parts: [], step: () => { stepped = true; wake(); } };
    this.transfers.set(id, t);
    return {
      id, t,
      next: async () => {
        if (!stepped) await new Promise<void>((r) => { wake = r; });
        stepped = false;
      },
    };
  }

  /** upload sends a file into ~/Uploads and gives the name that it has there. */
  async upload(file: File, options: TransferOptions = {}): Promise<string> {
    if (!this.may.up) throw new StreamError("forbidden", "The application takes no files.");
    if (file.size > this.may.maxBytes) throw new StreamError("too_large", `A file may have ${this.may.maxBytes >> 20} MiB at most.`);
    while (this.uploading >= listLimit) await new Promise<void>((r) => this.queue.push(r));
    this.uploading++;
    const { id, t, next } = this.begin(file.name, file.size);
    const abort = (): void => { t.fault ??= new StreamError("aborted", "It was cancelled."); t.step(); };
    options.signal?.addEventListener("abort", abort);
    if (options.signal?.aborted) abort();
    try {
      await this.parcels.opened;
      this.parcels.note({ op: "put", id, name: file.name, size: file.size });
      for (let at = 0; at < file.size && !t.done && !t.fault;) {
        if (at - t.got >= ahead) {
          await next();
          options.onProgress?.(t.got, file.size);
          continue;
        }
        const part = new Uint8Array(await file.slice(at, at + slice).arrayBuffer());
        if (t.fault) break;
        this.parcels.data(id, part);
        at += part.length;
      }
      while (!t.done && !t.fault) {
        await next();
        options.onProgress?.(t.got, file.size);
      }
      if (t.fault) {
        if (this.parcels.open) this.parcels.note({ op: "drop", id });
        throw t.fault;
      }
      options.onProgress?.(file.size, file.size);
      return t.name;
    } finally {
      options.signal?.removeEventListener("abort", abort);
      this.transfers.delete(id);
      this.uploading--;
      this.queue.shift()?.();
    }
  }

  /** download fetches a file of ~/Downloads. */
  async download(name: string, options: TransferOptions = {}): Promise<Blob> {
    if (!this.may.down) throw new StreamError("forbidden", "The application gives no files.");
    const { id, t, next } = this.begin(name, 0);
    const abort = (): void => { t.fault ??= new StreamError("aborted", "It was cancelled."); t.step(); };
    options.signal?.addEventListener("abort", abort);
    if (options.signal?.aborted) abort();
    try {
      await this.parcels.opened;
      this.parcels.note({ op: "get", id, name });
      while (!t.done && !t.fault) {
        await next();
        options.onProgress?.(t.got, t.size);
      }
      if (t.fault) {
        if (this.parcels.open) this.parcels.note({ op: "drop", id });
        throw t.fault;
      }
      return new Blob(t.parts);
    } finally {
      options.signal?.removeEventListener("abort", abort);
      this.transfers.delete(id);
    }
  }

  dispose(): void { this.end(new StreamError("closed", "The stream has ended.")); }
}
