// The statistics overlay.
import { SessionInfo, Stage, Stats } from "../sdk/index";
import { make } from "./dom";

const ms = (v: number) => (v < 0 ? "–" : v < 10 ? `${v.toFixed(1)} ms` : `${Math.round(v)} ms`);

const stages: [Stage, string][] = [
  ["input", "input"], ["application", "application"], ["capture", "capture"], ["encode", "encoding"], ["send", "sending"],
  ["network", "network"], ["jitter", "jitter buffer"], ["decode", "decoding"], ["present", "display"],
];

/** rows gives what the overlay shows, name beside value. */
export function rows(s: Stats, info: SessionInfo | null): [string, string][] {
  const rate = s.bitrateKbps < 0 ? "–" : s.bitrateKbps < 1000 ? `${Math.round(s.bitrateKbps)} kb/s` : `${(s.bitrateKbps / 1000).toFixed(1)} Mb/s`;
  const out: [string, string][] = [
    ["Frames per second", s.fps < 0 ? "–" : String(Math.round(s.fps))],
    ["Bitrate", rate],
    ["Round trip", ms(s.roundTripMs)],
    ["Codec", s.codec || "–"],
    ["Resolution", s.width ? `${s.width} × ${s.height}` : "–"],
    ["Frames decoded / dropped", `${s.framesDecoded} / ${s.framesDropped}`],
    ["Packets lost", String(s.packetsLost)],
    ["Path", s.relayed ? "relay" : "direct"],
  ];
  out.push(["Input to picture", ms(s.latency.total ?? -1)]);
  for (const [stage, name] of stages) {
    const v = s.latency[stage];
    if (v !== undefined) out.push([`· ${name}`, ms(v)]);
  }
  if (info?.node) out.push(["Node", info.node]);
  if (info?.region) out.push(["Region", info.region]);
  if (info && info.distanceKm >= 0) out.push(["Distance", `${Math.round(info.distanceKm)} km`]);
  return out;
}

/** draw fills the overlay, changing only the texts while the rows are the same. */
export function draw(list: HTMLElement, data: [string, string][]): void {
  if (list.children.length !== data.length * 2 || data.some(([name], i) => list.children[i * 2].textContent !== name)) {
    list.replaceChildren(...data.flatMap(([name]) => [make("dt", name), make("dd")]));
  }
  data.forEach(([, value], i) => { list.children[i * 2 + 1].textContent = value; });
}
