// Web servers for tests: a folder as it stands, and a proxy that knows no WebSocket, as there are in many a building.

import http from 'node:http';
import { readFile } from 'node:fs/promises';
import { extname, join, normalize } from 'node:path';

const TYPES = { '.html': 'text/html; charset=utf-8', '.js': 'text/javascript', '.mjs': 'text/javascript' };

function listen(stage, server) {
  stage.defer(() => {
    server.closeAllConnections();
    return new Promise((resolve) => server.close(resolve));
  });
  return new Promise((resolve) => server.listen(0, '127.0.0.1', () => resolve(`http://127.0.0.1:${server.address().port}`)));
}

/** Serves files by their path: `{ '/page.html': text, '/client/': folder }`. */
export function serveSite(stage, routes) {
  const find = async (path) => {
    if (typeof routes[path] === 'string' && !path.endsWith('/')) return routes[path];
    const prefix = Object.keys(routes).find((route) => route.endsWith('/') && path.startsWith(route));
    return prefix && readFile(join(routes[prefix], normalize(path.slice(prefix.length))));
  };
  const server = http.createServer(async (request, response) => {
    const { pathname } = new URL(request.url, 'http://site');
    const body = await find(pathname).catch(() => undefined);
    response.writeHead(body === undefined ? 404 : 200, { 'content-type': TYPES[extname(pathname)] ?? 'text/plain' });
    response.end(body);
  });
  return listen(stage, server);
}

/** Passes requests on to `target`, and hangs up on whoever asks for an upgrade. */
export function serveOldProxy(stage, target) {
  const server = http.createServer((request, response) => {
    const { method, headers, url } = request;
    const passed = http.request(`${target}${url}`, { method, headers, agent: false }, (answer) => {
      response.writeHead(answer.statusCode, answer.headers);
      answer.pipe(response);
    });
    passed.on('error', () => response.destroy());
    response.on('close', () => passed.destroy());
    request.pipe(passed);
  });
  server.on('upgrade', (request, socket) => socket.destroy());
  return listen(stage, server);
}
