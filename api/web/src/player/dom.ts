// Small helpers around the document.

/** byId gives an element of the page's own markup. */
export function byId<T extends HTMLElement = HTMLElement>(id: string): T {
  const e = document.getElementById(id);
  if (!e) throw new Error(`the page lacks #${id}`);
  return e as T;
}

/** make builds an element with text; text is never parsed as markup. */
export function make<K extends keyof HTMLElementTagNameMap>(tag: K, text = "", className = ""): HTMLElementTagNameMap[K] {
  const e = document.createElement(tag);
  e.textContent = text;
  if (className) e.className = className;
  return e;
}

const views = ["sign-in", "choose", "launch", "progress", "ended"] as const;
export type View = (typeof views)[number] | "stage";

/** show shows one view and hides the others. */
export function show(view: View): void {
  for (const v of views) byId(v).hidden = v !== view;
  byId("page").hidden = view === "stage";
  byId("stage").hidden = view !== "stage";
}

/** say tells a screen reader. */
export function say(text: string): void {
  byId("status").textContent = text;
}

/** dress gives a tile the initial and the colour of an application: always the same for the same name. */
export function dress(tile: HTMLElement, name: string): void {
  let h = 0;
  for (const c of name) h = (h * 31 + c.charCodeAt(0)) % 360;
  tile.textContent = (name.split(".").pop() || name).slice(0, 1).toUpperCase();
  tile.style.setProperty("--hue", String(h));
}
