// What the tests and the bench use in a page of the gateway's origin: one
// stream of the real SDK, its states, its data and its sound.
(() => {
  const site = { states: [], errors: [], ended: null, data: [], channels: [], stream: null };
  window.site = site;

  // open connects a stream and resolves with the time from here to the first
  // presented picture.
  site.open = async (options) => {
    const { PerigeeStream } = await import("/static/perigee-sdk.js");
    site.stream?.disconnect();
    Object.assign(site, { states: [], errors: [], data: [], channels: [] });
    document.body.replaceChildren();
    const box = document.createElement("div");
    box.style = "position:fixed;inset:0;background:#000";
    document.body.append(box);
    site.stream = new PerigeeStream({
      container: box,
      onState: (s) => site.states.push(s),
      onError: (e) => site.errors.push(`${e.code}: ${e.message}`),
      onData: (name, d) => site.data.push([name, typeof d === "string" ? d : new TextDecoder().decode(d)]),
      onDataState: (name, isOpen) => site.channels.push([name, isOpen]),
      ...options,
    });
    const began = performance.now();
    await site.stream.connect();
    return { firstFrameMs: performance.now() - began, ...site.stream.session };
  };

  // tone gives the loudest frequency that the page hears, in hertz, and its
  // level in dB below full scale.
  site.tone = async () => {
    const audio = new AudioContext();
    await audio.resume();
    const analyser = new AnalyserNode(audio, { fftSize: 8192, smoothingTimeConstant: 0 });
    audio.createMediaStreamSource(site.stream.audio.srcObject).connect(analyser);
    await new Promise((r) => setTimeout(r, 400));
    const bins = new Float32Array(analyser.frequencyBinCount);
    analyser.getFloatFrequencyData(bins);
    let best = 1;
    for (let i = 1; i < bins.length; i++) if (bins[i] > bins[best]) best = i;
    const out = { hz: (best * audio.sampleRate) / analyser.fftSize, db: bins[best] };
    await audio.close();
    return { hz: out.hz, db: Number.isFinite(out.db) ? out.db : -999 };
  };

  // pixels gives the mean colour of a rectangle of the picture, 0 to 255.
  site.pixels = (x, y, w, h) => {
    const c = new OffscreenCanvas(w, h).getContext("2d");
    c.drawImage(site.stream.video, x, y, w, h, 0, 0, w, h);
    const d = c.getImageData(0, 0, w, h).data;
    const sum = [0, 0, 0];
    for (let i = 0; i < d.length; i++) if (i % 4 < 3) sum[i % 4] += d[i];
    return sum.map((s) => s / (w * h));
  };

  // hash changes when the picture does.
  site.hash = () => {
    const v = site.stream.video;
    const c = new OffscreenCanvas(v.videoWidth, v.videoHeight).getContext("2d");
    c.drawImage(v, 0, 0);
    const d = c.getImageData(0, 0, v.videoWidth, v.videoHeight).data;
    let h = 0;
    for (let i = 0; i < d.length; i += 97) h = (h * 31 + d[i]) | 0;
    return h;
  };
})();
