// A stock Socket.IO server with the events of Tidegate that the load scenarios use, so that the same tool measures
// both: `join`, `publish` and `heartbeat`, with the same acknowledgements and the same `meta` behind the data.
//
// node server.mjs PORT [--redis URL]
//
// With --redis it meets others of its kind by @socket.io/redis-adapter.

import { randomBytes } from "node:crypto";
import { createServer } from "node:http";
import { Server } from "socket.io";

const [portText, option, redisUrl, ...rest] = process.argv.slice(2);
const port = Number(portText);
const isRedisNamed = option === "--redis" && redisUrl !== undefined;
if (!Number.isInteger(port) || port < 1 || port > 65535 || (option !== undefined && !isRedisNamed) || rest.length) {
  console.error("usage: node server.mjs PORT [--redis URL]");
  process.exit(64);
}

const http = createServer();
const io = new Server(http, { serveClient: false });
const node = randomBytes(6).toString("base64url");
let published = 0;

const redisClients = [];
if (isRedisNamed) {
  const { createAdapter } = await import("@socket.io/redis-adapter");
  const { createClient } = await import("redis");
  const publisher = createClient({ url: redisUrl });
  redisClients.push(publisher, publisher.duplicate());
  for (const client of redisClients) client.on("error", (error) => console.error(`redis: ${error.message}`));
  await Promise.all(redisClients.map((client) => client.connect()));
  io.adapter(createAdapter(...redisClients));
}

io.on("connection", (socket) => {
  const user = socket.handshake.auth.user ?? null;

  socket.on("join", async (room, acknowledge) => {
    await socket.join(typeof room === "string" ? room : room.room);
    acknowledge?.({ ok: true });
  });

  socket.on("publish", ({ room, event = "message", data }, acknowledge) => {
    const id = `${node}-${published++}`;
    // To the room without the sender, as Tidegate publishes unless asked to echo.
    socket.to(room).emit(event, data, { id, room, from: user, node, ts: Date.now() });
    acknowledge?.({ ok: true, id });
  });

  // With an argument or without.
  socket.on("heartbeat", (...args) => {
    const acknowledge = args.at(-1);
    if (typeof acknowledge === "function") acknowledge({ ok: true });
  });
});

const stop = () => {
  setTimeout(() => process.exit(0), 1000).unref();
  io.disconnectSockets(true);
  io.close(async () => {
    await Promise.allSettled(redisClients.map((client) => client.close()));
    process.exit(0);
  });
};
process.once("SIGTERM", stop);
process.once("SIGINT", stop);

http.listen(port, "127.0.0.1", () => console.log(`ready on ${port}`));
