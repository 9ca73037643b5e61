import { StreamError } from "./types";

/** Microphone is this browser's own, open only while it is sent. */
export class Microphone {
  private track: MediaStreamTrack | null = null;
  private wanted = 0; // counts open and close: the last one asked for wins

  constructor(private send: (track: MediaStreamTrack | null) => Promise<void>) {}

  get on(): boolean { return this.track !== null; }

  async open(): Promise<void> {
    const asked = ++this.wanted;
    if (this.track) return;
    if (!navigator.mediaDevices?.getUserMedia) {
      throw new StreamError("unsupported", "This page may not open a microphone: browsers let only pages served by HTTPS do so.");
    }
    let track: MediaStreamTrack;
    try {
      const s = await navigator.mediaDevices.getUserMedia({ audio: { channelCount: 1, echoCancellation: true, noiseSuppression: true, autoGainControl: true } });
      track = s.getAudioTracks()[0];
    } catch (e) {
      const name = (e as Error).name;
      throw new StreamError(name === "NotAllowedError" ? "forbidden" : "unavailable",
        name === "NotAllowedError" ? "The browser does not let this page use the microphone." : `The microphone cannot be opened: ${(e as Error).message}`);
    }
    if (asked !== this.wanted) {
      track.stop();
      return;
    }
    this.track = track;
    track.addEventListener("ended", () => { if (this.track === track) this.close(); }); // unplugged
    await this.send(track);
  }

  close(): void {
    this.wanted++;
    if (!this.track) return;
    this.track.stop();
    this.track = null;
    void this.send(null).catch(() => undefined); // the connection may be gone
  }
}
