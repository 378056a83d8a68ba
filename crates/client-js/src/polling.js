// The same messages over HTTP long-polling: Engine.IO 4 and Socket.IO 5 on the network, the plain protocol towards us.

import { bytesIn } from './binary.js';
import { Envelope } from './envelope.js';

const SEPARATOR = '\x1e';

/** The packet that ends an Engine.IO connection. */
const CLOSE = '1';

/** The status of the answer to whoever names a session that has ended. */
const SESSION_UNKNOWN = 400;

/** For the farewell, in milliseconds; nobody waits for it. */
const FAREWELL_WITHIN_MS = 1_000;

/** What a server takes in one request if it does not say, in bytes. */
const PAYLOAD_BYTES_MAX = 1_000_000;

function lost(reason, error) {
  return { code: 1006, reason, error, local: true };
}

/** Behaves as `PlainTransport` does. Close codes are those that the plain protocol has for the same. */
export class PollingTransport {
  #url;
  #fetch;
  #events;
  #envelope;
  #abort = new AbortController();
  #sid;
  #payloadMax = PAYLOAD_BYTES_MAX;
  #outgoing = [];
  #outgoingBytes = 0;
  #isPosting = false;
  /** Settles when the handshake has. */
  #shaken;
  /** Resolves when no request that brings something is under way. */
  #posted = Promise.resolve();
  #serial = 0;

  constructor({ url, fetch }, events) {
    this.#url = url;
    this.#fetch = fetch;
    this.#events = events;
    this.#envelope = new Envelope();
    this.#shaken = this.#greet();
    this.#run();
  }

  get buffered() {
    return this.#outgoingBytes;
  }

  /** Sends a message, encoded. False if it cannot be sent. */
  send(text) {
    if (this.#events === null) return false;
    const { id, packets, refused, settles } = this.#envelope.seal(text);
    if (packets === null) return this.#refuse(id, refused);
    const payload = packets.join(SEPARATOR);
    const bytes = bytesIn(payload);
    if (bytes > this.#payloadMax) {
      // The server would end the session, and again at every repetition.
      this.#envelope.forget(id);
      return this.#refuse(id, { code: 'too_large', message: `more than ${this.#payloadMax} bytes` });
    }
    this.#envelope.settled(settles);
    this.#push(payload, bytes);
    return true;
  }

  /** The server pings by itself, but it does not answer pings: a heartbeat it does answer. */
  ping() {
    if (this.#events !== null) this.#push(this.#envelope.ping());
  }

  forget(id) {
    this.#envelope.forget(id);
  }

  /** Ends it without a word to `events`: politely, or at once where it may be that the other side is not there. */
  close({ polite = false } = {}) {
    if (this.#events === null) return;
    this.#fallSilent();
    if (polite && this.#sid !== undefined) this.#leave(this.#envelope.farewell());
    else this.#leave([CLOSE], { isLost: true });
  }

  #fallSilent() {
    this.#events = null;
    this.#outgoing = [];
    this.#outgoingBytes = 0;
  }

  /** Answers the question with that id, if it is one, in the server's place. */
  #refuse(id, error) {
    if (id !== undefined && error !== undefined) queueMicrotask(() => this.#events?.message({ op: 'reply', id, ok: false, error }));
    return false;
  }

  #address() {
    const url = new URL(this.#url);
    url.searchParams.set('EIO', '4');
    url.searchParams.set('transport', 'polling');
    // Some caches take no notice of no-store.
    url.searchParams.set('t', `${Date.now().toString(36)}.${(this.#serial += 1).toString(36)}`);
    if (this.#sid !== undefined) url.searchParams.set('sid', this.#sid);
    return url.href;
  }

  /** The body of the answer. Throws what ends the connection. */
  async #request(options) {
    let response;
    let body;
    try {
      response = await this.#fetch(this.#address(), { cache: 'no-store', signal: this.#abort.signal, ...options });
      // That a server takes what it is sent is no answer yet.
      body = await (options === undefined ? this.#listen(response) : response.text());
    } catch (error) {
      throw lost('the network failed', error);
    }
    if (response.status === 200) return body;
    const error = new Error(`HTTP ${response.status}: ${body.slice(0, 200)}`);
    throw { ...lost(`answered ${response.status}`, error), isOver: response.status === SESSION_UNKNOWN };
  }

  /** The body of an answer, of which every piece is heard: all of it may take longer than a heartbeat. */
  async #listen(response) {
    const reader = response.body?.getReader?.();
    if (reader === undefined) return response.text();
    const decoder = new TextDecoder();
    let text = '';
    for (;;) {
      const { done, value } = await reader.read();
      if (done) return text + decoder.decode();
      this.#events?.heard();
      text += decoder.decode(value, { stream: true });
    }
  }

  async #greet() {
    // Nothing may happen while the constructor runs.
    await null;
    if (this.#events === null) return;
    const body = await this.#request();
    this.#shake(body.split(SEPARATOR)[0]);
  }

  async #run() {
    try {
      await this.#shaken;
      this.#events?.open();
      while (this.#events !== null) this.#receive(await this.#request());
    } catch (end) {
      this.#end(end);
    }
  }

  #shake(packet) {
    try {
      const { sid, maxPayload, pingInterval } = JSON.parse(packet.replace(/^0/, ''));
      if (packet[0] !== '0' || typeof sid !== 'string') throw new SyntaxError('not an Engine.IO handshake');
      this.#sid = sid;
      if (Number.isInteger(maxPayload) && maxPayload > 0) this.#payloadMax = maxPayload;
      this.#envelope.heartbeatMs = pingInterval;
    } catch (error) {
      throw { code: 1002, reason: 'not a message of the protocol', error, local: true };
    }
  }

  #receive(body) {
    if (this.#events === null) return;
    this.#events.heard();
    for (const packet of body.split(SEPARATOR)) {
      if (this.#events === null) return;
      if (packet === '2') this.#push('3');
      else if (packet === CLOSE) throw { ...lost('the server closed the connection'), isOver: true };
      else if (packet !== '6') this.#take(packet);
    }
  }

  #take(packet) {
    let opened;
    try {
      opened = this.#envelope.open(packet);
    } catch (error) {
      throw { code: 1002, reason: 'not a message of the protocol', error, local: true };
    }
    if (opened?.closed !== undefined) throw opened.closed;
    if (opened?.message !== undefined) this.#events?.message(opened.message);
  }

  #push(payload, bytes = payload.length) {
    this.#outgoing.push({ payload, bytes });
    this.#outgoingBytes += bytes;
    if (!this.#isPosting) this.#posted = this.#post();
  }

  /** One request at a time, each with as much as it may hold. */
  async #post() {
    this.#isPosting = true;
    try {
      // What is said in one go travels in one request.
      await null;
      while (this.#outgoing.length > 0) {
        let count = 0;
        let bytes = 0;
        while (count < this.#outgoing.length && (count === 0 || bytes + this.#outgoing[count].bytes < this.#payloadMax)) {
          bytes += this.#outgoing[count].bytes + 1;
          count += 1;
        }
        const batch = this.#outgoing.splice(0, count);
        await this.#request({ method: 'POST', body: batch.map(({ payload }) => payload).join(SEPARATOR) });
        for (const each of batch) this.#outgoingBytes -= each.bytes;
      }
      this.#isPosting = false;
    } catch (end) {
      this.#end(end);
    }
  }

  /**
   * Says goodbye behind the request that is under way, and lets go of the rest after it: a server that is hung up on while
   * it holds a poll takes the client for lost, and has never heard of it when the goodbye arrives. Where it is lost nobody
   * knows what will come of that request, and it is not waited for.
   */
  async #leave(packets, { isLost = false } = {}) {
    const abort = () => this.#abort.abort();
    try {
      const limit = AbortSignal.timeout(FAREWELL_WITHIN_MS);
      limit.addEventListener('abort', abort);
      // The server may have opened a session that we have not heard of yet.
      await this.#shaken;
      if (!isLost) await this.#posted;
      if (this.#sid !== undefined) await this.#say(packets);
    } catch {
      // The server finds out by itself.
    }
    abort();
  }

  async #say(packets) {
    const { signal } = this.#abort;
    const response = await this.#fetch(this.#address(), { method: 'POST', body: packets.join(SEPARATOR), keepalive: true, signal });
    await response.text();
  }

  /** `isOver` says that the server knows no session of ours any more, which would otherwise be waited for. */
  #end({ isOver = false, ...end }) {
    const events = this.#events;
    if (events === null) return;
    this.#fallSilent();
    if (this.#sid !== undefined && !isOver) this.#leave([CLOSE], { isLost: end.code === 1006 });
    else this.#abort.abort();
    events.closed(end);
  }
}
