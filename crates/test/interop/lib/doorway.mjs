// A TCP forwarder, standing in for a load balancer: clients keep one address while the node behind it changes.

import net from 'node:net';

export async function openDoorway(stage, target) {
  const links = new Set();
  const doorway = { target, isCut: false };
  const server = net.createServer((near) => {
    if (doorway.isCut) {
      near.destroy();
      return;
    }
    const far = net.connect(doorway.target, '127.0.0.1');
    for (const [socket, other] of [[near, far], [far, near]]) {
      links.add(socket);
      // What was read before the end still reaches the other side, as through any proxy; only a failure cuts it off.
      socket.on('error', () => other.destroy());
      socket.on('close', () => {
        links.delete(socket);
        other.end();
      });
      socket.pipe(other);
    }
  });
  await new Promise((resolve) => server.listen(0, '127.0.0.1', resolve));
  stage.defer(() => {
    for (const link of links) link.destroy();
    return new Promise((resolve) => server.close(resolve));
  });
  /** Nothing goes through any more, and neither side is told; until `heal`, nobody else gets in. */
  doorway.cut = () => {
    doorway.isCut = true;
    for (const link of links) link.unpipe();
  };
  doorway.heal = () => (doorway.isCut = false);
  doorway.url = `http://127.0.0.1:${server.address().port}`;
  return doorway;
}
