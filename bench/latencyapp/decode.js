// Reads the pictures of latencyapp in a page and measures with them: put it
// into a page that shows the stream, then use globalThis.latency. The layout of
// the cells is in cells.go.
//
//   latency.decode(data, width, stride)  State or null from RGBA bytes (stride: pixels a row)
//   latency.read(video)                  State or null of the picture that shows now
//   latency.startMeasure(video)          collects {clock, shown, latency, counter, decode, display} per new picture
//   latency.stopMeasure()                ends that and gives the list
//   await latency.measureInput(n, opts)  n key presses: {samples: [ms], parts: [{present, display}], lost: count}
//   latency.mean(list)                   NaN of an empty list
//   latency.percentile(list, p)          p from 0 to 100, nearest rank; NaN of an empty list
//
// Times are milliseconds; a latency is from the clock in the picture, or from
// the key event, to the first step of the display after the browser presented
// the picture (display() says how that is known).
(() => {
  "use strict";
  const columns = 18;
  const rows = 8;
  const fullCell = 24;
  const wrap = 2 ** 32;

  const cellSide = (width) => (width >= 20 * fullCell ? fullCell : Math.floor(width / 20));

  function crc8(words) {
    let crc = 0;
    for (const w of words) {
      for (const b of [w >> 8, w & 255]) {
        crc ^= b;
        for (let i = 0; i < 8; i++) crc = crc & 0x80 ? ((crc << 1) ^ 0x07) & 255 : (crc << 1) & 255;
      }
    }
    return crc;
  }

  /** decode reads RGBA bytes of the upper left part of a picture `width` pixels wide. */
  const decode = (data, width, stride = width) => decodeBytes(data, width, 4 * stride, 4, 0);

  /**
   * decodeBytes reads bytes of the upper left part of a picture `width` pixels
   * wide: a row is `stride` bytes, a pixel `step`, of which one or three are looked at.
   */
  function decodeBytes(data, width, stride, step, offset) {
    const side = cellSide(width);
    if (side < 2) return null;
    const edge = Math.floor(side / 4);
    const bit = (row, col) => {
      let sum = 0;
      let n = 0;
      for (let y = row * side + edge; y < row * side + side - edge; y++) {
        for (let x = col * side + edge; x < col * side + side - edge; x++) {
          const i = offset + stride * y + step * x;
          sum += step === 1 ? data[i] : (data[i] + data[i + 1] + data[i + 2]) / 3;
          n++;
        }
      }
      return sum > 127 * n;
    };
    const words = [];
    for (let r = 0; r < rows; r++) {
      if (bit(r, 0) !== (r % 2 === 0) || bit(r, columns - 1) !== (r % 2 === 1)) return null;
      let w = 0;
      for (let b = 0; b < 16; b++) w = w * 2 + (bit(r, 1 + b) ? 1 : 0);
      words.push(w);
    }
    const sum = crc8(words.slice(0, rows - 1));
    if (words[rows - 1] !== sum * 256 + (sum ^ 255)) return null;
    return {
      clock: words[0] * 65536 + words[1],
      counter: words[2],
      x: words[3],
      y: words[4],
      kind: words[5] >> 8,
      detail: words[5] & 255,
      width: words[6],
    };
  }

  let canvas = null;
  let context = null;

  /** read decodes the picture that a video shows now. */
  function read(video) {
    const width = video.videoWidth;
    const side = cellSide(width);
    if (side < 2) return null;
    const w = columns * side;
    const h = rows * side;
    if (!canvas || canvas.width !== w || canvas.height !== h) {
      canvas = document.createElement("canvas");
      canvas.width = w;
      canvas.height = h;
      context = canvas.getContext("2d", { willReadFrequently: true, alpha: false });
    }
    context.drawImage(video, 0, 0, w, h, 0, 0, w, h);
    return decode(context.getImageData(0, 0, w, h).data, width, w);
  }

  /**
   * look reads a VideoFrame and closes it. Mostly it takes the brightness alone,
   * without turning it into colours: a page that drew each picture into a canvas
   * was busy for half of the time, and keys were pressed only in the other half
   * of an interval.
   */
  async function look(frame) {
    try {
      const width = frame.visibleRect.width;
      const rect = { x: frame.visibleRect.x, y: frame.visibleRect.y, width: columns * cellSide(width), height: rows * cellSide(width) };
      if (rect.height > frame.visibleRect.height) return null;
      const luma = ["I420", "NV12"].includes(frame.format);
      const how = luma ? { rect } : { rect, format: "RGBA" };
      const data = new Uint8Array(frame.allocationSize(how));
      const [plane] = await frame.copyTo(data, how);
      return decodeBytes(data, width, plane.stride, luma ? 1 : 4, plane.offset);
    } finally {
      frame.close();
    }
  }

  /** wallBase gives the wall clock at performance.now() === 0. timeOrigin alone drifts from the clock that the program reads. */
  function wallBase() {
    let best = -Infinity;
    for (let i = 0; i < 5; i++) {
      const before = Date.now();
      let now = before;
      while (now === before) now = Date.now();
      // Just after the tick: each reading is late by what it took, never early.
      best = Math.max(best, now - performance.now());
    }
    return best;
  }

  /** steps gives the time between two steps of the display, by and by. */
  function steps() {
    const s = { interval: 1000 / 60 };
    const gaps = [];
    let last = NaN;
    const step = (now) => {
      if (now > last) gaps.push(now - last);
      last = now;
      if (gaps.length < 15) return requestAnimationFrame(step);
      s.interval = percentile(gaps, 50);
    };
    requestAnimationFrame(step);
    return s;
  }

  /**
   * display gives the step of the display at which a picture shows: the first
   * after it was presented. expectedDisplayTime lies on such a step, but for
   * pictures of a connection it is the one that Chromium last prepared for: a
   * step before the picture was even there, or one too late
   * (WebMediaPlayerMSCompositor::RenderWithoutAlgorithmOnCompositor, crbug.com/1050755).
   */
  const display = (presented, step, interval) => step + Math.ceil((presented - step) / interval) * interval;

  let measuring = null;

  /**
   * startMeasure reads every picture from the track, and from
   * requestVideoFrameCallback when it was presented. That alone would miss
   * pictures: it tells of the newest at the time of its call, 1 to 7 ms after the
   * display's step, at which the one before was shown.
   */
  function startMeasure(video) {
    if (measuring) stopMeasure();
    const track = video.srcObject.getVideoTracks()[0].clone();
    const reader = new MediaStreamTrackProcessor({ track, maxBufferSize: 16 }).readable.getReader();
    const m = { list: [], last: -1, base: wallBase(), steps: steps(), stopped: false, waiters: [], pictures: [], metas: [], held: null, track };
    measuring = m;
    const pump = async () => {
      for (;;) {
        const { value, done } = await reader.read();
        if (done) return;
        const picture = { at: value.timestamp, came: performance.now(), state: null };
        picture.state = await look(value);
        m.pictures.push(picture);
        settle(m);
      }
    };
    const frame = (now, meta) => {
      if (m.stopped) return;
      video.requestVideoFrameCallback(frame);
      m.metas.push(meta);
      settle(m);
    };
    video.requestVideoFrameCallback(frame);
    void pump();
    return m;
  }

  /** settle finds when pictures were shown for which both sides are known. */
  function settle(m) {
    const near = 2; // µs: mediaTime is rounded
    for (let meta = m.metas[0]; meta; meta = m.metas[0]) {
      const at = meta.mediaTime * 1e6;
      const newest = m.pictures.at(-1);
      if (!newest || newest.at < at - near) return; // not read yet
      m.metas.shift();
      const shown = m.pictures.filter((p) => p.at <= at + near);
      m.pictures = m.pictures.slice(shown.length);
      for (const p of shown) {
        p.meta = Math.abs(p.at - at) <= near ? meta : null;
        p.presented = p.meta ? meta.presentationTime : Math.min(p.came, meta.presentationTime);
        p.shown = display(p.presented, meta.expectedDisplayTime, m.steps.interval);
        // Unless this one took its place before the display's step.
        if (m.held && p.presented > m.held.shown) count(m, m.held);
        m.held = p;
      }
    }
  }

  function count(m, p) {
    const s = p.state;
    if (!s) return;
    for (const w of m.waiters.slice()) w(p);
    if (s.clock === m.last) return; // the same picture again
    m.last = s.clock;
    let latency = ((m.base + p.shown) % wrap) - s.clock;
    if (latency < -wrap / 2) latency += wrap;
    const decode = p.meta?.receiveTime ? p.presented - p.meta.receiveTime : NaN;
    m.list.push({ clock: s.clock, shown: p.shown, latency, counter: s.counter, decode, display: p.shown - p.presented });
  }

  function stopMeasure() {
    const m = measuring;
    measuring = null;
    if (!m) return [];
    m.stopped = true;
    m.track.stop(); // ends its reader
    return m.list;
  }

  const pause = (ms) => new Promise((r) => setTimeout(r, ms));

  /**
   * measureInput presses a key n times and gives the time from each key event
   * to the first picture that counted it. opts: video, surface (what takes the
   * keys), code, key, gap (ms between presses), timeout (ms until a press
   * counts as lost). A measurement that already runs is used.
   */
  async function measureInput(n, opts = {}) {
    const stream = globalThis.perigee;
    const video = opts.video ?? stream.video;
    const surface = opts.surface ?? stream.surface;
    const { code = "KeyA", key = "a", gap = 120, timeout = 2000 } = opts;
    const own = !measuring;
    const m = measuring ?? startMeasure(video);
    const next = (want) =>
      new Promise((resolve) => {
        const done = (v) => {
          clearTimeout(timer);
          m.waiters.splice(m.waiters.indexOf(take), 1);
          resolve(v);
        };
        const take = (p) => {
          if (want(p.state)) done(p);
        };
        const timer = setTimeout(() => done(null), timeout);
        m.waiters.push(take);
      });
    const press = (type) => surface.dispatchEvent(new KeyboardEvent(type, { code, key, bubbles: true, cancelable: true }));
    const samples = [];
    const parts = [];
    let lost = 0;
    surface.focus({ preventScroll: true });
    for (let i = 0; i < n; i++) {
      const before = await next(() => true);
      if (!before) {
        lost++;
        continue;
      }
      // Anywhere in the interval between two pictures, not always at its start.
      await pause(Math.random() * 17);
      const at = performance.now();
      const counted = next((s) => s.counter !== before.state.counter);
      press("keydown");
      const after = await counted;
      press("keyup");
      if (after) {
        samples.push(after.shown - at);
        parts.push({ present: after.presented - at, display: after.shown - after.presented });
      } else lost++;
      await pause(gap);
    }
    if (own) stopMeasure();
    return { samples, parts, lost };
  }

  const mean = (list) => list.reduce((n, v) => n + v, 0) / list.length;

  function percentile(list, p) {
    if (list.length === 0) return NaN;
    const sorted = [...list].sort((a, b) => a - b);
    return sorted[Math.min(sorted.length - 1, Math.max(0, Math.ceil((p / 100) * sorted.length) - 1))];
  }

  globalThis.latency = { decode, read, settle, startMeasure, stopMeasure, measureInput, percentile, mean };
})();
