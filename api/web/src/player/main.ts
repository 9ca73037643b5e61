// The player: token, choice, play, stream, end.
import { AppInfo, Gateway, PerigeeStream, probe, Probes, QueuePlace, State, StreamError } from "../sdk/index";
import { byId, dress, make, say, show } from "./dom";
import { explain, problem } from "./explain";
import { address, forget, read, remember, Settings, Wish } from "./place";
import { Stage } from "./stage";

declare global {
  interface Window {
    /** The stream that runs or ran last, for tests and the console. */
    perigee: PerigeeStream | null;
  }
}

const stateTexts: Partial<Record<State, string>> = {
  placing: "Placing: finding the nearest machine with room.",
  queued: "Waiting: every machine is busy, you are in the queue.",
  starting: "Starting: the machine prepares the application.",
  connecting: "Connecting: opening the stream.",
  live: "Live. Your keyboard drives the application; Control, Alt and Shift together give it back.",
};
const remeasure = 5 * 60_000;
const steps: State[] = ["placing", "queued", "starting", "connecting"];
const patience = 10 * 60; // seconds that the player waits for room

class Player {
  private wish: Wish = read();
  private stage = new Stage(() => void this.leave());
  private settings = new Settings(byId("size"), byId("fps"), byId("codec"));
  private titles = new Map<string, string>();
  private mayList = false;
  private probes: Probes | undefined;
  private probing = "";

  constructor() {
    window.perigee = null;
    byId("token-form").addEventListener("submit", (e) => {
      e.preventDefault();
      remember(byId<HTMLInputElement>("token").value);
      this.go();
    });
    byId("forget").addEventListener("click", () => {
      forget();
      this.go();
    });
    byId("play").addEventListener("click", () => void this.play());
    byId("again").addEventListener("click", () => void this.play());
    byId("rejoin").addEventListener("click", () => void this.play(window.perigee?.session?.id));
    byId("cancel").addEventListener("click", () => void this.leave());
    for (const id of ["other", "home"]) byId(id).addEventListener("click", (e) => this.follow(e));
    window.addEventListener("popstate", () => void this.leave().then(() => this.go()));
    this.go();
  }

  /** follow goes to a link's address without loading the page anew. */
  private follow(e: Event): void {
    const m = e as MouseEvent;
    if (m.ctrlKey || m.metaKey || m.shiftKey) return;
    e.preventDefault();
    history.pushState(null, "", (e.currentTarget as HTMLAnchorElement).href);
    this.go();
  }

  private title(app: string): string { return this.titles.get(app) ?? app; }

  private go(): void {
    this.wish = read();
    byId("forget").hidden = !this.wish.token;
    this.measure();
    if (!this.wish.token && !this.wish.share) this.signIn();
    else if (this.wish.app || this.wish.session) this.launch();
    else void this.choose();
  }

  /** measure finds the way to the nodes while the user still reads: a click never waits for it. */
  private measure(): void {
    const { token, session } = this.wish;
    if (!token || session || this.probing === token || (this.probes && Date.now() - this.probes.at < remeasure)) return;
    this.probing = token;
    void probe({ token }).then((p) => { this.probes = p; }, () => undefined) // placement goes by the map then
      .finally(() => { this.probing = ""; });
  }

  private signIn(complaint = ""): void {
    document.title = "Perigee";
    show("sign-in");
    byId("forget").hidden = true;
    const p = byId("token-problem");
    p.textContent = complaint;
    p.hidden = complaint === "";
    const field = byId<HTMLInputElement>("token");
    field.value = "";
    field.focus();
  }

  private async choose(): Promise<void> {
    document.title = "Perigee";
    show("choose");
    const list = byId("apps");
    const note = byId("apps-note");
    list.replaceChildren();
    note.hidden = true;
    try {
      const apps = await new Gateway(location.origin, this.wish.token).applications();
      this.mayList = true;
      for (const a of apps) this.titles.set(a.name, a.title);
      list.replaceChildren(...apps.map((a) => this.card(a)));
      say(`${apps.length} applications.`);
      if (apps.length === 0) this.note("There is no application yet. An operator adds one with “perigee app”.");
    } catch (e) {
      if (e instanceof StreamError && e.code === "unauthorized") {
        forget();
        this.signIn("This token is not accepted: " + e.message);
      } else if (e instanceof StreamError && e.code === "forbidden") {
        this.note("This token starts one application only. Open the link that came with it: it ends in ?app= and the application's name.");
      } else {
        this.note(problem(e));
      }
    }
  }

  private note(text: string): void {
    const note = byId("apps-note");
    note.textContent = text;
    note.hidden = false;
    say(text);
  }

  private card(a: AppInfo): HTMLLIElement {
    const link = make("a");
    link.href = address({ app: a.name });
    const tile = make("span", "", "tile");
    tile.setAttribute("aria-hidden", "true");
    dress(tile, a.title);
    const text = make("span");
    text.append(make("b", a.title));
    if (a.title !== a.name) text.append(make("small", a.name));
    link.append(tile, text);
    link.addEventListener("click", (e) => this.follow(e));
    const item = make("li");
    item.append(link);
    return item;
  }

  private launch(): void {
    const { app, session, share } = this.wish;
    const name = app ? this.title(app) : share ? "Watch a stream" : "Join a session";
    document.title = `${name} · Perigee`;
    dress(byId("launch-tile"), app ? name : "↪");
    byId("launch-title").textContent = name;
    byId("launch-lead").textContent = share ? "Somebody shares what they run with you."
      : session
      ? `Session ${session}. Whoever watches it now hands it over to you.`
      : "Runs on the nearest machine with room and streams here.";
    byId("play-label").textContent = share ? "Watch" : session ? "Join" : "Play";
    byId("settings").hidden = share !== ""; // the one who shares chose the picture
    byId("other").hidden = !this.mayList;
    show("launch");
    byId("play").focus();
  }

  private async play(join = this.wish.session): Promise<void> {
    const { screen, codecs } = this.settings.picture();
    const { share } = this.wish;
    const name = this.wish.app ? this.title(this.wish.app) : share ? "Shared stream" : "Session " + join;
    let stream: PerigeeStream;
    try {
      stream = new PerigeeStream({
        ...(share && join ? { shareToken: share } : { token: this.wish.token }),
        ...(join ? { sessionId: join } : { app: this.wish.app }),
        container: this.stage.surface,
        screen,
        codecs,
        probes: this.probes,
        joinable: this.wish.joinable,
        waitSeconds: patience,
        onQueue: (q) => this.queue(q),
        iceTransportPolicy: this.wish.relay ? "relay" : "all",
        onState: (s) => this.state(s, name),
        onReconnecting: (on) => this.stage.reconnecting(on),
        onViewers: (v) => this.stage.viewers(v),
        onIdle: (left) => this.stage.idle(left),
        microphone: true,
        onDevices: (d) => this.stage.devices(d),
        onStats: (s) => this.stage.stats(s),
        onExchange: () => this.stage.swap.permitted(),
        onCopied: (clip, written) => this.stage.swap.copied(clip, written),
        onFiles: (list) => this.stage.swap.files(list),
        onExchangeError: (e) => this.stage.swap.failed(e),
        onSoundBlocked: () => this.stage.soundBlocked(),
        onPointerLock: (locked) => this.stage.locked(locked),
        onTyping: (on) => this.stage.typing(on),
        onRelease: () => this.stage.released(),
      });
    } catch (e) {
      this.over(e instanceof StreamError ? e : new StreamError("internal", String(e)));
      return;
    }
    window.perigee = stream;
    dress(byId("progress-tile"), this.wish.app ? name : "↪");
    byId("progress-title").textContent = name;
    await stream.connect().catch(() => undefined); // the state "ended" shows why
  }

  private queue(q: QueuePlace): void {
    const when = q.etaS === 0 ? "" : q.etaS < 90 ? `, in about ${q.etaS} seconds` : `, in about ${Math.round(q.etaS / 60)} minutes`;
    const text = (q.position === 1 ? "You are next" : `You are number ${q.position} of ${q.length}`) + when + ".";
    byId("queue-text").textContent = text;
    say(text);
  }

  private state(s: State, name: string): void {
    const stream = window.perigee;
    if (!stream) return;
    say(stateTexts[s] ?? "");
    if (steps.includes(s)) {
      show("progress");
      for (const li of byId("steps").children) {
        const step = (li as HTMLElement).dataset.step as State;
        if (step === "queued") (li as HTMLElement).hidden = stream.times.queued === undefined;
        li.className = step === s ? "now" : steps.indexOf(step) < steps.indexOf(s) ? "done" : "";
        if (step === s) li.setAttribute("aria-current", "step");
        else li.removeAttribute("aria-current");
      }
    } else if (s === "live") {
      document.title = `${name} · Perigee`;
      show("stage");
      this.stage.enter(stream, name);
    } else if (s === "ended") {
      this.stage.exit();
      this.over();
    }
  }

  private over(fault?: StreamError): void {
    const stream = window.perigee;
    const ended = fault ? { reason: "error", message: fault.message, error: fault } : stream?.ended;
    if (!ended) return;
    // A cancelled start has nothing to tell.
    if (ended.reason === "left" && stream?.times.live === undefined) {
      this.launch();
      return;
    }
    this.measure(); // for "again"
    const x = explain(ended);
    byId("ended-mark").classList.toggle("fault", x.fault);
    byId("ended-title").textContent = x.title;
    byId("ended-text").textContent = x.text;
    byId("ended-help").textContent = x.help;
    byId("ended-help").hidden = !x.help;
    const refusals = ended.error?.refusals ?? [];
    const list = byId("ended-refusals");
    list.hidden = refusals.length === 0;
    list.replaceChildren(...refusals.map((r) => {
      const li = make("li");
      li.append(make("b", r.node || r.region || "any node"), make("span", r.detail || r.code));
      return li;
    }));
    const code = ended.error ? [ended.error.code, ended.error.field].filter(Boolean).join(" · ") : ended.reason;
    byId("ended-code").textContent = `Code ${code}` + (stream?.session ? ` · session ${stream.session.id}` : "");
    byId("again").textContent = this.wish.share ? "Watch again" : this.wish.session ? "Join again" : x.fault ? "Try again" : "Play again";
    byId("rejoin").hidden = !(stream?.session?.joinable && !this.wish.session && (ended.reason === "left" || ended.reason === "taken_over" || ended.reason === "lost"));
    show("ended");
    say(`Ended. ${x.title}. ${x.text} ${x.help}`);
    byId("ended-title").focus();
  }

  private async leave(): Promise<void> {
    await window.perigee?.disconnect();
  }
}

new Player();
