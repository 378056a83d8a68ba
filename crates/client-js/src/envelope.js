// Messages of the plain protocol as packets of Socket.IO inside of packets of Engine.IO, and back, for one connection.

import { evictionCode } from './closing.js';
import { encodePacket, PacketReader, PacketType } from './packet.js';

/** In one event. The server ends connections on which there are more. */
const BINARY_VALUES_MAX = 10;

/** Acknowledgements that others wait for, and that we may still give. The oldest is forgotten. */
const OWED_MAX = 1_000;

/** The close code that the plain protocol has for a refused CONNECT. What is not listed may go well the next time. */
const REFUSALS = new Map([
  ['bad_request', 4400],
  ['too_large', 4400],
  ['not_found', 4400],
  ['unauthorized', 4401],
  ['token_expired', 4401],
  ['forbidden', 4403],
  ['duplicate_session', 4409],
  ['rate_limited', 4429],
]);

/** What other servers answer, without a code. */
const NAMESPACE_UNKNOWN = 'Invalid namespace';

const META_KEYS = ['from', 'id', 'node', 'ts'];

function isMeta(value) {
  if (typeof value !== 'object' || value === null) return false;
  const keys = Object.keys(value).filter((key) => key !== 'room').sort();
  return keys.length === META_KEYS.length && keys.every((key, at) => key === META_KEYS[at]);
}

export class Envelope {
  #namespace = '/';
  #reader = new PacketReader();
  #ackId = 0;
  #asked = new Map();
  #questions = new Map();
  #owed = new Map();
  #evicted = null;

  /** Of the handshake, in milliseconds. */
  heartbeatMs;

  /**
   * `{ id, packets, settles }` for a message, encoded: the question's id, the packets to send in a row, and what they
   * acknowledge, for `settled`. `packets` is null if there is nothing to be said, or if `refused`, the error of the reply,
   * says why it must not be.
   */
  seal(text) {
    const { op, id, ts, ...fields } = JSON.parse(text);
    if (op === 'connect') return { packets: [this.#connect(fields)] };
    if (op === 'ack') return { packets: this.#acknowledgement(fields), settles: fields.message };
    const argument = op === 'send' && typeof id === 'string' ? { ...fields, id } : fields;
    const data = op === 'event' ? [fields.event, ...(fields.args ?? [])] : [op, op === 'heartbeat' ? null : argument];
    const packets = this.#event(data, id);
    if (packets.length - 1 <= BINARY_VALUES_MAX) return { id, packets };
    this.forget(id);
    return { id, packets: null, refused: { code: 'too_large', message: `more than ${BINARY_VALUES_MAX} binary values` } };
  }

  /** That was acknowledged, and is not once more. */
  settled(message) {
    this.#owed.delete(message);
  }

  /** The packet of a question whose answer says only that somebody is there. */
  ping() {
    return this.#event(['heartbeat', null])[0];
  }

  /** The packets that leave the namespace and end the connection. */
  farewell() {
    return [`4${PacketType.DISCONNECT}${this.#namespace === '/' ? '' : `${this.#namespace},`}`, '1'];
  }

  /** The answer to that question is of no interest any more. */
  forget(id) {
    this.#asked.delete(this.#questions.get(id));
    this.#questions.delete(id);
  }

  /**
   * `{ message }` or `{ closed: { code, reason } }` for a packet, undefined if it is one of several or means nothing.
   * Throws SyntaxError if it is no packet.
   */
  open(text) {
    if (text[0] !== '4' && text[0] !== 'b') throw new SyntaxError('not an Engine.IO packet');
    const packet = text[0] === 'b' ? this.#reader.attachment(text.slice(1)) : this.#reader.text(text.slice(1));
    if (packet === null || packet.namespace !== this.#namespace) return undefined;
    switch (packet.type) {
      case PacketType.CONNECT:
        return this.#connected(packet.data);
      case PacketType.CONNECT_ERROR:
        return { closed: this.#refused(packet.data) };
      case PacketType.DISCONNECT:
        return { closed: this.#disconnected() };
      case PacketType.ACK:
        return this.#answered(packet);
      default:
        return { message: this.#happened(packet) };
    }
  }

  #connect({ namespace = '/', auth }) {
    this.#namespace = namespace;
    return `4${PacketType.CONNECT}${namespace === '/' ? '' : `${namespace},`}${auth === undefined ? '' : JSON.stringify(auth)}`;
  }

  #connected(data) {
    if (typeof data?.sid !== 'string') throw new SyntaxError('a CONNECT without a sid');
    return { message: { op: 'connected', session: data.sid, user: null, node: null, heartbeat_ms: this.heartbeatMs ?? null } };
  }

  #event(data, question) {
    const ackId = this.#ackId++;
    const { text, attachments } = encodePacket({ type: PacketType.EVENT, namespace: this.#namespace, id: ackId, data });
    if (question !== undefined) {
      this.#asked.set(ackId, question);
      this.#questions.set(question, ackId);
    }
    return [`4${text}`, ...attachments.map((base64) => `b${base64}`)];
  }

  #acknowledgement({ message, args = [] }) {
    const ackId = this.#owed.get(message);
    if (ackId === undefined) return null;
    const { text, attachments } = encodePacket({ type: PacketType.ACK, namespace: this.#namespace, id: ackId, data: args });
    if (attachments.length > BINARY_VALUES_MAX) return null;
    return [`4${text}`, ...attachments.map((base64) => `b${base64}`)];
  }

  #refused(data) {
    const code = data?.data?.code;
    const message = String(data?.message ?? '');
    if (code === undefined && message === NAMESPACE_UNKNOWN) return { code: 4400, reason: `bad_request: ${message}` };
    return { code: REFUSALS.get(code) ?? 4503, reason: `${typeof code === 'string' ? code : 'unavailable'}: ${message}` };
  }

  #disconnected() {
    if (this.#evicted === null) return { code: 1000, reason: '' };
    return { code: evictionCode(this.#evicted), reason: this.#evicted };
  }

  #answered({ id, data }) {
    const question = this.#asked.get(id);
    if (question === undefined) return undefined;
    this.forget(question);
    if (!Array.isArray(data)) throw new SyntaxError('an ACK without its list');
    const [answer] = data;
    if (typeof answer?.ok !== 'boolean') return { message: { op: 'reply', id: question, ok: true, args: data } };
    const { id: message, ...rest } = answer;
    const reply = { op: 'reply', ...rest, id: question };
    return { message: message === undefined ? reply : { ...reply, message } };
  }

  #happened({ id, data }) {
    if (!Array.isArray(data) || !['string', 'number'].includes(typeof data[0])) throw new SyntaxError('an EVENT without a name');
    const [event, ...args] = data;
    if (event === 'evicted') {
      this.#evicted = String(args[0]?.reason);
      return { op: 'evicted', ...args[0], reason: this.#evicted };
    }
    if (event === 'offline_message_ack' && Number.isInteger(args[0]?.count)) return { op: 'offline_end', ...args[0] };
    if (event === 'offline_message' && typeof args[0]?.id === 'string') {
      if (id !== undefined) this.#owe(args[0].id, id);
      return { op: 'offline', ...args[0] };
    }
    const message = { op: 'event', event, args };
    if (args.length === 2 && isMeta(args[1])) {
      message.meta = args[1];
      message.args = [args[0]];
    }
    if (id !== undefined) {
      message.message = message.meta?.id ?? id;
      this.#owe(message.message, id);
    }
    return message;
  }

  #owe(message, ackId) {
    this.#owed.set(message, ackId);
    if (this.#owed.size > OWED_MAX) this.#owed.delete(this.#owed.keys().next().value);
  }
}
