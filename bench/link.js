// Leads a page's connection through the bench's narrow link, and notes when
// pictures are presented. linkPort is the link's port on loopback.
(() => {
  const proto = RTCPeerConnection.prototype;
  const add = proto.addIceCandidate;
  // One way only: the node's loopback address, behind the link.
  let pc = null;
  proto.addIceCandidate = function (c) {
    pc = this;
    const line = c?.candidate ?? "";
    const f = line.split(" ");
    if (f[4] !== "127.0.0.1" || f[7] !== "host") return Promise.resolve();
    f[5] = String(globalThis.linkPort);
    return add.call(this, { ...c, candidate: f.join(" ") });
  };
  // The node learns no way round it: it hears of us by our checks.
  Object.defineProperty(proto, "onicecandidate", { set() {} });

  const shown = [];
  // watch notes the time of each presented picture, in ms since 1970.
  const watch = (video) => {
    const step = (now, meta) => {
      shown.push(performance.timeOrigin + meta.expectedDisplayTime);
      video.requestVideoFrameCallback(step);
    };
    video.requestVideoFrameCallback(step);
  };
  const stats = async () => {
    const out = {};
    for (const s of (await pc.getStats()).values()) if (s.type === "inbound-rtp" && s.kind === "video") Object.assign(out, s);
    return out;
  };
  globalThis.link = { watch, take: () => shown.splice(0), stats };
})();
