// Bytes inside of JSON: `{"$binary": base64}`.

/** Arguments of one call; engines bound how many there may be. */
const CHUNK_BYTES = 0x8000;

/** A search and no match of the whole: that has nothing to go back to, however long the text is. */
const NO_BASE64 = /[^A-Za-z0-9+/=]/;

const encoder = new TextEncoder();

/** Whether `text` is base64 with padding. */
export function isBase64(text) {
  const padding = text.indexOf('=');
  const isPadded = padding === -1 || padding === text.length - 1 || (padding === text.length - 2 && text.endsWith('='));
  return text.length % 4 === 0 && isPadded && !NO_BASE64.test(text);
}

export function encodeBase64(bytes) {
  let binary = '';
  for (let at = 0; at < bytes.length; at += CHUNK_BYTES) {
    binary += String.fromCharCode.apply(null, bytes.subarray(at, at + CHUNK_BYTES));
  }
  return btoa(binary);
}

/** Throws if `text` is no base64. */
export function decodeBase64(text) {
  const binary = atob(text);
  const bytes = new Uint8Array(binary.length);
  for (let at = 0; at < binary.length; at += 1) bytes[at] = binary.charCodeAt(at);
  return bytes;
}

/** The base64 of `{"$binary": base64}`, the only field of an object; undefined of anything else. */
export function binaryIn(value) {
  if (typeof value !== 'object' || value === null || typeof value.$binary !== 'string') return undefined;
  return Object.keys(value).length === 1 && isBase64(value.$binary) ? value.$binary : undefined;
}

/** How many bytes a text is on the network. */
export function bytesIn(text) {
  return encoder.encode(text).length;
}

function bytesOf(value) {
  if (typeof value !== 'object' || value === null) return undefined;
  if (ArrayBuffer.isView(value)) return new Uint8Array(value.buffer, value.byteOffset, value.byteLength);
  // By its tag, since it may come from another realm, such as a frame.
  if (Object.prototype.toString.call(value) === '[object ArrayBuffer]') return new Uint8Array(value);
  return undefined;
}

/** JSON with every buffer and view as `{"$binary": base64}`. Throws where JSON.stringify does. */
export function stringify(value) {
  return JSON.stringify(value, function replace(key, carried) {
    // `carried` is what toJSON made of it, which Buffer has.
    const bytes = bytesOf(this[key]);
    return bytes === undefined ? carried : { $binary: encodeBase64(bytes) };
  });
}

/** The opposite: every `{"$binary": base64}` is a Uint8Array. Throws where JSON.parse does. */
export function parse(text) {
  return JSON.parse(text, (_, value) => {
    const base64 = binaryIn(value);
    return base64 === undefined ? value : decodeBase64(base64);
  });
}
