// The browser SDK of Perigee: everything that a page needs to show a stream.
export { Gateway } from "./gateway";
export type { AppInfo, SessionStatus } from "./gateway";
export { decodable } from "./peer";
export { probe } from "./probe";
export { PerigeeStream } from "./stream";
export { StreamError } from "./types";
export type { Clip, Codec, Device, Devices, Ended, Latency, NodeProbe, PerigeeOptions, Probes, QueuePlace, Refusal, Screen, SessionInfo, ShareInfo, ShareOptions, Stage, State, Stats, StreamFile, TransferOptions, ViewerRight, Viewers } from "./types";
export { keyNumber } from "./keys";
export { pictureBox, Steps, toPixel } from "./geometry";
