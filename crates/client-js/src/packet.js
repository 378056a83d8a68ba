// Packets of Socket.IO, revision 5, as text, with their attachments in base64: what Engine.IO carries over long-polling.

import { binaryIn, decodeBase64 } from './binary.js';

export const PacketType = Object.freeze({ CONNECT: 0, DISCONNECT: 1, EVENT: 2, ACK: 3, CONNECT_ERROR: 4, BINARY_EVENT: 5, BINARY_ACK: 6 });

/** Attachments of one packet that are waited for. Tidegate sends 10 at most, other servers in its cluster may send more. */
const ATTACHMENTS_MAX = 1_000;

const PACKET = /^([0-6])(?:(\d{1,9})-)?(?:(\/[^,]*),)?(\d{1,15})?/;

function detach(value, attachments) {
  const base64 = binaryIn(value);
  if (base64 !== undefined) return { _placeholder: true, num: attachments.push(base64) - 1 };
  if (Array.isArray(value)) return value.map((each) => detach(each, attachments));
  if (typeof value !== 'object' || value === null) return value;
  return Object.fromEntries(Object.entries(value).map(([key, each]) => [key, detach(each, attachments)]));
}

function attach(value, attachments) {
  if (typeof value !== 'object' || value === null) return value;
  if (value._placeholder === true) {
    const base64 = Number.isInteger(value.num) ? attachments[value.num] : undefined;
    // Anybody may publish an object that looks like one: without its attachment it is a value like any other.
    if (base64 !== undefined) return decodeBase64(base64);
  }
  if (Array.isArray(value)) return value.map((each) => attach(each, attachments));
  return Object.fromEntries(Object.entries(value).map(([key, each]) => [key, attach(each, attachments)]));
}

/**
 * The text of an EVENT or ACK and the base64 of its attachments. `data` is plain JSON in which bytes are
 * `{"$binary": base64}`.
 */
export function encodePacket({ type, namespace, id, data }) {
  const attachments = [];
  const bare = detach(data, attachments);
  const kind = attachments.length === 0 ? type : type + PacketType.BINARY_EVENT - PacketType.EVENT;
  const count = attachments.length === 0 ? '' : `${attachments.length}-`;
  return { text: `${kind}${count}${namespace === '/' ? '' : `${namespace},`}${id ?? ''}${JSON.stringify(bare)}`, attachments };
}

/** Puts packets together that come as a text and its attachments. Everything throws SyntaxError on what is no packet. */
export class PacketReader {
  #waiting = null;

  /** The packet that `text` begins, or null if its attachments are still to come. */
  text(text) {
    const head = PACKET.exec(text);
    if (head === null || this.#waiting !== null) throw new SyntaxError('not a Socket.IO packet');
    const [all, kind, count, namespace = '/', id] = head;
    const data = all.length === text.length ? undefined : JSON.parse(text.slice(all.length));
    const packet = { type: Number(kind), namespace, id: id === undefined ? undefined : Number(id), data };
    if (packet.type < PacketType.BINARY_EVENT) return packet;
    packet.type -= PacketType.BINARY_EVENT - PacketType.EVENT;
    const missing = Number(count);
    if (!(missing <= ATTACHMENTS_MAX)) throw new SyntaxError('a binary packet without a count, or with too many attachments');
    if (missing === 0) return packet;
    this.#waiting = { packet, missing, attachments: [] };
    return null;
  }

  /** The packet that `base64` completes, or null if there is more to come. */
  attachment(base64) {
    const waiting = this.#waiting;
    if (waiting === null) throw new SyntaxError('an attachment without its packet');
    waiting.attachments.push(base64);
    if (waiting.attachments.length < waiting.missing) return null;
    this.#waiting = null;
    try {
      return { ...waiting.packet, data: attach(waiting.packet.data, waiting.attachments) };
    } catch (error) {
      throw new SyntaxError('attachments that do not fit', { cause: error });
    }
  }
}
