// Answers with the client's address and its own; "/stop" closes the listener and goes on living.
import http from "node:http";

const server = http.createServer((request, response) => {
  const { remoteAddress, remotePort, localAddress, localPort } = request.socket;
  response.setHeader("Connection", "close");
  response.end(`client=${remoteAddress}:${remotePort} own=${localAddress}:${localPort}`);
  if (request.url === "/stop") server.close();
});
server.listen(Number(process.argv[2]), () => console.log("bound", server.address().address, server.address().port));
setTimeout(() => process.exit(0), 120_000);
