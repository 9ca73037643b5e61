// The elements that show the picture and play the sound.

/**
 * Media keeps picture and sound in two elements: in one, the browser would
 * delay the picture to keep it in step with the sound.
 */
export class Media {
  readonly video: HTMLVideoElement;
  readonly audio: HTMLAudioElement;
  private own: boolean;
  private off = false;

  constructor(container: HTMLElement | undefined, video: HTMLVideoElement | undefined, private onBlocked: () => void) {
    this.own = !video;
    this.video = video ?? document.createElement("video");
    this.video.muted = true; // it has no sound of its own, and a muted video may always start
    this.video.autoplay = true;
    this.video.playsInline = true;
    this.video.disablePictureInPicture = true;
    if (!video && container) {
      Object.assign(this.video.style, { width: "100%", height: "100%", objectFit: "contain", display: "block" });
      container.append(this.video);
    }
    this.audio = new Audio();
    this.audio.autoplay = true;
  }

  add(e: RTCTrackEvent): void {
    // No buffering against jitter: a late frame is better than every frame late.
    const r = e.receiver as RTCRtpReceiver & { jitterBufferTarget?: number | null; playoutDelayHint?: number };
    if ("jitterBufferTarget" in r) r.jitterBufferTarget = 0;
    else if ("playoutDelayHint" in r) (r as { playoutDelayHint?: number }).playoutDelayHint = 0;
    const element = e.track.kind === "video" ? this.video : this.audio;
    element.srcObject = new MediaStream([e.track]);
    if (e.track.kind === "video") void this.video.play().catch(() => undefined); // an interrupted play() starts again by autoplay
    else void this.resumeSound();
  }

  /** resumeSound starts the sound; without a gesture of the user a browser may refuse. */
  async resumeSound(): Promise<boolean> {
    try {
      await this.audio.play();
      return true;
    } catch (e) {
      if (!this.off && (e as Error).name === "NotAllowedError") this.onBlocked();
      return false;
    }
  }

  dispose(): void {
    this.off = true;
    for (const m of [this.video, this.audio]) {
      m.pause();
      m.srcObject = null;
    }
    if (this.own) this.video.remove();
  }
}
