// Reads the pictures of latencyapp in a page and measures with them: put it
// into a page that shows the stream, then use globalThis.latency. The layout of
// the cells is in cells.go.
//
//   latency.decode(data, width, stride)  State or null from RGBA bytes (stride: pixels a row)
//   latency.read(video)                  State or null of the picture that shows now
//   latency.startMeasure(video)          collects {clock, shown, latency, counter} per new picture
//   latency.stopMeasure()                ends that and gives the list
//   await latency.measureInput(n, opts)  n key presses: {samples: [ms], lost: count}
//   latency.percentile(list, p)          p from 0 to 100, nearest rank; NaN of an empty list
//
// Times are milliseconds; a latency is from the clock in the picture, or from
// the key event, to the moment at which the browser expects the picture on the
// screen (requestVideoFrameCallback's expectedDisplayTime).
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
  function decode(data, width, stride = width) {
    const side = cellSide(width);
    if (side < 2) return null;
    const edge = Math.floor(side / 4);
    const bit = (row, col) => {
      let sum = 0;
      let n = 0;
      for (let y = row * side + edge; y < row * side + side - edge; y++) {
        for (let x = col * side + edge; x < col * side + side - edge; x++) {
          const i = 4 * (y * stride + x);
          sum += data[i] + data[i + 1] + data[i + 2];
          n += 3;
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

  let measuring = null;

  function startMeasure(video) {
    if (measuring) stopMeasure();
    const m = { list: [], unread: 0, last: -1, base: wallBase(), stopped: false, waiters: [] };
    measuring = m;
    const frame = (now, meta) => {
      if (m.stopped) return;
      video.requestVideoFrameCallback(frame);
      const s = read(video);
      if (!s) {
        m.unread++;
        return;
      }
      const shown = meta.expectedDisplayTime;
      for (const w of m.waiters.slice()) w(s, shown, meta);
      if (s.clock === m.last) return; // the same picture again
      m.last = s.clock;
      let latency = ((m.base + shown) % wrap) - s.clock;
      if (latency < -wrap / 2) latency += wrap;
      m.list.push({ clock: s.clock, shown, latency, counter: s.counter, ...stages(meta) });
    };
    video.requestVideoFrameCallback(frame);
    return m;
  }

  function stopMeasure() {
    const m = measuring;
    measuring = null;
    if (!m) return [];
    m.stopped = true;
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
        const take = (s, shown, meta) => {
          if (want(s)) done({ s, shown, meta });
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
      const counted = next((s) => s.counter !== before.s.counter);
      press("keydown");
      const after = await counted;
      press("keyup");
      if (after) {
        samples.push(after.shown - at);
        // Until the last packet of its picture is there: application, capture, encode, network.
        parts.push({ arrive: (after.meta.receiveTime ?? NaN) - at, ...stages(after.meta) });
      } else lost++;
      await pause(gap);
    }
    if (own) stopMeasure();
    return { samples, parts, lost };
  }

  /**
   * stages splits what happens to a picture in the browser, in ms: decode (from
   * its last packet until it can be shown) and display (from then until it is).
   * NaN where the browser does not tell.
   */
  function stages(meta) {
    const received = meta.receiveTime ?? NaN;
    return { decode: meta.presentationTime - received, display: meta.expectedDisplayTime - meta.presentationTime };
  }

  function percentile(list, p) {
    if (list.length === 0) return NaN;
    const sorted = [...list].sort((a, b) => a - b);
    return sorted[Math.min(sorted.length - 1, Math.max(0, Math.ceil((p / 100) * sorted.length) - 1))];
  }

  globalThis.latency = { decode, read, startMeasure, stopMeasure, measureInput, percentile };
})();
