// How a client ends, and how a request does.

/** Why a client gave up for good: `code` of what the option `fail` is called with. */
export const Fail = Object.freeze({
  /** There is no WebSocket here, and nothing to fall back on. */
  UNSUPPORTED: 1,
  /** No connection: at once where reconnecting is not allowed, after the last try where it is. */
  UNREACHABLE: 2,
  /** Authentication was refused, or has expired since and could not be had anew. */
  REFUSED: 3,
  /** Nothing came from the server in time. */
  HEARTBEAT: 4,
  /** Closed by the server, which one must not come back from; or lost where reconnecting is not allowed. */
  CLOSED: 5,
  /** What the server sent is no message of the protocol, or it said so of ours. */
  UNEXPECTED: 1000,
});

/** What a request rejects with. */
export class SocketError extends Error {
  /**
   * `code` is the server's, or one of `closed`, `timeout`, `queue_full`, `too_large`, `unavailable` and `bad_request`.
   * `fail` is one of `Fail`, if the client has given up.
   */
  constructor(code, message, { fail, cause } = {}) {
    super(message, cause === undefined ? undefined : { cause });
    this.name = 'SocketError';
    this.code = code;
    if (fail !== undefined) this.fail = fail;
  }
}
