// A stock Socket.IO server with the two events of Tidegate that the load scenarios use, so that the same tool
// measures both: `join` and `publish`, with the same acknowledgements and the same `meta` behind the data.
//
// node server.mjs PORT

import { randomBytes } from "node:crypto";
import { createServer } from "node:http";
import { Server } from "socket.io";

const port = Number(process.argv[2]);
if (!Number.isInteger(port) || port < 1 || port > 65535) {
  console.error("usage: node server.mjs PORT");
  process.exit(64);
}

const http = createServer();
const io = new Server(http, { serveClient: false });
const node = randomBytes(6).toString("base64url");
let published = 0;

io.on("connection", (socket) => {
  const user = socket.handshake.auth.user ?? null;

  socket.on("join", (room, acknowledge) => {
    socket.join(typeof room === "string" ? room : room.room);
    acknowledge?.({ ok: true });
  });

  socket.on("publish", ({ room, event = "message", data }, acknowledge) => {
    const id = `${node}-${published++}`;
    // To the room without the sender, as Tidegate publishes unless asked to echo.
    socket.to(room).emit(event, data, { id, room, from: user, node, ts: Date.now() });
    acknowledge?.({ ok: true, id });
  });
});

const stop = () => {
  io.disconnectSockets(true);
  io.close(() => process.exit(0));
  setTimeout(() => process.exit(0), 1000).unref();
};
process.on("SIGTERM", stop);
process.on("SIGINT", stop);

http.listen(port, "127.0.0.1", () => console.log(`ready on ${port}`));
