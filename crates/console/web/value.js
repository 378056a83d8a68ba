// What people type and read for the values that messages carry.

const TEXT_MAX = 400;
const BYTES_SHOWN = 8;

/** What was typed, as JSON if it is some, else as the text that it is. */
export function typed(text) {
  try {
    return JSON.parse(text);
  } catch {
    return text;
  }
}

const hex = (byte) => byte.toString(16).padStart(2, '0');

function shownBytes(bytes) {
  const first = [...bytes.subarray(0, BYTES_SHOWN)].map(hex).join(' ');
  return `${bytes.length} bytes ${first}${bytes.length > BYTES_SHOWN ? ' …' : ''}`;
}

/** A value as people read it. */
export function shown(value) {
  if (typeof value === 'string') return cut(value);
  if (value instanceof Uint8Array) return shownBytes(value);
  return cut(JSON.stringify(value, (key, each) => (each instanceof Uint8Array ? shownBytes(each) : each)) ?? 'nothing');
}

function cut(text) {
  return text.length > TEXT_MAX ? `${text.slice(0, TEXT_MAX)} …` : text;
}
