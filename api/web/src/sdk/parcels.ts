import { StreamError } from "./types";

/** Note is a parcel's JSON on Perigee's own channels. */
export interface Note {
  op: string;
  id?: number;
  name?: string;
  type?: string;
  size?: number;
  bytes?: number;
  why?: string;
  files?: { name: string; size: number; modified: number }[];
}

const jsonKind = 0x6a; // j
const dataKind = 0x64; // d
const head = 5;
export const parcelSize = 64 << 10;

/** Parcels is a channel of Perigee's: notes, and the bytes of numbered transfers. */
export class Parcels {
  onNote: (n: Note) => void = () => undefined;
  onData: (id: number, data: Uint8Array<ArrayBuffer>) => void = () => undefined;
  onEnd: () => void = () => undefined;
  readonly opened: Promise<void>;

  constructor(private channel: RTCDataChannel) {
    channel.binaryType = "arraybuffer";
    this.opened = new Promise((open, shut) => {
      if (channel.readyState === "open") open();
      channel.addEventListener("open", () => open(), { once: true });
      channel.addEventListener("close", () => shut(new StreamError("closed", "The channel was closed.")), { once: true });
    });
    this.opened.catch(() => undefined); // told by onEnd
    channel.addEventListener("close", () => this.onEnd());
    channel.addEventListener("message", (m) => this.take(new Uint8Array(m.data as ArrayBuffer)));
  }

  private take(b: Uint8Array<ArrayBuffer>): void {
    if (b[0] === jsonKind) this.onNote(JSON.parse(new TextDecoder().decode(b.subarray(1))) as Note);
    else if (b[0] === dataKind && b.length >= head) this.onData(new DataView(b.buffer, b.byteOffset).getUint32(1), b.subarray(head));
  }

  get open(): boolean { return this.channel.readyState === "open"; }

  note(n: Note): void {
    const json = new TextEncoder().encode(JSON.stringify(n));
    const b = new Uint8Array(1 + json.length);
    b[0] = jsonKind;
    b.set(json, 1);
    this.send(b);
  }

  /** data sends bytes of a transfer, cut into parcels. */
  data(id: number, bytes: Uint8Array): void {
    for (let at = 0; at < bytes.length; at += parcelSize) {
      const part = bytes.subarray(at, at + parcelSize);
      const b = new Uint8Array(head + part.length);
      b[0] = dataKind;
      new DataView(b.buffer).setUint32(1, id);
      b.set(part, head);
      this.send(b);
    }
  }

  private send(b: Uint8Array<ArrayBuffer>): void {
    if (!this.open) throw new StreamError("closed", "The connection was closed.");
    this.channel.send(b);
  }

  close(): void { this.channel.close(); }
}
