// The panel that makes links for others, and takes them back.
import { PerigeeStream, ShareInfo, StreamError } from "../sdk/index";
import { byId, make, say } from "./dom";

/** Sharing owns the panel; its links are those of one stream. */
export class Sharing {
  private stream: PerigeeStream | null = null;
  private panel = byId("sharing");
  private list = byId("shares");

  constructor(private opened: () => void) {
    byId("share-make").addEventListener("click", () => void this.make());
    this.panel.addEventListener("keydown", (e) => { if (e.key === "Escape") this.toggle(); });
  }

  get open(): boolean { return !this.panel.hidden; }

  /** enter offers sharing where the session can be: a guest cannot share on. */
  enter(stream: PerigeeStream): void {
    this.stream = stream;
    this.list.replaceChildren();
    this.problem("");
    byId("share").hidden = !stream.mayShare;
  }

  exit(): void {
    this.stream = null;
    this.close();
  }

  close(): void {
    this.panel.hidden = true;
    byId("share").setAttribute("aria-expanded", "false");
  }

  toggle(): void {
    if (!this.open) this.opened();
    this.panel.hidden = this.open;
    byId("hint").hidden = true; // it stands where the panel does
    byId("share").setAttribute("aria-expanded", String(this.open));
    byId(this.open ? "share-make" : "share").focus();
  }

  private problem(text: string): void {
    const p = byId("share-problem");
    p.textContent = text;
    p.hidden = text === "";
  }

  private async make(): Promise<void> {
    if (!this.stream) return;
    const button = byId<HTMLButtonElement>("share-make");
    button.disabled = true;
    try {
      const control = byId<HTMLInputElement>("share-control").checked;
      this.add(await this.stream.share(control ? { role: "control", rights: ["input"] } : { role: "viewer" }));
      this.problem("");
    } catch (e) {
      this.problem((e as StreamError).message);
    } finally {
      button.disabled = false;
    }
  }

  private add(x: ShareInfo): void {
    const item = make("li");
    const link = make("input");
    link.type = "text";
    link.readOnly = true;
    link.value = x.link;
    link.setAttribute("aria-label", "Link");
    link.addEventListener("focus", () => link.select());
    const copy = make("button", "Copy");
    copy.type = "button";
    copy.addEventListener("click", () => void this.copy(link, copy));
    const revoke = make("button", "Take back");
    revoke.type = "button";
    revoke.addEventListener("click", () => void this.revoke(x, item));
    item.append(link, copy, revoke, make("small", x.role === "viewer" ? "To watch" : "To watch and to drive"));
    this.list.prepend(item);
    say("A link was made.");
    copy.focus();
  }

  private async copy(link: HTMLInputElement, button: HTMLButtonElement): Promise<void> {
    try {
      await navigator.clipboard.writeText(link.value);
      button.textContent = "Copied";
      say("The link is in the clipboard.");
    } catch { // no permission, or no secure page
      link.focus();
      say("Copy the marked link.");
    }
  }

  private async revoke(x: ShareInfo, item: HTMLLIElement): Promise<void> {
    try {
      await this.stream?.unshare(x.id);
      item.remove();
      say("The link works no more.");
      byId("share-make").focus();
    } catch (e) {
      this.problem((e as StreamError).message);
    }
  }
}
