// From codes to sentences that help.
import { Ended, StreamError } from "../sdk/index";

export interface Explanation {
  title: string;
  text: string;
  help: string;
  fault: boolean;
}

const reasons: Record<string, [title: string, text: string]> = {
  left: ["You left", "The stream is closed on this side."],
  taken_over: ["Someone else is watching now", "A session shows to one viewer at a time, and another one joined."],
  deleted: ["The session was ended", "It was deleted through the API."],
  idle: ["The session was idle", "Nobody watched it, so its machine was freed."],
  client_left: ["The session is over", "It ended when its viewer left."],
  never_connected: ["The session is over", "No viewer connected in time."],
  app_exited: ["The application was closed", "It ended by itself."],
  terminated: ["The session is over", ""],
  terminating: ["The session is ending", ""],
  superseded: ["The session moved", "It runs on another machine now."],
};

const faults: Record<string, [title: string, help: string]> = {
  unauthorized: ["This token is not accepted", "It may have expired or been revoked. Ask for a new one and paste it on the start page."],
  forbidden: ["This token may not do that", "A page token starts only its own application. Use the link that you got with it, or an account token."],
  not_found: ["It is not there", "Check the name of the application or session; the start page lists what can be run."],
  conflict: ["The session cannot be joined now", "It may still be starting or have ended already. Try again, or start a new one."],
  no_capacity: ["Every machine is busy", "Nothing has room for this picture now. Try again in a minute, or choose a smaller size or another codec."],
  invalid: ["The request was refused", "Check the settings and the address of this page."],
  rate_limited: ["Too many requests", "Wait a moment, then try again."],
  unavailable: ["The service is not ready", "It may be restarting. Try again in a few seconds."],
  network: ["The gateway cannot be reached", "Check this device's connection, and that the server is running."],
  timeout: ["It took too long", "Try again. If it stays so, the machine may be overloaded or a firewall in the way."],
  connection: ["The connection was lost", "Check this device's network. Behind a strict firewall the operator can offer a relay."],
  signaling: ["The stream could not be set up", "Try again. The server said why it gave up."],
  unsupported: ["This browser cannot show the stream", "Use a current Chrome, Edge, Firefox or Safari."],
  node_lost: ["The machine was lost", "Start again: another machine will be chosen."],
  start_failed: ["The application could not be started", "The operator finds the cause in the log of the machine."],
  app_crashed: ["The application crashed", "Start it again. The operator finds its output in the log of the machine."],
  app_hung: ["The application showed nothing", "It did not draw anything in time and was ended."],
  stream_failed: ["The stream broke", "Start again. The operator finds the cause in the log of the machine."],
};

/** sentence dresses a message of the server, which starts small and has no full stop. */
function sentence(s: string): string {
  const t = s.trim();
  return t && t[0].toUpperCase() + t.slice(1) + (/[.!?:)]$/.test(t) ? "" : ".");
}

/** explain says in words why a stream ended and what can be done. */
export function explain(ended: Ended): Explanation {
  const fault = faults[ended.reason] ?? (ended.error ? faults[ended.error.code] : undefined);
  if (fault) return { title: fault[0], text: sentence(ended.message), help: fault[1], fault: true };
  const plain = reasons[ended.reason];
  if (plain) return { title: plain[0], text: plain[1] || sentence(ended.message), help: "", fault: false };
  return { title: ended.error ? "Something went wrong" : "The stream ended", text: sentence(ended.message), help: "", fault: !!ended.error };
}

/** problem says in one line what an error means. */
export function problem(e: unknown): string {
  if (!(e instanceof StreamError)) return e instanceof Error ? e.message : String(e);
  const f = faults[e.code];
  return f ? `${f[0]}: ${e.message}` : e.message;
}
