// What the application asked for, checked, with everything that it left out.

/** A little under 25 days: timers of browsers and Node hold no more. */
export const DELAY_MS_MAX = 2 ** 31 - 1;

/** Three tries, a second apart. */
export const RECONNECT_DEFAULT = Object.freeze({ attempts: 3, delayMs: 1_000, delayMaxMs: 1_000, jitter: 0 });

/** Five tries, further and further apart, and not all clients at the same moment. */
export const RECONNECT_PATIENT = Object.freeze({ attempts: 5, delayMs: 1_000, delayMaxMs: 5_000, jitter: 0.5 });

const TRANSPORTS = ['websocket', 'polling'];

const FALLBACKS = [true, false, 'always'];

const CALLBACKS = ['success', 'fail', 'onMessage', 'onStatus', 'onLost'];

function numberIn(name, value, least, most) {
  if (typeof value !== 'number' || !(value >= least && value <= most)) throw new RangeError(`${name} is a number from ${least} to ${most}`);
  return value;
}

function wholeIn(name, value, least, most) {
  if (!Number.isInteger(value) && value !== Infinity) throw new RangeError(`${name} is a whole number`);
  return numberIn(name, value, least, most);
}

function oneOf(name, value, choices) {
  if (!choices.includes(value)) throw new TypeError(`${name} is one of ${choices.join(', ')}`);
  return value;
}

function reconnectOf({
  attempts = RECONNECT_DEFAULT.attempts,
  delayMs = RECONNECT_DEFAULT.delayMs,
  delayMaxMs = Math.max(delayMs, RECONNECT_DEFAULT.delayMaxMs),
  jitter = RECONNECT_DEFAULT.jitter,
} = {}) {
  wholeIn('reconnect.attempts', attempts, 0, Infinity);
  numberIn('reconnect.delayMs', delayMs, 0, DELAY_MS_MAX);
  numberIn('reconnect.delayMaxMs', delayMaxMs, delayMs, DELAY_MS_MAX);
  numberIn('reconnect.jitter', jitter, 0, 1);
  return { attempts, delayMs, delayMaxMs, jitter };
}

/** The addresses of both transports: `{ url, pollingUrl }`. */
function addressesOf(path, pollingPath, base) {
  let url;
  try {
    url = new URL(path?.href ?? path, base);
  } catch (cause) {
    throw new TypeError(`no address: ${path}${base === undefined ? ' (there is no page that it could be relative to)' : ''}`, { cause });
  }
  const scheme = { 'http:': 'ws:', 'https:': 'wss:', 'ws:': 'ws:', 'wss:': 'wss:' }[url.protocol];
  if (scheme === undefined) throw new TypeError(`neither ws, wss, http nor https: ${url.href}`);
  url.protocol = scheme;
  if (url.pathname === '/') url.pathname = '/ws';
  // A fragment is not allowed in the address of a WebSocket.
  url.hash = '';
  const polling = new URL(url);
  polling.protocol = scheme === 'wss:' ? 'https:' : 'http:';
  return { url: url.href, pollingUrl: new URL(pollingPath, polling).href };
}

/** Throws TypeError or RangeError for what no client could be made of. */
export function settingsOf(path, options, base) {
  const {
    auth,
    namespace = '/',
    reconnect,
    allowReconnect = true,
    heartbeatMs = 30_000,
    heartbeatTimeoutMs = 10_000,
    connectTimeoutMs = 10_000,
    transport = 'websocket',
    fallback = true,
    pollingPath = '/socket.io/',
    queueMax = 1_000,
    queueBytesMax = 4 * 1_024 * 1_024,
    payloadBytesMax = 1_000_000,
  } = options;
  for (const name of CALLBACKS) {
    if (!['function', 'undefined'].includes(typeof options[name])) throw new TypeError(`${name} is a function`);
  }
  if (typeof namespace !== 'string' || namespace[0] !== '/') throw new TypeError('namespace begins with a slash');
  const settings = {
    ...addressesOf(path, pollingPath, base),
    auth: typeof auth === 'function' ? auth : () => auth,
    /** Whether a token that has expired may be followed by another one. */
    isAuthFresh: typeof auth === 'function',
    namespace,
    reconnect: reconnectOf(reconnect ?? undefined),
    heartbeatMs: numberIn('heartbeatMs', heartbeatMs, 1, DELAY_MS_MAX),
    heartbeatTimeoutMs: numberIn('heartbeatTimeoutMs', heartbeatTimeoutMs, 1, DELAY_MS_MAX),
    connectTimeoutMs: numberIn('connectTimeoutMs', connectTimeoutMs, 1, DELAY_MS_MAX),
    transport: oneOf('transport', transport, TRANSPORTS),
    queueMax: wholeIn('queueMax', queueMax, 1, Number.MAX_SAFE_INTEGER),
    queueBytesMax: wholeIn('queueBytesMax', queueBytesMax, 1, Number.MAX_SAFE_INTEGER),
    payloadBytesMax: wholeIn('payloadBytesMax', payloadBytesMax, 1, Number.MAX_SAFE_INTEGER),
    WebSocket: options.WebSocket ?? globalThis.WebSocket,
    // Called without its window, fetch throws in browsers.
    fetch: options.fetch ?? globalThis.fetch?.bind(globalThis),
  };
  settings.mayReconnect = Boolean(allowReconnect) && settings.reconnect.attempts > 0;
  settings.mayFallBack = oneOf('fallback', fallback, FALLBACKS) === 'always' || (fallback && !settings.mayReconnect);
  return settings;
}
