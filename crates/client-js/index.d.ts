/** A value on its way out. Bytes may be anywhere in it; what has `toJSON`, such as a Date, travels as what that gives. */
export type Value = unknown;

/** Who published it: the publication's id, the room if there is one, the user, the node, and when, in Unix milliseconds. */
export interface Meta {
  id: string;
  room?: string;
  from: string | null;
  node: string;
  ts: number;
}

/** Somebody emitted, published or sent. `message` is there if it is to be acknowledged. */
export interface EventMessage {
  op: 'event';
  event: string | number;
  args: any[];
  meta?: Meta;
  message?: string | number;
}

/** A durable message that waited. `sent_at` is in Unix milliseconds. */
export interface OfflineMessage {
  op: 'offline';
  id: string;
  from: string | null;
  event: string;
  data: any;
  sent_at: number;
}

/** All that waited has come: so many. */
export interface OfflineEndMessage {
  op: 'offline_end';
  count: number;
}

/**
 * The session lost its place. The connection ends, and the client does not come back, unless its token has `expired` and
 * `auth` is a function, which then gives another one.
 */
export interface EvictedMessage {
  op: 'evicted';
  reason: 'replaced' | 'kicked' | 'expired' | (string & {});
  by?: { device?: string; node?: string; ts?: number };
}

/** What the server sends by itself. Bytes are a Uint8Array, wherever they are. */
export type Message = EventMessage | OfflineMessage | OfflineEndMessage | EvictedMessage;

/** Why a client gave up for good. */
export declare const Fail: Readonly<{
  /** There is no WebSocket here, and nothing to fall back on. */
  UNSUPPORTED: 1;
  /** No connection: at once where reconnecting is not allowed, after the last try where it is. */
  UNREACHABLE: 2;
  /** Authentication was refused, or has expired since and could not be had anew. The error's code tells them apart. */
  REFUSED: 3;
  /** Nothing came from the server in time, and reconnecting is not allowed. */
  HEARTBEAT: 4;
  /** Closed by the server, which one must not come back from; or lost where reconnecting is not allowed. */
  CLOSED: 5;
  /** What the server sent is no message of the protocol, or it said so of ours. */
  UNEXPECTED: 1000;
}>;

export type FailCode = (typeof Fail)[keyof typeof Fail];

export interface Failure {
  code: FailCode;
  /** For people. */
  message: string;
  /** What is known of the cause: a SocketError with the server's code, or what the platform threw. */
  error?: Error;
  /** Of the WebSocket; over long-polling the one that the plain protocol has for the same. */
  closeCode?: number;
}

/** What a request rejects with. */
export declare class SocketError extends Error {
  constructor(code: string, message: string, options?: { fail?: FailCode; cause?: unknown });
  readonly name: 'SocketError';
  /** The server's, or one of the client's own: `closed`, `timeout`, `queue_full`, `too_large`, `unavailable`, `bad_request`. */
  readonly code: string;
  /** Set if the client gave up. */
  readonly fail?: FailCode;
}

export type Transport = 'websocket' | 'polling';

export type Status = 'connecting' | 'connected' | 'waiting' | 'closed';

export interface Connected {
  session: string;
  /** Null for a client without one, and over long-polling, where the server does not say. */
  user: string | null;
  /** Null over long-polling, where the server does not say. */
  node: string | null;
  /** Whoever is heard of that often is never taken for dead by the server, in milliseconds. */
  heartbeat_ms: number | null;
  transport: Transport;
  /** Whether it was connected before. */
  reconnected: boolean;
}

export interface Waiting {
  /** The number of the try that comes, counted from 1. */
  attempt: number;
  /** Until then, in milliseconds; null while the browser says that there is no network. */
  delayMs: number | null;
  /** Why the last connection ended, for people. */
  reason: string;
}

/** What was had before a reconnection and was refused after it. */
export type Lost = { op: 'join'; room: string; error: SocketError } | { op: 'online'; error: SocketError };

export interface Reconnect {
  /**
   * Tries after a connection that was lost or not made. From 0 to Infinity; counted anew once a connection has lasted
   * `delayMaxMs`, and 5 seconds at least.
   */
  attempts: number;
  /** Before the first try, in milliseconds; doubled before each further one. From 0 to 2147483647. */
  delayMs: number;
  /** The longest, in milliseconds. From delayMs to 2147483647; left out, it is delayMs if that is longer than the default. */
  delayMaxMs: number;
  /** The part of the delay, 0 to 1, by which it is made longer or shorter at random. */
  jitter: number;
}

export interface Options {
  /** Called each time it is connected. */
  success?(connected: Connected): void;
  /** Called at most once, when the client has given up for good; never after one's own `close`. */
  fail?(failure: Failure): void;
  /**
   * Called with each message of the server. `acknowledge` is for an event with `message` and for an offline message, and
   * gives true once it was sent. It gives false, and does nothing, if no acknowledgement is due, or no longer; and if none
   * can be sent, for want of a connection or because it is too large: then it may be called again.
   */
  onMessage?(message: Message, acknowledge: (...args: Value[]) => boolean): void;
  /** `detail` is a Waiting with `waiting`, and with `closed` the Failure unless one closed it oneself. */
  onStatus?(status: Status, detail?: Waiting | Failure): void;
  /** Called when a room, or `online`, could not be restored after a reconnection. */
  onLost?(lost: Lost): void;
  /**
   * What `connect` says, or a function that gives it before each connection, so that a token can be fresh. With a function
   * the client comes back at once when its token has expired. A reconnection adds `resumes` to it, the session that was lost.
   */
  auth?: object | null | (() => object | null | undefined | Promise<object | null | undefined>);
  /** Default: `/`. */
  namespace?: string;
  /** Default: true. */
  allowReconnect?: boolean;
  /** What is left out is taken from Socket.RECONNECT_DEFAULT. */
  reconnect?: Partial<Reconnect>;
  /** How often the server is asked for a sign of life, in milliseconds. Default: 30000. */
  heartbeatMs?: number;
  /**
   * Anything that comes within so many milliseconds is one. Default: 10000. Over a WebSocket that is no part of a message:
   * it must be longer than the largest one takes.
   */
  heartbeatTimeoutMs?: number;
  /** For `auth`, the opening and `connected` together, in milliseconds. Default: 10000. */
  connectTimeoutMs?: number;
  /** Default: websocket. */
  transport?: Transport;
  /**
   * Whether to go over to long-polling if the first connection cannot be made: true (the default) only where
   * reconnecting is not allowed, 'always' also where it is. A further try begins with a WebSocket again.
   */
  fallback?: boolean | 'always';
  /** Default: /socket.io/, on the same host. */
  pollingPath?: string;
  /** Most requests without an answer; more are rejected with `queue_full`. Default: 1000. */
  queueMax?: number;
  /** Most bytes of them, as JSON. Default: 4 MiB. */
  queueBytesMax?: number;
  /**
   * Most bytes of one, as JSON: the server's `engine.payload_bytes_max`. Larger ones are rejected with `too_large`, since
   * the server would end the connection. Default: 1000000.
   */
  payloadBytesMax?: number;
  /** Default: globalThis.WebSocket. */
  WebSocket?: new (url: string, protocols?: string[]) => any;
  /** Default: globalThis.fetch. */
  fetch?: (input: string, init?: any) => Promise<any>;
}

/** The answer to a request. */
export interface Reply {
  ok: true;
  /** The id of the publication or message. */
  message?: string;
  [field: string]: any;
}

export interface SendReply extends Reply {
  message: string;
  status: 'live' | 'stored' | 'duplicate';
}

export interface PresenceReply extends Reply {
  users: { user: string; devices: string[] }[];
}

export interface PublishOptions {
  /** Default: `message`. */
  event?: string;
  /** Whether it comes back to oneself. Default: false. */
  echo?: boolean;
  /** Whether it may be left out for receivers that cannot keep up. Default: false. */
  volatile?: boolean;
}

export declare class Socket {
  /** Three tries, a second apart. */
  static readonly RECONNECT_DEFAULT: Readonly<Reconnect>;
  /** Five tries, 1 to 5 seconds apart, give or take a half. */
  static readonly RECONNECT_PATIENT: Readonly<Reconnect>;

  /**
   * Connects at once. `path` is a URL (ws, wss, http or https), as a string or as an object, or a path relative to
   * the page; without a path it means `/ws`. Throws TypeError or RangeError for an address or options that cannot be.
   */
  constructor(path: string | { readonly href: string }, options?: Options);

  readonly status: Status;
  /** The id of the session, of the latest while there is none; null before the first. */
  readonly session: string | null;
  readonly user: string | null;
  readonly node: string | null;
  readonly transport: Transport;
  /** How many requests are not answered. */
  readonly pending: number;

  join(room: string): Promise<Reply>;
  leave(room: string): Promise<Reply>;
  publish(room: string, data?: Value, options?: PublishOptions): Promise<Reply>;
  broadcast(data?: Value, options?: PublishOptions): Promise<Reply>;
  /**
   * A durable message. Its `id` is what a repetition is recognised by; a fresh one if it is left out. What is refused as
   * `rate_limited` is repeated for up to two minutes, and further ones wait behind it.
   */
  send(to: string, data?: Value, options?: { event?: string; id?: string }): Promise<SendReply>;
  /** Ready for durable messages. Said again after each reconnection. */
  online(options?: { ack?: 'each' | 'none' }): Promise<Reply>;
  presence(question: { room: string } | { users: string[] }): Promise<PresenceReply>;
  /**
   * Answered when all that was acknowledged before on this connection is settled; `ts` is in Unix milliseconds. Rejects
   * with `unavailable` if the connection is lost first: what was acknowledged on it may have been lost, and comes again.
   */
  heartbeat(): Promise<Reply & { ts: number }>;
  /** For the application's backend. */
  emit(event: string, ...args: Value[]): Promise<Reply>;
  /**
   * Any operation by its name. Without `timeoutMs` (1 to 2147483647) it waits until it is answered or the client closed.
   */
  request(op: string, fields?: Record<string, Value>, options?: { timeoutMs?: number }): Promise<Reply>;
  /**
   * Acknowledges what came with that `message`, or the offline message of that id. False if that cannot be sent: there is no
   * connection, it is too large, or, over long-polling, the message did not come on this connection.
   */
  acknowledge(message: string | number, ...args: Value[]): boolean;
  /** For good. */
  close(): void;
}
