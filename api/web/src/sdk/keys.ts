// The wire's key table (KeyboardEvent.code to key number). Close to USB HID
// up to 49, not after: the table rules.

function table(): Record<string, number> {
  const t: Record<string, number> = {};
  for (let i = 0; i < 26; i++) t["Key" + String.fromCharCode(65 + i)] = 4 + i;
  for (let i = 1; i <= 9; i++) t["Digit" + i] = 29 + i;
  t.Digit0 = 39;
  const from40 = [
    "Enter", "Escape", "Backspace", "Tab", "Space", "Minus", "Equal", "BracketLeft", "BracketRight", "Backslash",
    "Quote", "Semicolon",
  ];
  from40.forEach((code, i) => { t[code] = 40 + i; });
  const from54 = [ // the wire leaves 52 and 53 out
    "Comma", "Period", "Slash", "CapsLock",
    "F1", "F2", "F3", "F4", "F5", "F6", "F7", "F8", "F9", "F10", "F11", "F12",
    "PrintScreen", "ScrollLock", "Pause", "Insert", "Home", "PageUp", "Delete", "End", "PageDown",
    "ArrowRight", "ArrowLeft", "ArrowDown", "ArrowUp",
  ];
  from54.forEach((code, i) => { t[code] = 54 + i; });
  Object.assign(t, {
    ControlLeft: 83, ControlRight: 83, ShiftLeft: 84, ShiftRight: 84, AltLeft: 85, AltRight: 85,
    MetaLeft: 86, MetaRight: 86, OSLeft: 86, OSRight: 86, NumLock: 88,
    AudioVolumeDown: 89, VolumeDown: 89, AudioVolumeUp: 90, VolumeUp: 90, Power: 91, BrowserBack: 92,
    // The wire has no keypad: its keys go as their twins.
    NumpadEnter: 40, NumpadSubtract: 45, NumpadDivide: 56, NumpadEqual: 46,
  });
  return t;
}

const byCode = table();
const altGraph = 87;

/** keyNumber gives the wire's number of a key, or undefined when the wire has none. */
export function keyNumber(e: { code: string; key: string }): number | undefined {
  if (e.code === "AltRight" && e.key === "AltGraph") return altGraph;
  const n = byCode[e.code];
  if (n !== undefined) return n;
  if (!e.code.startsWith("Numpad")) return undefined;
  // With NumLock a keypad key is a digit, without it moves: `key` says which.
  if (/^[0-9]$/.test(e.key)) return byCode["Digit" + e.key];
  if (e.key === "." || e.key === ",") return byCode.Period;
  return byCode[e.key];
}
