import { keyNumber } from "./keys";

type Send = (type: string, data: object) => void;

const most = 1000; // characters of one message
// What is deleted must be there: on-screen keyboards say nothing of a Backspace in an empty field.
const guard = "\u2060\u2060";

/**
 * TextEntry takes text instead of keys while it is on: from input methods, dead
 * keys and on-screen keyboards, which need a field to write into. The field is
 * not seen; what is being composed is shown by the input method itself.
 */
export class TextEntry {
  private field = document.createElement("textarea");
  private abort = new AbortController();
  private composing = false;
  on = false;

  constructor(private surface: HTMLElement, private send: Send, private changed: (on: boolean) => void) {
    const f = this.field;
    f.setAttribute("aria-label", "Text for the application");
    f.autocomplete = "off";
    f.spellcheck = false;
    f.setAttribute("autocapitalize", "none");
    f.setAttribute("autocorrect", "off");
    // 16 pixels: below, phones zoom the page in.
    f.style.cssText = "position:absolute;left:50%;bottom:0;width:1px;height:1em;padding:0;border:0;opacity:0;resize:none;font-size:16px;pointer-events:none";
    f.hidden = true;
    surface.append(f);
    const on = { signal: this.abort.signal };
    f.addEventListener("keydown", (e) => this.key(e), on);
    f.addEventListener("beforeinput", (e) => this.before(e), on);
    f.addEventListener("compositionstart", () => { this.composing = true; }, on);
    f.addEventListener("compositionend", (e) => {
      this.composing = false;
      this.text(e.data);
      this.reset();
    }, on);
    f.addEventListener("input", () => { if (!this.composing) this.reset(); }, on);
    // A click into the picture takes the focus from the field.
    surface.addEventListener("focus", () => { if (this.on) this.focus(); }, on);
  }

  /** set turns it on or off; to show an on-screen keyboard, call it in a gesture. */
  set(on: boolean): void {
    if (on === this.on) return;
    this.on = on;
    this.field.hidden = !on;
    if (on) this.focus();
    else this.surface.focus({ preventScroll: true });
    this.changed(on);
  }

  private focus(): void {
    this.reset();
    this.field.focus({ preventScroll: true });
  }

  private reset(): void {
    this.field.value = guard;
    this.field.setSelectionRange(guard.length, guard.length);
  }

  // Keys that make text are left to the field; the others go the usual way.
  private key(e: KeyboardEvent): void {
    if (e.isComposing || e.keyCode === 229 || e.key === "Dead") {
      e.stopPropagation();
      return;
    }
    const altGraph = e.getModifierState("AltGraph");
    if ([...e.key].length === 1 && (altGraph || !(e.ctrlKey || e.altKey || e.metaKey))) e.stopPropagation();
  }

  private before(e: InputEvent): void {
    switch (e.inputType) {
      case "insertText":
        if (this.composing) return;
        e.preventDefault();
        this.text(e.data ?? "");
        break;
      case "insertFromPaste":
        e.preventDefault();
        this.text(e.data ?? e.dataTransfer?.getData("text/plain") ?? "");
        break;
      case "insertLineBreak":
      case "insertParagraph":
        e.preventDefault();
        this.tap("Enter");
        break;
      case "deleteContentBackward":
        if (this.composing) return;
        e.preventDefault();
        this.tap("Backspace");
        break;
    }
  }

  private text(text: string): void {
    const all = [...text.replaceAll("\u2060", "")];
    for (let i = 0; i < all.length; i += most) {
      this.send("input::ime-event", { type: 1, data: { text: all.slice(i, i + most).join("") } });
    }
  }

  private tap(code: string): void {
    for (const pressed of [true, false]) this.send("input::key", { code: keyNumber({ code, key: code }), pressed });
  }

  dispose(): void {
    this.abort.abort();
    this.field.remove();
    if (this.on) {
      this.on = false;
      this.changed(false);
    }
  }
}
