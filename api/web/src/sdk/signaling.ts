import { StreamError } from "./types";

/** A frame of the signalling websocket. */
export interface Frame {
  type: string;
  [field: string]: unknown;
}

/** Signaling is the websocket of one connection attempt: JSON text frames both ways. */
export class Signaling {
  private ws: WebSocket;
  private done = false;

  constructor(url: string, on: { open(): void; frame(f: Frame): void; lost(e: StreamError): void }) {
    this.ws = new WebSocket(url);
    this.ws.onopen = () => on.open();
    this.ws.onmessage = (m) => {
      if (this.done) return;
      let f: Frame;
      try {
        f = JSON.parse(m.data as string) as Frame;
      } catch {
        on.lost(new StreamError("protocol", "The server sent a frame that is not JSON."));
        return;
      }
      on.frame(f);
    };
    this.ws.onclose = (e) => {
      if (this.done) return;
      const why = e.reason ? `: ${e.reason}` : ` (code ${e.code})`;
      on.lost(new StreamError("signaling", `The server closed the connection before the stream began${why}.`));
    };
  }

  send(f: Frame): void {
    if (this.ws.readyState === WebSocket.OPEN) this.ws.send(JSON.stringify(f));
  }

  close(): void {
    this.done = true;
    if (this.ws.readyState <= WebSocket.OPEN) this.ws.close();
  }
}

/** encode and decode carry SDP and candidates as the wire wants them: base64 of Latin-1. */
export const encode = (s: string): string => btoa(s);
export const decode = (s: unknown): string => atob(String(s));
