// From a position on the page to a pixel of the picture.

export interface Box { left: number; top: number; width: number; height: number }

/** pictureBox gives where the picture lies in an element that shows it whole and centred (object-fit: contain). */
export function pictureBox(element: Box, width: number, height: number): Box {
  const scale = Math.min(element.width / width, element.height / height);
  const w = width * scale;
  const h = height * scale;
  return { left: element.left + (element.width - w) / 2, top: element.top + (element.height - h) / 2, width: w, height: h };
}

/** toPixel maps a page position into the picture; positions beside it give its edge. */
export function toPixel(x: number, y: number, box: Box, width: number, height: number): { x: number; y: number } {
  const clamp = (v: number, max: number) => Math.min(Math.max(v, 0), max);
  return {
    x: clamp(((x - box.left) / box.width) * width, width - 1),
    y: clamp(((y - box.top) / box.height) * height, height - 1),
  };
}

/** Steps turns wheel movement into whole notches: one wheel click is one notch, a touchpad's trickle adds up. */
export class Steps {
  private rest = 0;
  private static readonly notch = 100; // CSS pixels of one click in the common browsers
  private static readonly most = 5; // notches one event may give

  add(delta: number, mode: number, pageSize: number): number {
    const px = mode === 1 ? (delta * Steps.notch) / 3 : mode === 2 ? delta * pageSize : delta;
    if (px === 0) return 0;
    if (Math.sign(px) !== Math.sign(this.rest)) this.rest = 0;
    this.rest += px;
    // Half a notch is enough: small wheels report 53 or 66 pixels a click.
    if (Math.abs(this.rest) < Steps.notch / 2) return 0;
    const n = Math.sign(this.rest) * Math.min(Math.max(Math.round(Math.abs(this.rest) / Steps.notch), 1), Steps.most);
    this.rest = 0;
    return n;
  }
}
